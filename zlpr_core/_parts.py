r"""A row whose classes are seen in parts: chunks in time, or shards in space.

Each part has its own :math:`1 + \Sigma = e^m (1 + r)`, and in the whole the 1 counts once.
"""

from collections.abc import Sequence
from typing import Any

from ._namespace import largest
from ._reduce import ShiftedSum
from ._terms import Halves
from ._typing import Namespace


def merge(parts: ShiftedSum, /, *, axis: tuple[int, ...], xp: Namespace) -> ShiftedSum:
    """The sum of each whole row. Its parts lie along ``axis``, in any order; that stays as an axis of length 1.

    A part adds ``e^(m_k - m) (1 + r_k) - e^-m``. By ``expm1`` that is exactly ``r_k`` where no shift is needed, so that
    small sums keep their digits.
    """
    shift = xp.max(parts.shift, axis=axis, keepdims=True)
    each, common = (_finite(part, xp=xp) for part in (parts.shift, shift))
    one = xp.expm1(-common)
    added = xp.exp(each - common) * parts.rest + (xp.expm1(each - common) - one)
    return ShiftedSum(shift, xp.sum(added, axis=axis, keepdims=True) + one)


def merge_chunks(chunks: Sequence[Sequence[ShiftedSum]], /, *, xp: Namespace) -> Halves:
    """The sums of whole rows from those of either half of each chunk, whose class axis is the last, of length 1."""
    axis = (len(chunks[0][0].shift.shape) - 1,)
    wholes = []
    for half in zip(*chunks, strict=True):
        shift, rest = (xp.concat(list(parts), axis=-1) for parts in zip(*half, strict=True))
        wholes.append(merge(ShiftedSum(shift, rest), axis=axis, xp=xp))
    return Halves(*wholes)


def _finite(shift: Any, *, xp: Namespace) -> Any:
    """An infinite sum stays infinite by its shift, from which nothing may be subtracted."""
    most = largest(shift.dtype, xp=xp)
    return xp.where(shift <= most, shift, most)
