"""``log(1 + Σ weight · e^logit)`` and its derivative: all overflow care lives here, once.

The largest term is kept apart as ``shift``, a whole number: subtracting it from a logit is then exact wherever a
rounding would show. ``log1p`` to the end keeps a sum of 1e-30.
"""

from math import inf, log
from typing import Any

from ._typing import Array, ArrayT, Namespace


def log1p_sum_exp(logit: ArrayT, weight: Array, /, *, axis: tuple[int, ...], xp: Namespace) -> ArrayT:
    """``log(1 + Σ weight · e^logit)`` over ``axis``.

    ``weight`` is bool (the cell counts or it does not) or floating and non-negative. A weight of zero gives a term of
    zero even beside an infinite logit; its derivative in the weight is the true one all the same.
    """
    shift, total, _ = _shifted_sum(logit, weight, axis=axis, xp=xp)
    value: ArrayT = xp.squeeze(shift + xp.log1p(total), axis=axis)
    return value


def share_of_sum(logit: ArrayT, weight: Array, /, *, axis: tuple[int, ...], xp: Namespace) -> ArrayT:
    """``weight · e^logit / (1 + Σ weight · e^logit)``, the derivative of ``log1p_sum_exp`` in each logit."""
    _, total, terms = _shifted_sum(logit, weight, axis=axis, xp=xp)
    share: ArrayT = terms / (1 + total)
    return share


def _shifted_sum(logit: Array, weight: Array, *, axis: tuple[int, ...], xp: Namespace) -> tuple[Any, Any, Any]:
    """``(shift, total, terms)`` with ``1 + Σ weight · e^logit = e^shift · (1 + total)``; terms are scaled likewise."""
    largest = xp.max(_log_terms(logit, weight, xp=xp), axis=axis, keepdims=True)
    shift = xp.floor(xp.where(largest > 0, largest, 0.0))
    finite = shift < inf
    top = float(xp.finfo(logit.dtype).max)  # stands for an infinite logit, so that inf - inf never happens
    gap = xp.where(logit == inf, top, logit) - xp.where(finite, shift, top)
    terms = _scaled_terms(gap, weight, log(0.75 * top), xp=xp)
    # 1 + total = e^-shift + Σ terms; expm1 is 0 for shift 0, so that a small sum reaches log1p unrounded
    return shift, xp.sum(terms, axis=axis, keepdims=True) + xp.expm1(xp.where(finite, -shift, 0.0)), terms


def _log_terms(logit: Array, weight: Array, *, xp: Namespace) -> Any:
    if xp.isdtype(weight.dtype, "bool"):
        return xp.where(weight, logit, -inf)
    present = weight > 0
    return xp.where(present, xp.log(xp.where(present, weight, 1.0)) + logit, -inf)


def _scaled_terms(gap: Array, weight: Array, cap: float, *, xp: Namespace) -> Any:
    """``weight · e^gap``, at most e; beside a weight of zero e^gap is capped, so that 0 · inf never happens."""
    if xp.isdtype(weight.dtype, "bool"):
        return xp.exp(xp.where(weight, gap, -inf))
    half = xp.exp(0.5 * xp.where((gap > cap) & (weight <= 0), cap, gap))
    return weight * half * half  # by halves: neither a weight of 1e-30 nor one of 1e30 leaves the range of exp
