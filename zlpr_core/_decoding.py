"""From logits to label sets and probabilities."""

from ._checks import check_floating, class_axes
from ._logistic import sigmoids
from ._namespace import compute_dtype, infer, largest
from ._options import Options, is_number
from ._typing import Array, ArrayT, Axis, Namespace


def predict(
    logits: ArrayT,
    /,
    *,
    threshold: Array | float | None = 0.0,
    at_least_one: bool | None = False,
    axis: Axis = -1,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Label set: class i belongs to it iff :math:`s_i > \theta`.

    Parameters
    ----------
    logits : array, shape (..., C)
        Raw logits, in any real floating dtype.
    threshold : float or array, broadcastable to ``logits``
        :math:`\theta`, the one that the loss was trained with.
    at_least_one : bool
        Where no class passes, take the best one (with its exact ties). A class at -inf is never taken, and none is
        beside a NaN.
    axis : int or tuple of ints
        The class axes, among which ``at_least_one`` looks for the best.
    xp : Namespace, optional
        Inferred from ``logits`` when absent.

    Returns
    -------
    bool array, the shape of ``logits``
        False at NaN.

    Raises
    ------
    TypeError, ValueError
        As in :func:`zlpr`.

    Examples
    --------
    >>> predict(np.asarray([[2.0, -1.0, 0.5], [-3.0, -1.0, -2.0]]), at_least_one=True)
    array([[ True, False,  True],
           [False,  True, False]])
    """
    xp = infer(xp, logits=logits)
    check_floating(logits, "logits", xp=xp)
    theta = Options.of(logits, None, None, None, threshold, xp=xp).threshold
    dtype = compute_dtype(logits.dtype, xp=xp)
    margin = xp.astype(logits, dtype) - (theta if is_number(theta) else xp.astype(theta, dtype))
    labels = margin > 0
    if at_least_one:
        best = xp.max(margin, axis=class_axes(logits, axis, xp=xp), keepdims=True)
        labels = labels | ((margin == best) & (best >= -largest(best.dtype, xp=xp)))
    chosen: ArrayT = labels
    return chosen


def probabilities(logits: ArrayT, /, *, scale: float | None = 2.0, xp: Namespace | None = None) -> ArrayT:
    r"""The probabilities that a model trained with soft ZLPR states: :math:`\sigma(\text{scale} \cdot s)`.

    Soft ZLPR is least at :math:`t = \sigma(2s)`, not :math:`\sigma(s)`. After training on hard labels neither is
    calibrated: there the best scale lies between 1 (one class) and 2 (many).

    Parameters
    ----------
    logits : array, any shape
        Raw logits, in any real floating dtype.
    scale : float
        2 for soft ZLPR; another one if you calibrated it.
    xp : Namespace, optional
        Inferred from ``logits`` when absent.

    Returns
    -------
    array, the shape of ``logits``
        In [0, 1]; float64 for float64 logits, else float32.

    Raises
    ------
    TypeError
        Logits that are not real floating.

    Examples
    --------
    >>> probabilities(np.asarray([0.0, 1.0986123, -1000.0])).round(4)
    array([0.5, 0.9, 0. ])
    """
    xp = infer(xp, logits=logits)
    check_floating(logits, "logits", xp=xp)
    scaled = xp.astype(logits, compute_dtype(logits.dtype, xp=xp)) * (2.0 if scale is None else scale)
    probability: ArrayT = sigmoids(scaled, xp=xp)[0]
    return probability
