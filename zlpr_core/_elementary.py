"""Functions of one number that lose nothing where the obvious formula does."""

from typing import Any

from ._typing import Namespace


def sigmoids(x: Any, lost: Any = None, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``σ(x), σ(-x)``, each to full relative accuracy; ``lost`` is what rounding took from ``x``."""
    up = x > 0
    small = xp.exp(xp.where(up, -x, x))  # not -|x|, whose slope at 0 is 0
    if lost is not None:
        small = small * (1 + xp.where(up, -lost, lost))
    return xp.where(up, 1.0, small) / (1 + small), xp.where(up, small, 1.0) / (1 + small)


def softplus(x: Any, /, *, xp: Namespace) -> Any:
    """``log(1 + e^x)``."""
    up = x > 0
    return xp.where(up, x, 0.0) + xp.log1p(xp.exp(xp.where(up, -x, x)))


def exp_minus_one(x: Any, /, *, xp: Namespace) -> Any:
    """``e^x - 1``, near 0 by arithmetic alone: a compiler's own may be off by three units in the last place."""
    near, small, bend = _bend(x, xp=xp)
    return xp.where(near, small / (1 - bend), xp.expm1(x))


def exp_beyond_line(x: Any, /, *, xp: Namespace) -> Any:
    """``e^x - 1 - x``, non-negative, which near 0 is x²/2 and not a difference of larger numbers."""
    near, small, bend = _bend(x, xp=xp)
    return xp.where(near, small * bend / (1 - bend), xp.expm1(x) - x)


def _bend(x: Any, /, *, xp: Namespace) -> tuple[Any, Any, Any]:
    """``(near, small, u)``: near 0 ``small`` is x and ``e^x - 1 = x / (1 - u)``; elsewhere all is 1 or so.

    ``1 - u`` is ``y coth y - y`` for y = x/2, by the continued fraction ``y coth y = 1 + y²/(3 + y²/(5 + …))``.
    """
    near = abs(x) < 1.5
    small = xp.where(near, x, 1.0)
    y = 0.5 * small
    tail: Any = 15.0
    for odd in (13, 11, 9, 7, 5, 3):  # enough for float64
        tail = odd + y * y / tail
    return near, small, y - y * y / tail


def logistic_gap(x: Any, y: Any, gap: Any, lost: tuple[Any, Any] = (None, None), /, *, xp: Namespace) -> Any:
    """``σ(x) - σ(y)`` by way of ``gap = x - y``, to full relative accuracy however close the two are."""
    rises = gap >= 0
    x_up, x_down = sigmoids(x, lost[0], xp=xp)
    y_up, y_down = sigmoids(y, lost[1], xp=xp)
    above = xp.expm1(xp.where(rises, -gap, 0.0))
    below = xp.expm1(xp.where(rises, 0.0, gap))
    return xp.where(rises, -x_up * y_down * above, x_down * y_up * below)
