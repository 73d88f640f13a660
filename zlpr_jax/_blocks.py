"""Loops over parts of a batch, and conditions that stay conditions under ``vmap``."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

Tree = TypeVar("Tree")
Axes = tuple[int, ...]


def is_on_cpu() -> bool:
    """What XLA makes of the same formula differs there; the numbers are right either way."""
    return jax.default_backend() == "cpu"


def on_one_device(array: jax.Array) -> bool:
    """True on the only device of the process, where a condition and a loop over the batch cost little.

    Several devices would wait for each other to agree on the branch, and under ``jit`` nothing tells over how many
    devices an array is spread.
    """
    described = jax.typeof(array) if hasattr(jax, "typeof") else None
    in_no_mesh = described is None or described.sharding.mesh.empty
    return in_no_mesh and jax.device_count() == 1


def by_parts(function: Callable[..., Tree], into: Tree, arrays: Sequence[jax.Array], axes: Axes, parts: int) -> Tree:
    """``function`` of ``arrays`` in place of ``into``, for one part after another of the longest axis of the batch.

    Of the whole batch at once XLA would set aside several arrays of the logits' size, in a branch that is hardly ever
    taken too (jaxlib 0.10: on a CPU each sum is taken of an array of its terms). Without an axis beside ``axes``, or
    with a symbolic one of ``jax.export``, there is one part.
    """
    like = arrays[0]
    batch = [a for a in range(like.ndim) if a not in axes and isinstance(like.shape[a], int)]
    axis = max(batch, key=lambda a: like.shape[a], default=None)
    if axis is None:
        return function(*arrays)
    count = like.shape[axis]
    step = -(-count // parts)

    def one_part(part: jax.Array, done: Tree) -> Tree:
        first = jnp.minimum(part * step, count - step)  # the last part overlaps the one before
        found = function(*(lax.dynamic_slice_in_dim(x, first, step, axis) for x in arrays))
        updated: Tree = jax.tree.map(partial(_updated, axis=axis, first=first), done, found)
        return updated

    looped: Tree = lax.fori_loop(0, -(-count // step) if count else 0, one_part, into)
    return looped


def parts_of(array: jax.Array) -> int:
    """Into how many parts a batch is cut on a CPU: an eighth of its arrays is little beside it, and more parts of less
    than 100 000 logits would take longer."""
    known = prod(size for size in array.shape if isinstance(size, int))
    return max(8, known // 2**17)


def row_numbers(axes: Axes, *arrays: jax.Array) -> jax.Array:
    """Zeros, one a row of ``arrays``, in the dtype that computes: what ``by_parts`` fills."""
    shape = [1 if axis in axes else size for axis, size in enumerate(arrays[0].shape)]
    is_wide = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.zeros(shape, jnp.float64 if is_wide else jnp.float32)


def _updated(whole: jax.Array, part: jax.Array, *, axis: int, first: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(whole, part, first, axis)


def with_one_condition(function: Callable[..., Tree], axes: Axes, *arrays: jax.Array) -> Tree:
    """``function(axes, *arrays)`` with class axes ``axes``, whose results keep the axes of the batch.

    Under ``vmap`` the mapped axis becomes one more axis of the batch, which has one condition. A ``lax.cond`` that is
    mapped itself is a select, which takes both ways in every call.
    """
    either = custom_vmap(partial(function, axes))

    def mapped(size: int, is_mapped: list[bool], *arrays: jax.Array) -> tuple[Tree, Tree]:
        pairs = zip(arrays, is_mapped, strict=True)
        whole = (array if has_axis else jnp.broadcast_to(array, (size, *array.shape)) for array, has_axis in pairs)
        found = with_one_condition(function, tuple(axis + 1 for axis in axes), *whole)
        return found, jax.tree.map(lambda _: True, found)

    either.def_vmap(mapped)
    found: Tree = either(*arrays)
    return found


@jax.custom_jvp
def unshared(arrays: Tree) -> Tree:
    """The same arrays, what is computed of which XLA does not take for what is computed of the originals.

    What two long loops share, XLA on a CPU stores in memory: two arrays of the logits' size more, and half as much time
    again (jaxlib 0.10).
    """
    same: Tree = lax.optimization_barrier(arrays)  # type: ignore[no-untyped-call]
    return same


@unshared.defjvp
def _unshared_jvp(primals: tuple[Tree], tangents: tuple[Tree]) -> tuple[Tree, Tree]:
    """Its own, as jax 0.4.38 has none."""
    return unshared(*primals), tangents[0]
