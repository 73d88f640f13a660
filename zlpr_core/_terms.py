"""From the arguments of a loss to the terms of its two halves."""

from math import inf, nan
from typing import Any, NamedTuple

from ._checks import check_pair
from ._namespace import compute_dtype, largest
from ._options import Options, is_number
from ._reduce import Terms, absent
from ._targets import read_targets
from ._typing import Array, Extended, Namespace


class Halves(NamedTuple):
    """One thing of the positive half, ``log(1 + Σ a e^-z)``, and the same of the negative, ``log(1 + Σ b e^z)``."""

    positive: Any
    negative: Any


def halves_of(logits: Array, targets: Array, options: Options, /, *, xp: Extended) -> Halves:
    """The Terms of each half. Every loss of logits and targets starts here."""
    check_pair(logits, targets, xp=xp)
    where, dtype = options.where, compute_dtype(logits.dtype, xp=xp)
    t, legal = read_targets(targets, dtype, xp=xp)
    z = xp.astype(logits, dtype)
    if legal is not None:
        z, t = _spoil(z, t, legal, xp=xp)
    z, lost = subtract(z, options.threshold, xp=xp)
    z, lost, t = keep(z, where, xp=xp), keep(lost, where, xp=xp), keep(t, where, xp=xp)
    rest = keep(~t if xp.isdtype(t.dtype, "bool") else 1 - t, where, xp=xp)
    weight, pos_weight = _weights(options, z, xp=xp)
    positive = _half(-z, t, [weight, pos_weight], None if lost is None else -lost, xp=xp)
    return Halves(positive, _half(z, rest, [weight], lost, xp=xp))


def _spoil(z: Any, t: Any, legal: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """NaN in the cells of illegal targets: in the target where it is a number, else added to the logit.

    A ``where`` around the logit would do for the value, but cut the cell off, and give it a gradient of 0.
    """
    if xp.isdtype(t.dtype, "bool"):
        return z + xp.where(legal, xp.astype(~legal, z.dtype), nan), t
    return z, xp.where(legal, t, nan)


def _half(logit: Any, share: Any, weights: list[Any], lost: Any, *, xp: Namespace) -> Terms:
    """A hard cell is in this half or absent from it; a soft one is in it by its share, as a weight."""
    factors = [factor for factor in weights if factor is not None]
    if xp.isdtype(share.dtype, "bool"):
        logit = xp.where(share, logit, absent(logit.dtype, xp=xp))
    else:
        factors = [share, *factors]
    weight = None
    for factor in factors:
        weight = factor if weight is None else factor * weight
    return Terms(logit, weight, lost)


def subtract(z: Any, threshold: Any, /, *, xp: Namespace) -> tuple[Any, Any]:
    """``z - threshold`` and the rounding error of that difference (Knuth's TwoSum), None if nothing was subtracted.

    The error must not be dropped: at z = -69 in float32 it would be 4e-6 of ``e^z``.
    """
    if is_number(threshold) and threshold == 0:
        return z, None
    theta = threshold if is_number(threshold) else xp.astype(threshold, z.dtype)
    finite = xp.where(abs(z) <= largest(z.dtype, xp=xp), z, 0.0)
    difference = finite - theta
    part = difference - finite
    lost = (finite - (difference - part)) - (theta + part)
    # Terms uses 1 + lost for e^lost. A larger error comes with a z so large that the loss does not notice it.
    return z - theta, xp.where(abs(lost) < 0.01, lost, 0.0)


def keep(cells: Any, where: Any, /, *, xp: Namespace) -> Any:
    """``cells`` with 0 or False where ``where`` is False, whatever they hold there. None stays None."""
    if where is None or cells is None:
        return cells
    return cells & where if xp.isdtype(cells.dtype, "bool") else xp.where(where, cells, 0.0)


def is_movable(logits: Array, where: Any, /, *, xp: Namespace) -> Any:
    """True where a step can move a logit: the gradient of a masked or infinite one is 0."""
    finite: Any = ~(abs(logits) > largest(logits.dtype, xp=xp))
    return finite if where is None else finite & where


def _weights(options: Options, like: Any, *, xp: Namespace) -> list[Any]:
    """``weight`` and ``pos_weight`` as arrays that broadcast to ``like``, 0 where masked."""
    given = (options.weight, options.pos_weight)
    return [
        None if weight is None else keep(_non_negative(weight, like, xp=xp), options.where, xp=xp) for weight in given
    ]


def _non_negative(weight: Any, like: Any, *, xp: Namespace) -> Any:
    """In the dtype of ``like``, with NaN in place of what is no weight: negative, infinite or NaN."""
    if is_number(weight):
        return xp.astype(like == like, like.dtype) * (weight if 0 <= weight < inf else nan)
    weight = xp.astype(weight, like.dtype)
    return xp.where((weight >= 0) & (weight <= largest(like.dtype, xp=xp)), weight, nan)
