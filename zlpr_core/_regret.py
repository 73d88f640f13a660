r"""The regret of soft ZLPR, which is the divergence that it induces, and its gradients in closed form.

.. math::
    D(s \| u) = L(u, \sigma(2s)) - H(\sigma(2s))
"""

from math import inf
from typing import Any, NamedTuple

from ._logistic import NEAR, exp_minus_one
from ._namespace import largest
from ._pairs import Pair, movable
from ._reduce import ShiftedSum, Terms, softmax_weight, spread_nan, sum_about
from ._terms import keep, subtract
from ._typing import Extended, Namespace


class Regret(NamedTuple):
    """The sums of soft ZLPR of y against σ(2x), term by term, and what its floor needs."""

    positive: Terms  # σ(2x) e^-y
    negative: Terms  # σ(-2x) e^y
    on: Any  # σ(2x), where masked too
    off: Any  # σ(-2x)
    weight: Any  # 1 / (2 cosh x), the geometric mean of the two at y = x
    total: Any  # 1 + Σ weight
    gap: Any  # x - y
    axes: tuple[int, ...]


class RegretSums(NamedTuple):
    """What the gradients need of a row. The class axes stay, of length 1."""

    value: Any
    positive: ShiftedSum
    negative: ShiftedSum
    total: Any  # 1 + Σ weight


def regret(pair: Pair, *, xp: Extended) -> Any:
    """Soft ZLPR of y against σ(2x), less its floor."""
    return xp.squeeze(regret_sums(pair, xp=xp).value, axis=pair.axes)


def regret_sums(pair: Pair, *, xp: Extended) -> RegretSums:
    """Each example by the one of two ways that loses no digits."""
    read, axes = read_regret(pair, xp=xp), pair.axes
    gap = xp.where(abs(pair.gap) < 1e6, pair.gap, 0.0)  # a larger one is never near, and its sum would overflow
    mean = xp.sum(read.weight * gap, axis=axes, keepdims=True) / read.total
    positive, negative = _sum(read.positive, axes, xp=xp), _sum(read.negative, axes, xp=xp)
    near = (positive.shift - mean < 30) & (negative.shift + mean < 30)  # no term is beyond e^31 once centred
    centred = xp.where(near, _centred(read, positive, negative, xp.where(near, mean, 0.0), near, xp=xp), 0.0)
    logs = [half.shift + xp.log1p(half.rest) for half in (positive, negative)]
    direct = logs[0] + logs[1] - 2 * xp.log(read.total)
    # The value of the centred way, whose derivatives would be off by up to 7e-4 in float32, with the derivatives of
    # the direct way, each of which is a softmax weight.
    slopes = direct - xp.stop_gradient(xp.where(direct <= largest(direct.dtype, xp=xp), direct, 0.0))
    value = xp.where(near, xp.stop_gradient(xp.log1p(centred)) + slopes, direct)
    value = spread_nan(value, value, xp=xp)
    value = xp.where(value > largest(value.dtype, xp=xp), inf, value)  # impossible, and so no logit can help
    return RegretSums(value, positive, negative, read.total)


def regret_gradients(pair: Pair, values: Any, sums: RegretSums | None = None, /, *, xp: Extended) -> tuple[Any, Any]:
    """By softmax weights: with P and N those of the two halves and W that of the floor, ``N - P`` in y.

    In x it is ``2 σ(-2x) (P - W) - 2 σ(2x) (N - W)``.
    """
    read, axes = read_regret(pair, xp=xp), pair.axes
    positive_sum = _sum(read.positive, axes, xp=xp) if sums is None else sums.positive
    negative_sum = _sum(read.negative, axes, xp=xp) if sums is None else sums.negative
    positive = softmax_weight(read.positive, positive_sum, xp=xp)
    negative = softmax_weight(read.negative, negative_sum, xp=xp)
    floor = read.weight / (read.total if sums is None else sums.total)
    in_p = 2 * (read.off * (positive - floor) - read.on * (negative - floor))
    in_q = negative - positive
    still = pair.q_infinite, values > largest(values.dtype, xp=xp)
    return movable(in_p, pair, values, pair.p_infinite, *still, xp=xp), movable(in_q, pair, values, *still, xp=xp)


def read_regret(pair: Pair, *, xp: Namespace) -> Regret:
    x, y = pair.x, pair.y
    is_positive = x > 0
    tail = xp.exp(xp.where(is_positive, -x, x))
    more = 1 / (1 + tail * tail)
    less, share = tail * tail * more, keep(more, pair.where, xp=xp)
    falling, falling_lost = subtract(xp.where(is_positive, 0.0, 2 * x), y, xp=xp)
    rising, rising_lost = subtract(xp.where(is_positive, -2 * x, 0.0), -y, xp=xp)
    falling = xp.where(pair.q_infinite & pair.differ, inf, falling)  # impossible to match: the whole row is +inf
    weight = tail * share
    total = 1 + xp.sum(weight, axis=pair.axes, keepdims=True)
    positive, negative = Terms(falling, share, falling_lost), Terms(rising, share, rising_lost)
    on, off = xp.where(is_positive, more, less), xp.where(is_positive, less, more)
    return Regret(positive, negative, on, off, weight, total, pair.gap, pair.axes)


def _sum(terms: Terms, axes: tuple[int, ...], *, xp: Namespace) -> ShiftedSum:
    """``1 + Σ terms``. The weights are between a half and 1, unless masked, and so a term is near its exponential."""
    return sum_about(terms, terms.logit, axis=axes, xp=xp)


def _centred(regret: Regret, positive: ShiftedSum, negative: ShiftedSum, mean: Any, near: Any, *, xp: Namespace) -> Any:
    """``E[e^(d - mean)] E[e^(mean - d)] - 1`` for d = gap, under the weights and the 1 beside them.

    Sums of ``e^x - 1``, so that the terms of first order cancel before anything is rounded.
    """
    centred, weight = regret.gap - mean, regret.weight
    small = abs(centred) < NEAR
    grown = exp_minus_one(xp.where(small, centred, 0.0))
    shrunk = exp_minus_one(xp.where(small, -centred, 0.0))
    high = xp.where(small, weight * grown, _shifted(regret.positive, positive, -mean, near, xp=xp) - weight)
    low = xp.where(small, weight * shrunk, _shifted(regret.negative, negative, mean, near, xp=xp) - weight)
    both = xp.where(small, -grown * shrunk * weight, high + low)
    one_high, one_low = xp.expm1(-mean), xp.expm1(mean)  # the 1, shifted
    second = _expectation(both, -one_high * one_low, regret, xp=xp)
    return second + _expectation(high, one_high, regret, xp=xp) * _expectation(low, one_low, regret, xp=xp)


def _expectation(cells: Any, one: Any, regret: Regret, *, xp: Namespace) -> Any:
    return (xp.sum(cells, axis=regret.axes, keepdims=True) + one) / regret.total


def _shifted(terms: Terms, total: ShiftedSum, shift: Any, near: Any, *, xp: Namespace) -> Any:
    """``terms · e^shift`` from the softmax weights, which the gradients take too. In other rows it might overflow."""
    moved, lost = subtract(total.shift, -shift, xp=xp)
    row = (1 + total.rest) * (1 + lost) * xp.exp(xp.where(near, moved, 0.0))
    return softmax_weight(terms, total, xp=xp) * row
