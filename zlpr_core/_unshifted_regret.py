"""The regret without a shift, where all logits are near 0: two exponentials a pair of cells, and sums in two passes.

Like ``_unshifted`` for adapters whose compiler can branch on a value. Without a mask.
"""

from math import log
from typing import Any, NamedTuple

from ._namespace import largest
from ._pairs import Pair, negated
from ._reduce import ShiftedSum
from ._regret import RegretSums, product_less_one, squares
from ._typing import Namespace
from ._unshifted import limit


class _Cells(NamedTuple):
    gap: Any  # x - y
    exp: Any  # e^y
    on: Any  # σ(2x)
    off: Any  # σ(-2x)
    weight: Any  # 1 / (2 cosh x)
    is_beyond: Any  # beyond the limit: there all of these are those of x = y = 0


def unshifted_regret_sums(
    pair: Pair, /, *, xp: Namespace, xp_of_squares: Namespace | None = None
) -> tuple[RegretSums, Any]:
    """``(sums, exact)``: the sums are those of ``regret_sums`` in rows where ``exact`` is True. No derivatives.

    ``xp_of_squares`` has another ``sum``, for terms that take thirty operations each.
    """
    cells, axes = _cells(pair, xp=xp), pair.axes
    too_much = limit(cells.weight.dtype, xp=xp)
    total = 1 + xp.sum(xp.where(cells.is_beyond, too_much, cells.weight), axis=axes, keepdims=True)
    mean = xp.sum(cells.weight * cells.gap, axis=axes, keepdims=True) / total
    positive, negative = (xp.sum(terms, axis=axes, keepdims=True) for terms in _terms(cells))
    high, low = (1 + positive) * xp.exp(-mean), (1 + negative) * xp.exp(mean)
    squared = (xp_of_squares or xp).sum(_squares(cells, mean, xp=xp), axis=axes, keepdims=True)
    value = xp.log1p(product_less_one(squared, mean, high, low, total, xp=xp))
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
    of_positive, of_negative = _terms(cells)
    return of_positive * (1 / (1 + positive.rest)), of_negative * (1 / (1 + negative.rest))


def _terms(cells: _Cells) -> tuple[Any, Any]:
    """``σ(2x) e^-y`` and ``σ(-2x) e^y``."""
    return cells.on / cells.exp, cells.off * cells.exp


def _cells(pair: Pair, *, xp: Namespace) -> _Cells:
    most = log(largest(pair.x.dtype, xp=xp)) / 4.5  # e^(4 most) is finite, and so is all that is made of these
    is_beyond = (abs(pair.x) > most) | (abs(pair.y) > most)
    x, y = xp.where(is_beyond, 0.0, pair.x), xp.where(is_beyond, 0.0, pair.y)
    exp_x, exp_y = xp.exp(x), xp.exp(y)
    off = 1 / (1 + exp_x * exp_x)
    weight = exp_x * off
    return _Cells(x - y, exp_y, exp_x * weight, off, weight, is_beyond)


def _squares(cells: _Cells, mean: Any, *, xp: Namespace) -> Any:
    """By the terms: of ``e^x / e^y`` XLA makes one exponential of the rounded difference."""
    positive, negative = _terms(cells)
    return squares(cells.gap - mean, cells.weight, positive * xp.exp(-mean), negative * xp.exp(mean), xp=xp)
