"""The sums of a regret without a shift: five sums a row in two passes over the logits, where the exact way takes four.

For adapters whose compiler can branch on a value, as ``_unshifted`` is. Without a mask.
"""

from math import log
from typing import Any

from ._logistic import NEAR, exp_both_ways, exp_minus_one
from ._pairs import Pair
from ._reduce import ShiftedSum, Terms
from ._regret import Regret, RegretSums, read_regret
from ._typing import Namespace
from ._unshifted import limit

FARTHEST = 20.0
"""Bound on the mean gap, which is added to the exponents: with logits within 80 of 0 nothing may overflow."""


def unshifted_regret_sums(pair: Pair, /, *, xp: Namespace) -> tuple[RegretSums, Any]:
    """``(sums, exact)``: what ``regret_sums`` gives, without derivatives, and the rows for which it is that."""
    read, axes = read_regret(pair, xp=xp), pair.axes
    mean = xp.sum(read.weight * read.gap, axis=axes, keepdims=True) / read.total
    near = abs(mean) < FARTHEST
    mean = xp.where(near, mean, 0.0)
    high, low, both = (xp.sum(cells, axis=axes, keepdims=True) for cells in _moved(read, mean, xp=xp))
    one_high, one_low = xp.expm1(-mean), xp.expm1(mean)  # the 1, moved
    centred = (both - one_high * one_low) / read.total
    centred = centred + (high + one_high) / read.total * ((low + one_low) / read.total)
    positive, negative = xp.exp(mean) * (read.total - 1 + high), xp.exp(-mean) * (read.total - 1 + low)
    halves = ShiftedSum(0 * mean, positive), ShiftedSum(0 * mean, negative)
    most = limit(mean.dtype, xp=xp)
    return RegretSums(xp.log1p(centred), *halves, read.total), near & (positive < most) & (negative < most)


def _moved(read: Regret, mean: Any, /, *, xp: Namespace) -> tuple[Any, Any, Any]:
    """Cells of ``w (e^d - 1)``, of ``w (e^-d - 1)`` and of their sum, for d = gap - mean.

    Near the mean by rational functions, so that no first order is left to be rounded.
    """
    centred, weight = read.gap - mean, read.weight
    small = abs(centred) < NEAR
    near = xp.where(small, centred, 0.0)
    high = _term(read.positive, xp=xp) * xp.exp(-mean) - weight
    low = _term(read.negative, xp=xp) * xp.exp(mean) - weight
    return (
        xp.where(small, weight * exp_minus_one(near), high),
        xp.where(small, weight * exp_minus_one(-near), low),
        xp.where(small, weight * exp_both_ways(near), high + low),
    )


def _term(terms: Terms, /, *, xp: Namespace) -> Any:
    """Capped where the sum is too large to be exact anyway."""
    cap = log(limit(terms.logit.dtype, xp=xp)) + 1
    return terms.weight * xp.exp(xp.where(terms.logit > cap, cap, terms.logit)) * (1 + terms.lost)
