"""The sums of both halves without a shift: one pass over the logits, where the exact way of ``_reduce`` takes two.

For adapters whose compiler can branch on a value: they take these sums where ``unshifted_sums`` calls them exact, which
nearly all batches are, and the sums of ``_reduce`` otherwise. Without weights, mask or threshold.
"""

from math import log, nan, sqrt
from typing import Any, NamedTuple

from ._namespace import compute_dtype, largest
from ._reduce import ShiftedSum
from ._targets import read_targets
from ._terms import Halves
from ._typing import Array, Namespace


class Factor(NamedTuple):
    """What turns a term of one half into its derivative: ``term · e^-shift · weight``. One a row."""

    shift: Any
    weight: Any


def unshifted_terms(logits: Array, targets: Array, /, *, one_exponential: bool = False, xp: Namespace) -> Halves:
    """``t e^-s`` and ``(1 - t) e^s``; a target that is not legal gives a meaningless number.

    The terms of hard targets are capped, so that they and their derivatives are finite: ``0 * inf`` would be NaN. Each
    half has its own exponential, as XLA on a CPU would store one that both sums use, which takes longer than a second.
    ``one_exponential`` is for XLA on a GPU, where one kernel adds up both and is bound by the instructions a logit.
    """
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    if xp.isdtype(targets.dtype, "real floating"):
        t, exp_z = xp.astype(targets, z.dtype), xp.exp(z)
        return Halves(t / exp_z, (1 - t) * exp_z)
    hard, _ = read_targets(targets, z.dtype, xp=xp)
    if one_exponential:
        exp = _capped_exp(xp.where(hard, -z, z), xp=xp)
        return Halves(xp.where(hard, exp, 0.0), xp.where(hard, 0.0, exp))
    return Halves(xp.where(hard, _capped_exp(-z, xp=xp), 0.0), xp.where(hard, 0.0, _capped_exp(z, xp=xp)))


def unshifted_sums(terms: Halves, /, *, axis: tuple[int, ...], xp: Namespace) -> tuple[Halves, Any]:
    """``(sums, exact)``: a ShiftedSum of each half, with a shift of 0, and which rows they are exact for.

    With legal targets a row is exact unless a sum is NaN or, because of a logit far on the wrong side, above ``limit``.
    """
    positive = xp.sum(terms.positive, axis=axis, keepdims=True)
    negative = xp.sum(terms.negative, axis=axis, keepdims=True)
    most = limit(negative.dtype, xp=xp)
    sums = Halves(ShiftedSum(0 * positive, positive), ShiftedSum(0 * negative, negative))
    return sums, (positive < most) & (negative < most)


def gradient(logits: Array, targets: Array, factors: Halves, /, *, xp: Namespace) -> Any:
    """The derivative in the logits, in the dtype that computes.

    ``factors`` comes from ``gradient_factors`` of sums by either method, and its weights may be multiplied by any
    number a row, such as the upstream gradient.
    """
    z = xp.astype(logits, compute_dtype(logits.dtype, xp=xp))
    t, _ = read_targets(targets, z.dtype, xp=xp)
    positive, negative = factors
    falling, rising = -(z + positive.shift), z - negative.shift
    if xp.isdtype(t.dtype, "bool"):
        slopes = xp.exp(xp.where(t, falling, rising)) * xp.where(t, positive.weight, negative.weight)
    else:  # capped, because an exponential beside a weight of 0 may overflow
        slopes = t * _capped_exp(falling, xp=xp) * positive.weight
        slopes = slopes + (1 - t) * _capped_exp(rising, xp=xp) * negative.weight
    return xp.where(abs(z) > largest(z.dtype, xp=xp), 0.0, slopes)


def gradient_factors(sums: Halves, /, *, xp: Namespace) -> Halves:
    """Per-row factors that turn a term into its gradient. A NaN in either half makes both NaN."""
    positive, negative = row_factors(sums)
    both = sums.positive.rest + sums.negative.rest
    weights = Halves(xp.where(both == both, positive, nan), xp.where(both == both, negative, nan))
    return Halves(Factor(sums.positive.shift, weights.positive), Factor(sums.negative.shift, weights.negative))


def row_factors(sums: Halves, /) -> Halves:
    """``-1 / (1 + rest)`` and ``1 / (1 + rest)``: the factors of terms that are scaled by the shift already."""
    return Halves(-1 / (1 + sums.positive.rest), 1 / (1 + sums.negative.rest))


def limit(dtype: Any, /, *, xp: Namespace) -> float:
    """Below it a sum, its reciprocal and the product of two sums are within the range of ``dtype``."""
    return sqrt(float(xp.finfo(dtype).max))


def _capped_exp(gap: Any, *, xp: Namespace) -> Any:
    cap = log(float(xp.finfo(gap.dtype).max)) - 0.5
    return xp.exp(xp.where(gap > cap, cap, gap))
