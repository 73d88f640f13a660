"""Class ids, in whatever form users of JAX have them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.dtypes import canonicalize_dtype
from jax.experimental.sparse import BCOO

from zlpr_core._checks import class_axes, refuse_sparse
from zlpr_core._indices import Ids, check_matrix, indicated, is_matrix, part_of_ids, read_ids
from zlpr_core._options import Logits
from zlpr_core._typing import Axis

from ._namespace import xp
from ._parts import psum


def labels_of(indices: Any, scores: Array, axis: Axis, pad: int | None, axis_name: Any) -> Any:
    """Hard labels of the shape of ``scores``, for the loss of class ids."""
    if axis_name is not None:
        _check_last(axis, scores)
        return part_of_ids(ids_of_device(indices, scores, pad, axis_name), 0, scores.shape[-1], xp=xp)
    if isinstance(indices, BCOO):
        return _of_matrix(indices, scores, axis)
    return indicated(indices if is_matrix(indices) else _array(indices), scores, axis, pad, xp=xp)


def _array(indices: Any) -> Any:
    """Lists stay, as their lengths may differ."""
    if isinstance(indices, np.ndarray):
        _check_narrowed(indices)
    return indices if isinstance(indices, (list, tuple)) else jnp.asarray(indices)


def _check_last(axis: Axis, scores: Array) -> None:
    if class_axes(scores, axis, xp=xp) != (scores.ndim - 1,):
        msg = f"`axis` must be the last one where ids count the classes of several devices. Received: {axis!r}."
        raise ValueError(msg)


def _check_narrowed(ids: np.ndarray[Any, Any]) -> None:
    """Without x64 JAX makes int32 of int64, and another class of an id beyond."""
    wrong = ids != ids.astype(canonicalize_dtype(ids.dtype))
    if wrong.any():
        msg = f"`indices` must fit JAX's integers, which are 32 bits wide unless x64 is on. Received: {ids[wrong][0]}."
        raise IndexError(msg)


def _of_matrix(matrix: BCOO, scores: Array, axis: Axis) -> Array:
    """int8, with 2 where an entry is neither 0 nor 1, which makes the loss NaN."""
    check_matrix(matrix, scores, axis, xp=xp)
    flat = matrix.update_layout(n_batch=0, on_inefficient=None)  # type: ignore[arg-type]
    kinds = jnp.where(flat.data == 0, 0, jnp.where(flat.data == 1, 1, 2)).astype(jnp.int8)
    return jnp.zeros(matrix.shape, jnp.int8).at[flat.indices[:, 0], flat.indices[:, 1]].max(kinds, mode="drop")


def ids_of_device(indices: Any, logits: Any, pad: int | None, axis_name: Any) -> Ids:
    """The ids, counted from the first class of this device on; ``logits`` has the shape of its own."""
    own = logits.shape[-1]
    devices = 1 if axis_name is None else psum(1, axis_name)
    whole: Any = Logits((*logits.shape[:-1], own * devices), logits.dtype, None)
    refuse_sparse(indices, "indices", xp=xp)
    read, _ = read_ids(_array(indices), whole, (len(whole.shape) - 1,), pad, xp=xp)
    if axis_name is None:
        return read
    ids = read.ids - own * lax.axis_index(axis_name)
    return read._replace(ids=ids, unused=read.unused | (ids < 0) | (ids >= own))
