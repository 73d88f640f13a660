"""The logistic function and its relatives, without the cancellation of the textbook formulas."""

from typing import Any

from ._typing import Namespace


def sigmoids(x: Any, lost: Any = None, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``σ(x), σ(-x)``, each to full relative accuracy. ``lost`` is the rounding error of ``x``."""
    is_positive = x > 0
    tail = xp.exp(xp.where(is_positive, -x, x))  # not exp(-abs(x)), whose derivative at 0 is 0
    if lost is not None:
        tail = tail * (1 + xp.where(is_positive, -lost, lost))
    return xp.where(is_positive, 1.0, tail) / (1 + tail), xp.where(is_positive, tail, 1.0) / (1 + tail)


def softplus(x: Any, /, *, xp: Namespace) -> Any:
    """``log(1 + e^x)``."""
    is_positive = x > 0
    return xp.where(is_positive, x, 0.0) + xp.log1p(xp.exp(xp.where(is_positive, -x, x)))


def logistic_gap(x: Any, y: Any, gap: Any, lost: tuple[Any, Any] = (None, None), /, *, xp: Namespace) -> Any:
    """``σ(x) - σ(y)`` from ``gap = x - y``, to full relative accuracy however close the two are.

    It is ``σ(x) σ(-y) (1 - e^-gap)`` and ``σ(-x) σ(y) (e^gap - 1)``: of the two, the one whose exponential is below 1.
    """
    is_larger = gap >= 0
    x_on, x_off = sigmoids(x, lost[0], xp=xp)
    y_on, y_off = sigmoids(y, lost[1], xp=xp)
    larger = xp.expm1(xp.where(is_larger, -gap, 0.0))
    smaller = xp.expm1(xp.where(is_larger, 0.0, gap))
    return xp.where(is_larger, -x_on * y_off * larger, x_off * y_on * smaller)


def exp_minus_one(x: Any, /, *, xp: Namespace) -> Any:
    """``e^x - 1``, near 0 by arithmetic alone: a compiler's expm1 may be off by three units in the last place."""
    near, small, bend = _bend(x, xp=xp)
    return xp.where(near, small / (1 - bend), xp.expm1(x))


def exp_minus_line(x: Any, /, *, xp: Namespace) -> Any:
    """``e^x - 1 - x``, non-negative, which near 0 is x²/2 and not a difference of larger numbers."""
    near, small, bend = _bend(x, xp=xp)
    return xp.where(near, small * bend / (1 - bend), xp.expm1(x) - x)


def _bend(x: Any, /, *, xp: Namespace) -> tuple[Any, Any, Any]:
    """``(near, small, u)`` with ``e^x - 1 = x / (1 - u)`` where x is near 0; ``small`` is x there, and 1 elsewhere.

    ``1 - u`` is ``y coth y - y`` for y = x/2, by the continued fraction ``y coth y = 1 + y²/(3 + y²/(5 + …))``.
    """
    near = abs(x) < 1.5
    small = xp.where(near, x, 1.0)
    y = 0.5 * small
    tail: Any = 15.0
    for odd in (13, 11, 9, 7, 5, 3):  # enough for float64
        tail = odd + y * y / tail
    return near, small, y - y * y / tail
