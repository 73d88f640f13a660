"""The logistic function and its relatives, without the cancellation of the textbook formulas."""

from typing import Any

from ._typing import Namespace

NEAR = 2.0
"""``|x|`` below which ``e^x`` less its first terms is a rational function of x, and above which a plain difference."""


def tail(x: Any, lost: Any = None, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``e^-|x|``, and where x is positive. ``lost`` is the rounding error of ``x``."""
    is_positive = x > 0
    small = xp.exp(xp.where(is_positive, -x, x))  # not exp(-abs(x)), whose derivative at 0 is 0
    return (small if lost is None else small * (1 + xp.where(is_positive, -lost, lost))), is_positive


def sigmoids(x: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``σ(x), σ(-x)``, each to full relative accuracy."""
    small, is_positive = tail(x, xp=xp)
    return xp.where(is_positive, 1.0, small) / (1 + small), xp.where(is_positive, small, 1.0) / (1 + small)


def logistic_gap(x: Any, y: Any, gap: Any, lost: tuple[Any, Any] = (None, None), /, *, xp: Namespace) -> Any:
    """``σ(x) - σ(y)`` from ``gap = x - y``, to full relative accuracy however close the two are.

    It is ``σ(x) σ(-y) - σ(-x) σ(y)``. Near each other that is the sum of the two products times ``tanh(gap / 2)``.
    """
    (a, x_positive), (b, y_positive) = tail(x, lost[0], xp=xp), tail(y, lost[1], xp=xp)
    more = xp.where(x_positive, 1.0, a) * xp.where(y_positive, b, 1.0)
    less = xp.where(x_positive, a, 1.0) * xp.where(y_positive, 1.0, b)
    near = abs(gap) < NEAR
    close = tanh_half(xp.where(near, gap, 0.0)) * (more + less)
    return xp.where(near, close, more - less) / ((1 + a) * (1 + b))


def exp_minus_one(x: Any, /) -> Any:
    """``e^x - 1`` for ``|x| < NEAR``: a compiler's expm1 may be off by three units in the last place."""
    y, odd, even = _half(x)
    return x * even / (even - y * even + y * y * odd)


def exp_minus_line(x: Any, /) -> Any:
    """``e^x - 1 - x``, non-negative, for ``|x| < NEAR``."""
    y, odd, even = _half(x)
    return x * y * (even - y * odd) / (even - y * even + y * y * odd)


def tanh_half(x: Any, /) -> Any:
    """``tanh(x / 2)`` for ``|x| < NEAR``."""
    y, odd, even = _half(x)
    return y * even / (even + y * y * odd)


def _half(x: Any, /) -> tuple[Any, Any, Any]:
    """``(y, A, B)`` with ``y coth y = 1 + y² A / B`` for y = x / 2.

    From the continued fraction ``y coth y = 1 + y²/(3 + y²/(5 + …))``, down to 17: enough for float64.
    """
    y = 0.5 * x
    z = y * y
    odd = 11486475 + z * (810810 + z * (12870 + z * 44))
    return y, odd, 34459425 + z * (4729725 + z * (135135 + z * (990 + z)))
