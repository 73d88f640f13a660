"""The sums of ZLPR without a shift: one pass over the logits where the exact way takes two.

For adapters whose compiler can look at a number and take the exact way after all; far fewer than all batches need it.
"""

from math import inf, log, nan
from typing import Any, TypeAlias

from ._reduce import Total
from ._targets import compute_dtype
from ._typing import Array, Namespace

Halves: TypeAlias = tuple[Any, Any]
"""The positive one and the negative one."""


def quick_terms(logits: Array, targets: Array, /, *, xp: Namespace) -> Halves:
    """``t e^-s`` and ``(1 - t) e^s``, by one exponential; an absurd number for what is not legal."""
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    if xp.isdtype(targets.dtype, "real floating"):
        t, up = xp.astype(targets, z.dtype), xp.exp(z)
        return t / up, (1 - t) * up
    hard = _read(targets, z.dtype, xp=xp)
    term = xp.exp(xp.where(hard, -z, z))
    return xp.where(hard, term, 0.0), xp.where(hard, 0.0, term)


def quick_totals(terms: Halves, targets: Array, /, *, axis: tuple[int, ...], xp: Namespace) -> tuple[Halves, Any]:
    """``((positive, negative), fits)``: the totals of the two halves, and of each row whether they are exact.

    They are unless a sum, and with it a logit on the wrong side, is near the end of the dtype's range, or a target is
    not legal. ``fits`` is false for NaN.
    """
    falls, rises = (xp.sum(half, axis=axis, keepdims=True) for half in terms)
    limit = float(xp.finfo(rises.dtype).max) ** 0.5  # so that shares, and their products, stay within the range
    fits = (falls < limit) & (rises < limit)
    if not xp.isdtype(targets.dtype, "bool"):
        numbers = xp.astype(targets, rises.dtype) if xp.isdtype(targets.dtype, "integral") else targets
        least, most = (of(numbers, axis=axis, keepdims=True) for of in (xp.min, xp.max))
        fits = fits & (least >= 0) & (most <= 1)
    return (Total(0 * falls, falls), Total(0 * rises, rises)), fits


def quick_slopes(logits: Array, targets: Array, totals: Halves, /, *, xp: Namespace) -> Any:
    """The derivative in the logits for totals from wherever; NaN in a row where one of them is."""
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    positive, negative = totals
    both = positive.rest + negative.rest
    fall, rise = (xp.where(both == both, share, nan) for share in (-1 / (1 + positive.rest), 1 / (1 + negative.rest)))
    t = _read(targets, z.dtype, xp=xp)
    if xp.isdtype(t.dtype, "bool"):
        term = xp.exp(xp.where(t, -(z + positive.shift), z - negative.shift))
        slopes = xp.where(t, term * fall, term * rise)
    else:  # an exponential beside a weight of 0 may be far out of range
        down, up = (_capped_exp(gap, xp=xp) for gap in (-(z + positive.shift), z - negative.shift))
        slopes = t * down * fall + (1 - t) * up * rise
    return xp.where(abs(z) == inf, 0.0, slopes)


def _capped_exp(gap: Any, *, xp: Namespace) -> Any:
    cap = log(float(xp.finfo(gap.dtype).max)) - 0.5
    return xp.exp(xp.where(gap > cap, cap, gap))


def _read(targets: Array, dtype: Any, *, xp: Namespace) -> Any:
    """bool, or numbers in [0, 1]."""
    if xp.isdtype(targets.dtype, "bool"):
        return targets
    if xp.isdtype(targets.dtype, "integral"):
        return targets == 1
    t = xp.astype(targets, dtype)
    return xp.where(t > 1, 1.0, xp.where(t < 0, 0.0, t))
