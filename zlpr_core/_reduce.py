"""``log(1 + Σ weight · e^logit)`` and its derivative: all overflow care lives here, once.

The largest term is kept apart as ``shift``, a whole number: subtracting it from a logit is then exact wherever a
rounding would show. ``log1p`` to the end keeps a sum of 1e-30.
"""

from math import inf, log
from typing import Any, NamedTuple

from ._typing import Namespace


class Terms(NamedTuple):
    """What is summed over the class axes: ``weight · e^(logit + lost)``.

    A logit of -inf or a weight of 0 gives a term of 0, the latter even beside an infinite logit.
    """

    logit: Any
    weight: Any  # floating and non-negative, or None for 1
    lost: Any  # what rounding took from the logit, or None for nothing


class Total(NamedTuple):
    """Of each row, ``1 + Σ terms = e^shift · (1 + rest)``."""

    shift: Any  # a whole number
    rest: Any


def log1p_sum_exp(terms: Terms, /, *, axis: tuple[int, ...], xp: Namespace) -> Any:
    """``log(1 + Σ terms)`` over ``axis``."""
    return log_of(total_of(terms, axis=axis, xp=xp), axis=axis, xp=xp)


def total_of(terms: Terms, /, *, axis: tuple[int, ...], xp: Namespace) -> Total:
    """``1 + Σ terms`` over ``axis``, which stays, with one cell."""
    largest = xp.max(_log_terms(terms, xp=xp), axis=axis, keepdims=True)
    shift = xp.floor(xp.where(largest > 0, largest, 0.0))
    # 1 + rest = e^-shift + Σ scaled; expm1 is 0 for shift 0, so that a small sum reaches log1p unrounded
    one = xp.expm1(xp.where(shift < inf, -shift, 0.0))
    return Total(shift, xp.sum(_scaled(terms, shift, xp=xp), axis=axis, keepdims=True) + one)


def log_of(total: Total, /, *, axis: tuple[int, ...], xp: Namespace) -> Any:
    """The logarithm of a total, without ``axis``."""
    return xp.squeeze(total.shift + xp.log1p(total.rest), axis=axis)


def share_of(terms: Terms, total: Total, /, *, xp: Namespace) -> Any:
    """``terms / (1 + Σ terms)``: of the logarithm of their total, the derivative in each logit."""
    return _scaled(terms, total.shift, xp=xp) / (1 + total.rest)


def _scaled(terms: Terms, shift: Any, *, xp: Namespace) -> Any:
    """``terms · e^-shift``."""
    # a quarter of the largest number stands for an infinite logit, so that inf - inf and 0 * inf never happen
    far = float(xp.finfo(terms.logit.dtype).max) / 4
    logit = xp.where(terms.logit == inf, far, xp.where(terms.logit == -inf, -far, terms.logit))
    scaled = _weighted_exp(logit - xp.where(shift < inf, shift, far), terms.weight, log(far), xp=xp)
    return scaled if terms.lost is None else scaled * (1 + terms.lost)


def _log_terms(terms: Terms, *, xp: Namespace) -> Any:
    if terms.weight is None:
        return terms.logit
    present = terms.weight > 0
    return xp.where(present, xp.log(xp.where(present, terms.weight, 1.0)) + terms.logit, -inf)


def _weighted_exp(gap: Any, weight: Any, limit: float, *, xp: Namespace) -> Any:
    """``weight · e^gap``, at most e, for gaps whose e^gap may be far beyond ``limit``."""
    if weight is None:
        return xp.exp(gap)
    cap = limit - log(2**22)  # beside a weight of zero e^gap is the slope in that weight, and may meet a loss scale
    half = xp.exp(0.5 * xp.where((gap > cap) & (weight <= 0), cap, gap))
    return weight * half * half  # by halves: neither a weight of 1e-30 nor one of 1e30 leaves the range of exp
