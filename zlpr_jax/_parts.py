"""Rows whose classes are seen in parts: chunks of a linear layer's classes, and shards of them on several devices."""

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from zlpr_core._checks import check_chunk
from zlpr_core._indices import Ids, part_of_ids
from zlpr_core._namespace import namespace_from
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum
from zlpr_core._terms import Halves

from ._namespace import xp

CELLS = 1 << 20
"""Logits in a chunk unless told: 4 MiB in float32, of which XLA keeps five copies for the gradient."""
LEAST = 16
"""How much smaller than asked for a chunk may be before all classes at once are better."""


def psum(x: Any, axis_name: Any) -> Any:
    """Over the devices; of a Python number a Python number. Its transpose leaves the upstream gradient as it is."""
    return lax.psum(x, axis_name)  # type: ignore[no-untyped-call]


def _pmax(x: jax.Array, axis_name: Any) -> Any:
    """Of shifts, which are constant to differentiation: JAX has no rule for it."""
    return lax.pmax(lax.stop_gradient(x), axis_name)  # type: ignore[no-untyped-call]


devices = namespace_from(
    jnp,
    max=lambda x, *, axis, keepdims: _pmax(x, axis),
    sum=lambda x, *, axis, keepdims: psum(x, axis),
)
"""JAX's functions with reductions over the devices of a named axis in place of an axis of an array."""


def over_devices(sums: Halves, axis_name: Any) -> Halves:
    """The sums of whole rows from those of each device's classes: 16 bytes a row are exchanged."""
    return Halves(*(merge(half, axis=axis_name, xp=devices) for half in sums))


class Chunk(NamedTuple):
    """``size`` of the ``classes`` of a layer: every ``step``-th from ``first`` on, which may be traced."""

    classes: int
    first: Any
    step: int
    size: int

    def of(self, array: Any, axis: int) -> Any:
        """Its part of an array that has the classes on ``axis``; any other is the same for all classes."""
        if array.ndim < -axis or array.shape[axis] != self.classes or self.size == self.classes:
            return array
        axis %= array.ndim
        if self.step == 1:
            return lax.dynamic_slice_in_dim(array, self.first, self.size, axis)
        split = array.reshape(*array.shape[:axis], self.size, self.step, *array.shape[axis + 1 :])
        return lax.dynamic_index_in_dim(split, self.first, axis + 1, keepdims=False)

    def marked(self, read: Ids) -> jax.Array:
        """Its hard targets."""
        mine = ~read.unused & (read.ids % self.step == self.first % self.step)
        ids = (read.ids - self.first) // self.step
        hot: jax.Array = part_of_ids(read._replace(ids=ids, unused=~mine), 0, self.size, xp=xp)
        return hot


class Cut(NamedTuple):
    """How the classes are cut: ``parts`` chunks of one size, and what is left over as a smaller one.

    ``interleaved``: a chunk has every ``parts``-th class, and nothing is left over. So where the classes lie on several
    devices, each has its share of every chunk; of neighbours one device has all, and the others would wait for them.
    """

    classes: int
    parts: int
    size: int
    interleaved: bool

    @classmethod
    def of(cls, rows: tuple[Any, ...], classes: int, chunk: int | None, *, interleaved: bool) -> "Cut":
        """By the number of classes asked for, else by that of logits."""
        known = prod(size for size in rows if isinstance(size, int))  # jax.export has sizes that are symbols
        size = min(classes, max(1, CELLS // max(known, 1)) if chunk is None else check_chunk(chunk))
        if not interleaved:
            return cls(classes, classes // size, size, False)
        count = next(n for n in range(-(-classes // size), classes + 1) if classes % n == 0)
        too_small = chunk is None and classes // count < size // LEAST
        return cls(classes, 1, classes, True) if too_small else cls(classes, count, classes // count, True)

    def chunk(self, number: Any) -> Chunk:
        """One of the ``parts``."""
        if self.interleaved:
            return Chunk(self.classes, number, self.parts, self.size)
        return Chunk(self.classes, number * self.size, 1, self.size)

    @property
    def is_whole(self) -> bool:
        """True if one chunk has all classes."""
        return self.size == self.classes

    @property
    def rest(self) -> list[Chunk]:
        """What is left over, if anything is."""
        done = self.parts * self.size
        return [Chunk(self.classes, done, 1, self.classes - done)] if done < self.classes else []


def side_by_side(chunks: ShiftedSum, rest: list[ShiftedSum]) -> ShiftedSum:
    """The sums of chunks, from the first axis to the last, where XLA adds many without losing digits."""
    moved = [jnp.moveaxis(part[..., 0], 0, -1) for part in chunks]
    return ShiftedSum(*(jnp.concatenate([part, *(r[i] for r in rest)], axis=-1) for i, part in enumerate(moved)))
