"""The sums of ZLPR without a shift: one pass over the logits where the exact way takes two.

For adapters whose compiler can look at a number and take the exact way after all; far fewer than all batches need it.
"""

from math import inf, log, nan, sqrt
from typing import Any, NamedTuple, TypeAlias

from ._reduce import Total
from ._targets import compute_dtype, read_targets
from ._typing import Array, Namespace

Halves: TypeAlias = tuple[Any, Any]
"""The positive one and the negative one."""


class Scale(NamedTuple):
    """Of each row, what makes a term of one half a slope: ``term · share / e^shift``."""

    shift: Any
    share: Any


def quick_terms(logits: Array, targets: Array, /, *, xp: Namespace) -> Halves:
    """``t e^-s`` and ``(1 - t) e^s``, by one exponential; an absurd number for a target that is not legal.

    Those of hard targets are finite, and so are their derivatives: ``0 * inf`` would be NaN.
    """
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    if xp.isdtype(targets.dtype, "real floating"):
        t, up = xp.astype(targets, z.dtype), xp.exp(z)
        return t / up, (1 - t) * up
    hard, _ = read_targets(targets, z.dtype, xp=xp)
    term = _capped_exp(xp.where(hard, -z, z), xp=xp)
    return xp.where(hard, term, 0.0), xp.where(hard, 0.0, term)


def quick_totals(terms: Halves, /, *, axis: tuple[int, ...], xp: Namespace) -> tuple[Halves, Any]:
    """``((positive, negative), fits)``: the totals of the two halves, and of each row whether they are exact.

    For legal targets they are unless a sum is NaN or, as one with a logit far on the wrong side, above ``limit``.
    """
    falls, rises = (xp.sum(half, axis=axis, keepdims=True) for half in terms)
    most = limit(rises.dtype, xp=xp)
    return (Total(0 * falls, falls), Total(0 * rises, rises)), (falls < most) & (rises < most)


def quick_slopes(logits: Array, targets: Array, scales: Halves, /, *, xp: Namespace) -> Any:
    """The derivative in the logits by ``scales_of`` totals from wherever, of which any factor of a row may be part."""
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    t, _ = read_targets(targets, z.dtype, xp=xp)
    positive, negative = scales
    gaps = -(z + positive.shift), z - negative.shift
    if xp.isdtype(t.dtype, "bool"):
        slopes = xp.exp(xp.where(t, *gaps)) * xp.where(t, positive.share, negative.share)
    else:  # an exponential beside a weight of 0 may be far out of range
        down, up = (_capped_exp(gap, xp=xp) for gap in gaps)
        slopes = t * down * positive.share + (1 - t) * up * negative.share
    return xp.where(abs(z) == inf, 0.0, slopes)


def scales_of(totals: Halves, /, *, xp: Namespace) -> Halves:
    """By what a term of either half changes the loss as its logit grows; NaN in a row where one of them is."""
    positive, negative = totals
    both = positive.rest + negative.rest
    fall, rise = (xp.where(both == both, share, nan) for share in shares_of(totals))
    return Scale(positive.shift, fall), Scale(negative.shift, rise)


def shares_of(totals: Halves) -> Halves:
    """The same for totals that are numbers, each in units of e^shift."""
    positive, negative = totals
    return -1 / (1 + positive.rest), 1 / (1 + negative.rest)


def _capped_exp(gap: Any, *, xp: Namespace) -> Any:
    cap = log(float(xp.finfo(gap.dtype).max)) - 0.5
    return xp.exp(xp.where(gap > cap, cap, gap))


def limit(dtype: Any, *, xp: Namespace) -> float:
    """Below it a number, its reciprocal and the products of two are within the range."""
    return sqrt(float(xp.finfo(dtype).max))
