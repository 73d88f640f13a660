"""``log(1 + Σ weight · e^logit)`` and its derivative: all care about overflow lives here, once.

The sum is kept as ``e^shift · (1 + rest)``, where the shift is the largest logit rounded down. As a whole number it is
subtracted from a logit exactly wherever a rounding error would show. ``log1p(rest)`` keeps a sum of 1e-30.
"""

from math import log, nan
from typing import Any, NamedTuple

from ._namespace import largest
from ._typing import Namespace


class Terms(NamedTuple):
    """The summands of one half: ``weight · e^(logit + lost)``.

    A weight of 0 gives a term of 0, even beside an infinite logit; so does a logit of -inf or ``absent``.
    """

    logit: Any
    weight: Any  # floating and non-negative, or None for 1
    lost: Any  # rounding error of the logit, or None for 0


class ShiftedSum(NamedTuple):
    """``1 + Σ terms = e^shift · (1 + rest)``, one of them a row."""

    shift: Any  # a whole number
    rest: Any


def log1p_sum_exp(terms: Terms, /, *, axis: tuple[int, ...], xp: Namespace) -> Any:
    """``log(1 + Σ terms)`` over ``axis``, which is summed away."""
    return log_sum(sum_exp(terms, axis=axis, xp=xp), axis=axis, xp=xp)


def sum_exp(terms: Terms, /, *, axis: tuple[int, ...], xp: Namespace) -> ShiftedSum:
    """``1 + Σ terms`` over ``axis``, which stays as an axis of length 1."""
    return sum_about(terms, _log_terms(terms, xp=xp), axis=axis, xp=xp)


def sum_about(terms: Terms, logs: Any, /, *, axis: tuple[int, ...], xp: Namespace) -> ShiftedSum:
    """``sum_exp``, given the logarithms of the terms, by which it shifts: to within a few units is near enough."""
    highest = xp.max(logs, axis=axis, keepdims=True)
    shift = xp.floor(xp.where(highest > 0, highest, 0.0))
    # The 1 is e^-shift once it is shifted: 1 + rest = e^-shift + Σ scaled. With expm1 it adds exactly 0 to a small sum.
    one = xp.expm1(xp.where(shift <= largest(shift.dtype, xp=xp), -shift, 0.0))
    return ShiftedSum(shift, xp.sum(_scaled(terms, shift, xp=xp), axis=axis, keepdims=True) + one)


def log_sum(total: ShiftedSum, /, *, axis: tuple[int, ...], xp: Namespace) -> Any:
    """The logarithm of a sum, without ``axis``."""
    return xp.squeeze(total.shift + xp.log1p(total.rest), axis=axis)


def spread_nan(values: Any, whole: Any, /, *, xp: Namespace) -> Any:
    """``values``, one a row, in which a NaN of ``whole`` reaches the derivative in every cell of its row.

    By a product, which the chain rule carries to all terms: a gradient scaler then sees it wherever it came from.
    """
    is_number = whole == whole
    return values * xp.where(is_number, xp.astype(is_number, whole.dtype), nan)


def softmax_weight(terms: Terms, total: ShiftedSum, /, *, xp: Namespace) -> Any:
    """``terms / (1 + Σ terms)``, which is the derivative of the log-sum-exp in each logit."""
    return _scaled(terms, total.shift, xp=xp) / (1 + total.rest)


def absent(dtype: Any, /, *, xp: Namespace) -> float:
    """The logit of a term that is not there: a finite number whose exponential is 0, so that no tool reports -inf."""
    return -float(xp.finfo(dtype).max) / 4


def _scaled(terms: Terms, shift: Any, *, xp: Namespace) -> Any:
    """``terms · e^-shift``."""
    # Infinite logits, and others beyond a quarter of the range, are cut, so that inf - inf and 0 * inf never happen.
    most = -absent(terms.logit.dtype, xp=xp)
    logit = xp.where(terms.logit > most, most, xp.where(terms.logit < -most, -most, terms.logit))
    scaled = _weighted_exp(logit - xp.where(shift < most, shift, most), terms.weight, log(most), xp=xp)
    return scaled if terms.lost is None else scaled * (1 + terms.lost)


def _log_terms(terms: Terms, *, xp: Namespace) -> Any:
    if terms.weight is None:
        return terms.logit
    present = terms.weight > 0
    log_weight = xp.log(xp.where(present, terms.weight, 1.0))
    return xp.where(present, log_weight + terms.logit, absent(terms.logit.dtype, xp=xp))


def _weighted_exp(gap: Any, weight: Any, limit: float, *, xp: Namespace) -> Any:
    """``weight · e^gap``, at most e, although ``e^gap`` alone may overflow."""
    if weight is None:
        return xp.exp(gap)
    # e^gap is also the derivative in the weight, so a weight of 0 does not excuse it from being finite. The room of
    # 2^22 is for a loss scale.
    cap = limit - log(2**22)
    root = xp.exp(0.5 * xp.where((gap > cap) & (weight <= 0), cap, gap))
    return weight * root * root  # weight first: with 1e-30 or 1e30 either product alone would leave the range
