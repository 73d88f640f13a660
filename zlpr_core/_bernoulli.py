"""Divergences between the Bernoulli labels of two logit vectors, and their gradients in closed form.

A gradient is that of a row's value in each of its logits. Nothing but the logits and the values has to be kept for it,
and it shares no exponential with the value: XLA would store in memory what both use, which takes longer than a second
exponential (jaxlib 0.10 on a CPU). ``values`` keep the class axes, of length 1.
"""

from math import inf
from typing import Any

from ._logistic import NEAR, exp_minus_line, logistic_gap, tail
from ._pairs import Pair, movable, negated, total
from ._typing import Namespace


def kl(pair: Pair, /, *, xp: Namespace) -> Any:
    """``Σ KL(σ(x) ‖ σ(y))``."""
    cells = _kl_of_cells(pair.x, pair.y, -pair.gap, xp=xp)
    return total(xp.where(pair.q_infinite & pair.differ, inf, cells), pair, xp=xp)


def kl_gradients(pair: Pair, values: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``σ'(x) (x - y)`` and ``σ(y) - σ(x)``."""
    in_p, in_q = _slope(pair.x, pair.lost[0], xp=xp) * pair.gap, _gap_of_negatives(pair, xp=xp)
    either = pair.p_infinite, pair.q_infinite
    return movable(in_p, pair, values, *either, xp=xp), movable(in_q, pair, values, pair.q_infinite, xp=xp)


def jeffreys(pair: Pair, /, *, xp: Namespace) -> Any:
    """``Σ (σ(x) - σ(y)) (x - y)``, the sum of KL in both directions."""
    cells = logistic_gap(pair.x, pair.y, pair.gap, pair.lost, xp=xp) * pair.gap
    return total(xp.where((pair.p_infinite | pair.q_infinite) & pair.differ, inf, cells), pair, xp=xp)


def jeffreys_gradients(pair: Pair, values: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``σ'(x) (x - y) + σ(x) - σ(y)``, and for the other the same with its own slope and the other sign."""
    apart = _gap_of_negatives(pair, xp=xp)
    in_p = _slope(pair.x, pair.lost[0], xp=xp) * pair.gap - apart
    in_q = apart - _slope(pair.y, pair.lost[1], xp=xp) * pair.gap
    either = pair.p_infinite, pair.q_infinite
    return movable(in_p, pair, values, *either, xp=xp), movable(in_q, pair, values, *either, xp=xp)


def _gap_of_negatives(pair: Pair, *, xp: Namespace) -> Any:
    """``σ(-x) - σ(-y)``, which is ``σ(y) - σ(x)`` by exponentials that XLA cannot share with the value and store."""
    x, y, gap, lost, *_ = negated(pair)
    return logistic_gap(x, y, gap, lost, xp=xp)


def _slope(x: Any, lost: Any, *, xp: Namespace) -> Any:
    """``σ'(x) = (1 / (2 cosh(x/2)))²``."""
    root, _ = tail(0.5 * x, None if lost is None else 0.5 * lost, xp=xp)
    sech = root / (1 + root - root * (1 - root))  # XLA would make of root² an exponential of its own
    return sech * sech


def _kl_of_cells(x: Any, y: Any, rise: Any, *, xp: Namespace) -> Any:
    """KL(σ(x) ‖ σ(y)) with ``rise = y - x``, seen from the side on which x is negative.

    Near each other, ``log E[e^(R - E[R])]`` for R = rise where the label is on and 0 where it is off: its terms of
    first order, which would cancel, are gone. Far apart, a softplus difference, which loses no digits from there on.
    """
    (a, x_positive), (b, _) = tail(x, xp=xp), tail(y, xp=xp)
    y, rise = xp.where(x_positive, -y, y), xp.where(x_positive, -rise, rise)
    on = a * (1 / (1 + a))  # a / (1 + a) XLA would store on a CPU
    off = 1 - on  # not 1 / (1 + a): a GPU's division is off by two units in the last place, and this counts three times
    near = abs(rise * off) < NEAR
    r = xp.where(near, rise, 0.0)
    close = on * exp_minus_line(r * off) + off * exp_minus_line(-r * on)
    line = xp.where(y > 0, y, 0.0) - on * rise
    return xp.log1p(xp.where(near, close, (b - a) * off)) + xp.where(near, 0.0, line)
