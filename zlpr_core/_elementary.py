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


def exp_beyond_line(x: Any, /, *, xp: Namespace) -> Any:
    """``e^x - 1 - x``, non-negative, which near 0 is x²/2 and not a difference of larger numbers.

    There it is ``(e^x - 1) (1 - x / (e^x - 1))``, whose second factor is ``x/2 - y²/(3 + y²/(5 + …))`` with y = x/2.
    """
    near = abs(x) < 1.5
    small = xp.where(near, x, 1.0)
    y = 0.5 * small
    tail: Any = 15.0
    for odd in (13, 11, 9, 7, 5, 3):  # enough for float64
        tail = odd + y * y / tail
    return xp.where(near, xp.expm1(small) * (y - y * y / tail), xp.expm1(x) - x)


def logistic_gap(x: Any, y: Any, gap: Any, lost: tuple[Any, Any] = (None, None), /, *, xp: Namespace) -> Any:
    """``σ(x) - σ(y)`` by way of ``gap = x - y``, to full relative accuracy however close the two are."""
    rises = gap >= 0
    x_up, x_down = sigmoids(x, lost[0], xp=xp)
    y_up, y_down = sigmoids(y, lost[1], xp=xp)
    above = xp.expm1(xp.where(rises, -gap, 0.0))
    below = xp.expm1(xp.where(rises, 0.0, gap))
    return xp.where(rises, -x_up * y_down * above, x_down * y_up * below)
