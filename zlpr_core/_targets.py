"""Targets: reading them without a silent wrong answer, and making them."""

from math import nan
from typing import Any, Literal

from ._checks import check_fraction, check_pair, name, unravel
from ._namespace import compute_dtype, infer
from ._options import Options
from ._typing import Array, ArrayT, Extended, Namespace


def read_targets(targets: Array, dtype: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``(targets, legal)``: hard targets as bool, soft ones in ``dtype`` and in [0, 1], and which of them were legal.

    ``legal`` is None for bool targets, which cannot be wrong.
    """
    if xp.isdtype(targets.dtype, "bool"):
        return targets, None
    if xp.isdtype(targets.dtype, "integral"):
        return targets == 1, (targets == 0) | (targets == 1)
    slack = 8 * float(xp.finfo(targets.dtype).eps)  # mixup rounds λ + (1 - λ) to a little more than 1
    legal = (targets >= -slack) & (targets <= 1 + slack)  # in the targets' own dtype; false for NaN
    soft = xp.astype(targets, dtype)
    # Two `where`, because the slope of a clip at exactly 0 and 1 differs between frameworks.
    soft = xp.where(soft < 0, 0.0, soft)
    return xp.where(soft > 1, 1.0, soft), legal


def soft_targets(targets: Array, dtype: Any, /, *, xp: Namespace) -> Any:
    """Targets as floating numbers in [0, 1]; an illegal one is NaN."""
    soft, legal = read_targets(targets, dtype, xp=xp)
    soft = xp.astype(soft, dtype)
    return soft if legal is None else xp.where(legal, soft, nan)


def smooth_labels(
    targets: ArrayT,
    epsilon: float,
    /,
    *,
    mode: Literal["symmetric", "positive"] | None = "symmetric",
    xp: Namespace | None = None,
) -> ArrayT:
    r"""Move targets away from 0 and 1, so that the best logits are finite.

    .. math::
        \text{symmetric: } (1 - \epsilon) t + \epsilon / 2 \qquad \text{positive: } (1 - \epsilon) t

    Symmetric smoothing dilutes the positives when there are many classes: every negative adds
    :math:`\tfrac{\epsilon}{2} e^{-s}` to the positive term. With logits of -1.5 everywhere, the gradient of a missed
    positive falls from -0.818 to -0.155 at :math:`\epsilon = 0.1` and 100 classes, to -0.0019 at 10 000. Keep
    :math:`\epsilon \lesssim 2 / C^2`, or smooth the positives only.

    Parameters
    ----------
    targets : array, any shape
        bool, integer (0 or 1) or floating in [0, 1]. An illegal target becomes NaN.
    epsilon : float
        Strength, in [0, 1].
    mode : {"symmetric", "positive"}
        "positive" leaves the zeros where they are.
    xp : Namespace, optional
        Inferred from ``targets`` when absent.

    Returns
    -------
    array, the shape of ``targets``
        float64 for float64 targets, else float32.

    Raises
    ------
    ValueError
        ``epsilon`` is outside [0, 1], or ``mode`` is unknown.

    Examples
    --------
    >>> smooth_labels(np.asarray([1, 0]), 0.1).round(2)
    array([0.95, 0.05], dtype=float32)
    >>> smooth_labels(np.asarray([1, 0]), 0.1, mode="positive").round(2)
    array([0.9, 0. ], dtype=float32)
    """
    xp = infer(xp, targets=targets)
    mode = "symmetric" if mode is None else mode
    check_fraction("epsilon", epsilon)
    if mode not in ("symmetric", "positive"):
        msg = f'`mode` must be "symmetric" or "positive". Received: {mode!r}.'
        raise ValueError(msg)
    smoothed: ArrayT = _smooth(targets, epsilon, mode, compute_dtype(targets.dtype, xp=xp), xp=xp)
    return smoothed


def _smooth(targets: Array, epsilon: float, mode: str, dtype: Any, /, *, xp: Namespace) -> Any:
    return soft_targets(targets, dtype, xp=xp) * (1 - epsilon) + (epsilon / 2 if mode == "symmetric" else 0.0)


def check_targets(targets: Array, /, *, ignore_index: float | None = None, xp: Namespace | None = None) -> None:
    """Raise if a target is not one that the losses accept, naming the first bad cell.

    The losses themselves never look at values, which would stop a compiled or asynchronous step: they turn a bad
    example into NaN. Call this while loading data instead.

    Parameters
    ----------
    targets : array, any shape
        bool; integer 0 or 1; or floating in [0, 1], where 8 eps of the dtype beyond either end are forgiven.
    ignore_index : float, optional
        A further legal value, for targets that mark cells to leave out.
    xp : Namespace, optional
        Inferred from ``targets`` when absent.

    Raises
    ------
    TypeError
        The dtype is none of those.
    ValueError
        A target is out of range or NaN.

    Examples
    --------
    >>> check_targets(np.asarray([[0.0, 1.0], [0.5, 7.0]]))
    Traceback (most recent call last):
        ...
    ValueError: `targets` must be in [0, 1]. Received: 7.0 at [1, 1].
    """
    xp = infer(xp, targets=targets)
    if not xp.isdtype(targets.dtype, ("bool", "integral", "real floating")):
        msg = f"{name('targets', xp)} must be bool, integer or real floating. Received dtype: {targets.dtype}."
        raise TypeError(msg)
    _, legal = read_targets(targets, compute_dtype(targets.dtype, xp=xp), xp=xp)
    if legal is None:
        return
    if ignore_index is not None:
        legal = legal | equals(targets, ignore_index, xp=xp)
    bad = first_cell(~legal, xp=xp)
    if bad is not None:
        expected, number = ("0 or 1", int) if xp.isdtype(targets.dtype, "integral") else ("in [0, 1]", float)
        msg = f"{name('targets', xp)} must be {expected}. Received: {number(targets[bad])} at {list(bad)}."
        raise ValueError(msg)


def equals(targets: Array, value: float, /, *, xp: Namespace) -> Any:
    """``targets == value``, where NaN equals NaN. In floating numbers, as -100 would wrap around in uint8."""
    numbers = xp.astype(targets, compute_dtype(targets.dtype, xp=xp))
    return numbers == value if value == value else numbers != numbers


def first_cell(condition: Array, /, *, xp: Namespace) -> tuple[int, ...] | None:
    """The index of the first true cell in C order, if there is one."""
    flat = xp.reshape(condition, (-1,))
    if not xp.any(flat, axis=0):
        return None
    return unravel(int(xp.argmax(xp.astype(flat, xp.int32))), tuple(condition.shape))


def prepare_targets(
    targets: Array,
    where: Any,
    logits: Array,
    /,
    *,
    label_smoothing: float | None,
    ignore_index: float | None,
    xp: Extended,
) -> tuple[Any, Any]:
    """``(targets, where)`` in which the adapters' ``label_smoothing`` and ``ignore_index`` are worked in."""
    smoothing = 0.0 if label_smoothing is None else label_smoothing
    check_fraction("label_smoothing", smoothing)
    check_pair(logits, targets, xp=xp)
    where = Options.of(logits, where, None, None, None, xp=xp).where
    if ignore_index is not None:
        labelled = ~equals(targets, ignore_index, xp=xp)
        where = labelled if where is None else where & labelled
    if smoothing:
        targets = _smooth(targets, smoothing, "symmetric", compute_dtype(logits.dtype, xp=xp), xp=xp)
    return targets, where
