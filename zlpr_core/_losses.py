r"""ZLPR: the loss, its two halves, its score gradient, its curvature and its least value.

Every public function reads its arguments into the terms of the two halves and hands them to ``_reduce``. With
:math:`z = s - \theta` the halves are :math:`\log(1 + \sum_i a_i e^{-z_i})` and :math:`\log(1 + \sum_i b_i e^{z_i})`.
"""

from typing import Any, NamedTuple

from ._checks import class_axes
from ._indices import indicated
from ._namespace import compute_dtype, infer
from ._options import Options
from ._reduce import log1p_sum_exp, softmax_weight, spread_nan, sum_exp
from ._targets import soft_targets
from ._terms import Halves, halves_of, is_movable, keep
from ._typing import Array, ArrayT, Axis, Extended, Namespace


def zlpr(
    logits: ArrayT,
    targets: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Multi-label ZLPR loss, one value per example.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr) + \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    with :math:`a_i = w_i p_i t_i` and :math:`b_i = w_i (1 - t_i)` for weights :math:`w` and positive weights :math:`p`.

    None is the default of every option.

    Parameters
    ----------
    logits : array, shape (..., C)
        Raw logits :math:`s` (no sigmoid) in any real floating dtype. Half precision computes in and returns float32,
        what is wider than float64 (NumPy's longdouble) float64. -inf on a negative and +inf on a positive contribute
        nothing; the other way round the loss is +inf.
    targets : array, the shape of ``logits``
        bool or integer: hard labels, 0 or 1. Floating: soft labels in [0, 1], where 8 eps of their dtype beyond
        either end count as 0 or 1. Anything else, or NaN, makes the loss of that example NaN.
    axis : int or tuple of ints
        The class axes; they are summed away.
    where : bool array, broadcastable to ``logits``, optional
        False takes the cell out of value and gradient, whatever it holds.
    weight, pos_weight : array or float, broadcastable to ``logits``, optional
        Non-negative weights of the classes (or cells), inside the logarithms; ``pos_weight`` concerns positives only.
        A negative, infinite or NaN weight makes the loss NaN.
    threshold : float or array, broadcastable to ``logits``
        :math:`\theta`, the logit above which a label is predicted (TLPR). It may be learned.
    xp : Namespace, optional
        Inferred from the arrays with array-api-compat when absent.

    Returns
    -------
    array, the shape of ``logits`` without the class axes
        Non-negative, in float32 (float64 for float64 logits). An example without a positive label, or with every cell
        taken out, is a valid one.

    Raises
    ------
    TypeError
        Logits that are not real floating, targets of another kind, a ``where`` that is not bool, an ``axis`` of
        another type.
    ValueError
        Shapes that differ or do not broadcast, an ``axis`` that does not exist, no class at all.

    References
    ----------
    Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Examples
    --------
    >>> zlpr(np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]])).round(4)
    array([0.9889])
    >>> zlpr(np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[0.9, 0.2, 0.5]])).round(4)
    array([1.7021])
    """
    positive, negative = zlpr_terms(
        logits, targets, axis=axis, where=where, weight=weight, pos_weight=pos_weight, threshold=threshold, xp=xp
    )
    loss: ArrayT = positive + negative
    return loss


def sparse_zlpr(
    logits: ArrayT,
    indices: Any,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    pad: int | None = -1,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""ZLPR of class ids: :func:`zlpr` of the rows that the ids stand for.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    Exact, because the positives are masked out of the second sum. The published form subtracts them from the sum of
    all, and trains backwards once a positive is above 16. The mask takes one byte a logit.

    Parameters
    ----------
    logits : array, shape (..., C)
        As in :func:`zlpr`.
    indices : integer array of shape (..., P), nested lists, or a sparse matrix of the shape of ``logits``
        Ids in [0, C), each row filled up with ``pad``; lists may differ in length; a matrix, of SciPy or PyData, holds
        1 at the positives.
        Order is irrelevant and duplicates count once.
    axis : int or tuple of ints
        The class axes. Of several, an id counts the cells in C order, as :func:`span_to_index` does.
    where, weight, pos_weight, threshold, xp
        As in :func:`zlpr`.
    pad : int
        The id that marks an unused slot.

    Returns
    -------
    array, the shape of ``logits`` without the class axes
        NaN for an example with an illegal id where ids cannot be looked at: while tracing, or on an accelerator.

    Raises
    ------
    IndexError
        An id is neither in range nor ``pad``.
    TypeError, ValueError
        As in :func:`zlpr`; ids that are not integers or not one row an example; a matrix that holds another number.

    References
    ----------
    J. Su, https://kexue.fm/archives/8888, 2022, for the task and the form by subtraction.

    Examples
    --------
    >>> logits = np.asarray([[2.0, -1.0, 0.0], [3.0, 1.0, -2.0]])
    >>> sparse_zlpr(logits, np.asarray([[0, -1], [0, 1]])).round(4)
    array([0.9889, 0.4759])
    >>> sparse_zlpr(logits, [[0], [1, 0]]).round(4)
    array([0.9889, 0.4759])
    """
    xp = infer(xp, logits=logits)
    targets = indicated(indices, logits, axis, pad, xp=xp)
    options: Any = {"weight": weight, "pos_weight": pos_weight, "threshold": threshold}
    return zlpr(logits, targets, axis=axis, where=where, **options, xp=xp)


def zlpr_terms(
    logits: ArrayT,
    targets: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""The two halves of ZLPR, which sum to it: what the positives cost and what the negatives cost.

    .. math::
        P = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr), \; N = \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    Parameters, errors and edges are those of :func:`zlpr`.

    Returns
    -------
    (array, array), each the shape of ``logits`` without the class axes
        Both non-negative; a half without labels is 0. Both NaN if either is.

    Examples
    --------
    >>> positive, negative = zlpr_terms(np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]]))
    >>> positive.round(4), negative.round(4)
    (array([0.1269]), array([0.862]))
    """
    halves, axes, _, xp = _read(logits, targets, axis, where, weight, pos_weight, threshold, xp)
    positive: ArrayT = log1p_sum_exp(halves.positive, axis=axes, xp=xp)
    negative: ArrayT = log1p_sum_exp(halves.negative, axis=axes, xp=xp)
    loss = positive + negative
    return spread_nan(positive, loss, xp=xp), spread_nan(negative, loss, xp=xp)


def zlpr_grad(
    logits: ArrayT,
    targets: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Derivative of :func:`zlpr` in the logits, in closed form.

    .. math::
        \frac{\partial L}{\partial s_i} = -a_i e^{-(s_i - \theta) - P} + b_i e^{s_i - \theta - N}

    Its entries lie in (-1, 1), and the sum of their magnitudes is below 2 for each example, however many classes there
    are. Parameters, errors and edges are those of :func:`zlpr`.

    Returns
    -------
    array, the shape and dtype of ``logits``
        0 where ``where`` is False and at infinite logits.

    Examples
    --------
    >>> zlpr_grad(np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]])).round(4)
    array([[-0.1192,  0.1554,  0.4223]])
    """
    options = Options(where, weight, pos_weight, threshold)
    positive, negative = terms_gradients(logits, targets, axis, options, xp=xp)
    grad: ArrayT = infer(xp, logits=logits, targets=targets).astype(negative + positive, logits.dtype)
    return grad


def terms_gradients(logits: Array, targets: Array, axis: Axis, options: Options, /, *, xp: Namespace | None) -> Halves:
    """Derivatives of the two of :func:`zlpr_terms` in the logits, in the dtype that computes."""
    read = _read(logits, targets, axis, options.where, options.weight, options.pos_weight, options.threshold, xp)
    sums = Halves(*(sum_exp(half, axis=read.axes, xp=read.xp) for half in read.halves))
    return slopes(read.halves, sums, read.movable, xp=read.xp)


def slopes(halves: Halves, sums: Halves, movable: Any, /, *, xp: Namespace) -> Halves:
    """Derivatives of the two halves in the logits; ``sums`` may be of more classes than ``halves``."""
    positive = softmax_weight(halves.positive, sums.positive, xp=xp)
    negative = softmax_weight(halves.negative, sums.negative, xp=xp)
    return Halves(xp.where(movable, -positive, 0.0), xp.where(movable, negative, 0.0))


def zlpr_hessian_diag(
    logits: ArrayT,
    targets: Array,
    /,
    *,
    axis: Axis = -1,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Diagonal of the Hessian of :func:`zlpr` in the logits, in closed form.

    .. math::
        \frac{\partial^2 L}{\partial s_i^2} = p_i (1 - p_i) + q_i (1 - q_i),
        \qquad p_i = a_i e^{-(s_i - \theta) - P}, \quad q_i = b_i e^{s_i - \theta - N}

    That is what boosting and other Newton methods ask for. Where one class has nearly all of its half,
    :math:`p_i (1 - p_i)` is right to the rounding of :math:`p_i`, not of the difference. Parameters, errors and edges
    are those of :func:`zlpr`.

    Returns
    -------
    array, the shape and dtype of ``logits``
        In [0, 1/2]; 0 where ``where`` is False and at infinite logits.

    Examples
    --------
    >>> zlpr_hessian_diag(np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]])).round(4)
    array([[0.105 , 0.1312, 0.244 ]])
    """
    read = _read(logits, targets, axis, where, weight, pos_weight, threshold, xp)
    positive, negative = _softmax_weights(read)
    curvature = positive * (1 - positive) + negative * (1 - negative)
    diagonal: ArrayT = read.xp.astype(read.xp.where(read.movable, curvature, 0.0), logits.dtype)
    return diagonal


def zlpr_entropy(
    targets: ArrayT, /, *, axis: Axis = -1, where: Array | None = None, xp: Namespace | None = None
) -> ArrayT:
    r"""The least value that soft ZLPR can take for these targets, one per example.

    .. math::
        H(t) = 2 \log\Bigl(1 + \sum_i \sqrt{t_i (1 - t_i)}\Bigr) \le L(s, t)

    It is reached at :math:`s = \tfrac12 \operatorname{logit}(t)` and nowhere else, so ``zlpr - zlpr_entropy`` is a
    regret: 0 exactly when the model says what the targets say. It is 0 for hard targets.

    Parameters
    ----------
    targets : array, shape (..., C)
        As in :func:`zlpr`.
    axis : int or tuple of ints
        The class axes; they are summed away.
    where : bool array, broadcastable to ``targets``, optional
        False takes the cell out.
    xp : Namespace, optional
        Inferred from ``targets`` when absent.

    Returns
    -------
    array, the shape of ``targets`` without the class axes
        float64 for float64 targets, else float32. NaN for an example with an illegal target. Its slope at targets of
        exactly 0 and 1 is infinite, which automatic differentiation gives as NaN.

    Examples
    --------
    >>> zlpr_entropy(np.asarray([[0.9, 0.2, 0.5], [1.0, 0.0, 0.0]])).round(4)
    array([1.5769, 0.    ])
    """
    xp = infer(xp, targets=targets)
    soft = soft_targets(targets, compute_dtype(targets.dtype, xp=xp), xp=xp)
    axes = class_axes(soft, axis, xp=xp)
    kept = Options.of(soft, where, None, None, None, xp=xp).where
    if kept is not None:  # not by 0, where the slope of the root is infinite: times a tangent of 0 it would be NaN
        soft = xp.where(kept, soft, 0.5)
    deviation = keep(xp.sqrt(soft * (1 - soft)), kept, xp=xp)
    entropy: ArrayT = 2 * xp.squeeze(xp.log1p(xp.sum(deviation, axis=axes, keepdims=True)), axis=axes)
    return entropy


class _Read(NamedTuple):
    """The arguments of a public function, read."""

    halves: Halves
    axes: tuple[int, ...]
    movable: Any
    xp: Extended


def _read(
    logits: Array,
    targets: Array,
    axis: Axis,
    where: Any,
    weight: Any,
    pos_weight: Any,
    threshold: Any,
    xp: Namespace | None,
) -> _Read:
    xp = infer(xp, logits=logits, targets=targets)
    options = Options.of(logits, where, weight, pos_weight, threshold, xp=xp)
    halves = halves_of(logits, targets, options, xp=xp)
    return _Read(halves, class_axes(logits, axis, xp=xp), is_movable(logits, options.where, xp=xp), xp)


def _softmax_weights(read: _Read) -> Halves:
    """How much of its half each logit holds."""
    positive, negative = read.halves
    return Halves(
        softmax_weight(positive, sum_exp(positive, axis=read.axes, xp=read.xp), xp=read.xp),
        softmax_weight(negative, sum_exp(negative, axis=read.axes, xp=read.xp), xp=read.xp),
    )
