"""The regret without a shift, where all logits are near 0: two exponentials a pair of cells, and sums in two passes.

Like ``_unshifted`` for adapters whose compiler can branch on a value. Without a mask.
"""

from math import log
from typing import Any, NamedTuple

from ._logistic import NEAR, exp_minus_one
from ._namespace import largest
from ._pairs import Pair, negated
from ._reduce import ShiftedSum
from ._regret import RegretSums
from ._typing import Namespace
from ._unshifted import limit


class _Cells(NamedTuple):
    gap: Any  # x - y
    ratio: Any  # e^(x - y)
    exp: Any  # e^y
    on: Any  # σ(2x)
    off: Any  # σ(-2x)
    weight: Any  # 1 / (2 cosh x)
    is_beyond: Any  # a logit is too large: there all of these are those of x = y = 0


def unshifted_regret_sums(pair: Pair, /, *, xp: Namespace) -> tuple[RegretSums, Any]:
    """``(sums, exact)``: the sums are those of ``regret_sums`` in rows where ``exact`` is True. No derivatives.

    The value is ``log(E[e^d] E[e^-d])`` for d = gap - mean, under the weights and the 1 beside them.
    """
    cells, axes = _cells(pair, xp=xp), pair.axes
    too_much = limit(cells.weight.dtype, xp=xp)
    total = 1 + xp.sum(xp.where(cells.is_beyond, too_much, cells.weight), axis=axes, keepdims=True)
    mean = xp.sum(cells.weight * cells.gap, axis=axes, keepdims=True) / total
    terms = _moved(cells, mean, xp=xp)
    high, low, both = (xp.sum(term, axis=axes, keepdims=True) for term in terms)
    one_high, one_low = xp.expm1(-mean), xp.expm1(mean)  # what the 1 beside the sums adds
    rise, fall = (high + one_high) / total, (low - one_low) / total
    value = xp.log1p((both - one_high * one_low) / total - rise * fall)
    positive, negative = xp.exp(mean) * total * (1 + rise) - 1, xp.exp(-mean) * total * (1 - fall) - 1
    halves = ShiftedSum(0 * mean, positive), ShiftedSum(0 * mean, negative)
    return RegretSums(value, *halves, total), total < too_much


def unshifted_regret_gradients(pair: Pair, sums: RegretSums, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``regret_gradients`` of rows for which the sums without a shift are exact.

    In q by the pair of ``-x`` and ``-y``: what both gradients share XLA would store, which takes longer on a CPU.
    """
    cells, other = _cells(pair, xp=xp), _cells(negated(pair), xp=xp)
    positive, negative = _softmax_weights(cells, sums.positive, sums.negative)
    floor = cells.weight * (1 / sums.total)
    in_p = 2 * (cells.off * (positive - floor) - cells.on * (negative - floor))
    negative, positive = _softmax_weights(other, sums.negative, sums.positive)
    return in_p, negative - positive


def _softmax_weights(cells: _Cells, positive: ShiftedSum, negative: ShiftedSum) -> tuple[Any, Any]:
    return cells.on / cells.exp * (1 / (1 + positive.rest)), cells.off * cells.exp * (1 / (1 + negative.rest))


def _cells(pair: Pair, *, xp: Namespace) -> _Cells:
    most = log(largest(pair.x.dtype, xp=xp)) / 4.5  # e^(4 most) is finite, and so is all that is made of these
    is_beyond = (abs(pair.x) > most) | (abs(pair.y) > most)
    x, y = xp.where(is_beyond, 0.0, pair.x), xp.where(is_beyond, 0.0, pair.y)
    exp_x, exp_y = xp.exp(x), xp.exp(y)
    off = 1 / (1 + exp_x * exp_x)
    weight = exp_x * off
    return _Cells(x - y, exp_x / exp_y, exp_y, exp_x * weight, off, weight, is_beyond)


def _moved(cells: _Cells, mean: Any, *, xp: Namespace) -> tuple[Any, Any, Any]:
    """``w (e^d - 1)``, ``w (1 - e^-d)`` and their difference, in which the first order cancels before it is rounded."""
    centred, moved = cells.gap - mean, cells.ratio * xp.exp(-mean)
    is_near = abs(centred) < NEAR
    grown = xp.where(is_near, exp_minus_one(xp.where(is_near, centred, 0.0)), moved - 1)
    shrunk = grown / moved
    return cells.weight * grown, cells.weight * shrunk, cells.weight * grown * shrunk
