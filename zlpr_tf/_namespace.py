"""``keras.ops`` spelled as ``zlpr_core.Namespace``: TensorFlow, or whichever backend Keras runs on."""

from math import copysign, isfinite, isnan, prod
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np
from keras import KerasTensor, backend, ops

from zlpr_core._checks import same_shape
from zlpr_core._namespace import largest, namespace_from
from zlpr_core._options import Logits
from zlpr_core._typing import Extended

if backend.backend() == "tensorflow":
    import tensorflow as tf

    from ._tensorflow_internals import is_compiled_by_xla
elif backend.backend() == "jax":
    import jax
else:
    import torch


def _astype(x: Any, dtype: str, /) -> Any:
    if backend.backend() == "jax":  # without x64 it would warn that there is no int64
        dtype = jax.dtypes.canonicalize_dtype(dtype).name
    return ops.cast(x, dtype)


def _isdtype(dtype: Any, kind: str | tuple[str, ...], /) -> bool:
    if isinstance(dtype, np.dtype) and backend.backend() != "jax":
        msg = "a dtype of NumPy"  # by this the core sees that it must convert an option: torch does not mix with NumPy
        raise TypeError(msg)
    own = backend.standardize_dtype(dtype)
    kinds = (kind,) if isinstance(kind, str) else kind
    return own in kinds or _kind(own) in kinds or ("unsigned integer" in kinds and own.startswith("uint"))


def _kind(dtype: str) -> str:
    if dtype.startswith(("int", "uint")):
        return "integral"
    return "real floating" if dtype.startswith(("float", "bfloat")) else dtype


def _finfo(dtype: Any, /) -> Any:
    return ml_dtypes.finfo(backend.standardize_dtype(dtype))


def _where(condition: Any, x1: Any, x2: Any, /) -> Any:
    # A number takes the dtype of the tensor beside it. Keras would round it to float32 first.
    if isinstance(x1, (int, float)):
        x1 = _number(x1, x2.dtype, condition)
    if isinstance(x2, (int, float)):
        x2 = _number(x2, x1.dtype, condition, chosen=False)
    return ops.where(condition, x1, x2)


def _number(value: float, dtype: Any, condition: Any, *, chosen: bool = True) -> Any:
    """``value`` as a tensor. In a graph of TensorFlow NaN and infinity arise only where ``condition is chosen``.

    ``tf.debugging.enable_check_numerics`` reports such a number in a graph although nothing ever takes it. XLA, which
    refuses those checks, is spared a division a cell.
    """
    if not isfinite(value) and backend.backend() == "jax":  # jax_debug_nans would report a NaN that is made a tensor
        return np.asarray(value, backend.standardize_dtype(dtype))
    if isfinite(value) or not is_in_graph() or is_compiled_by_xla():
        return ops.convert_to_tensor(value, dtype=dtype)
    dividend = 0.0 if isnan(value) else copysign(1.0, value)
    return ops.convert_to_tensor(dividend, dtype=dtype) / ops.cast(~condition if chosen else condition, dtype)


def is_in_graph() -> bool:
    """True if a graph of TensorFlow is being built."""
    return backend.backend() == "tensorflow" and not tf.executing_eagerly()


def _floor(x: Any, /) -> Any:
    return ops.cast(ops.floor(x), x.dtype)  # on torch Keras makes float32 of float64


def _max(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    if backend.backend() == "torch":
        return torch.amax(x, dim=axis, keepdim=keepdims)  # Keras's refuses meta tensors, by which it finds out shapes
    least = -largest(x.dtype, xp=xp)  # without `initial` an empty batch raises; -inf sets off `enable_check_numerics`
    return ops.max(x, axis=axis, keepdims=keepdims, initial=least)


def _sum(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    if backend.backend() != "tensorflow":
        return ops.sum(x, axis=axis, keepdims=keepdims)
    # XLA stores what more than 32 neighbours are summed of. Any shorter or strided sum becomes one loop with the cells,
    # which is not vectorised if these take more than a few operations: ten times as long (TensorFlow 2.21 on a CPU).
    # The longest first, as what is left of a vector is computed one by one; longer ones lose digits.
    return _in_float64(x, _parts(x, axis, (*range(256, 32, -1), *range(257, 513)), -1), axis, keepdims)


def _sum_in_loop(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    # By preference: with fewer terms to a sum the copy takes more memory, with more the sums take more time.
    return _in_float64(x, _parts(x, axis, (*range(16, 7, -1), *range(17, 33), *range(7, 1, -1)), -2), axis, keepdims)


def _sum_in_short_loop(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    # With more than 16 such terms LLVM neither unrolls nor vectorises the loop: eight times as long.
    return _in_float64(x, _parts(x, axis, (*range(16, 1, -1), *range(17, 33)), -2), axis, keepdims)


def _in_float64(x: Any, parts: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """The sum of ``parts``, as TensorFlow adds one by one: 10 000 equal float32 terms are off by 8e-6."""
    return ops.cast(ops.sum(ops.cast(parts, "float64"), axis=axis, keepdims=keepdims), x.dtype)


def _parts(x: Any, axis: tuple[int, ...], lengths: tuple[int, ...], place: int) -> Any:
    """Sums of a few terms each, where that takes no transpose: all of ``x`` in float64 would be twice its size."""
    *rows, classes = ops.shape(x)
    if len(rows) not in axis or not isinstance(classes, int):
        return x
    length = next((n for n in lengths if classes % n == 0), 1)
    parts = [classes // length, length] if place == -1 else [length, classes // length]
    return ops.sum(ops.reshape(x, (*rows, *parts)), axis=place)


def _asarray(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return ops.convert_to_tensor(x, dtype=dtype)


def _is_readable(x: Any, /) -> bool:
    """False for what has no values yet (symbolic tensors of Keras, graphs, tracers), and off the CPU."""
    if isinstance(x, KerasTensor):
        return False
    if backend.backend() == "tensorflow":
        return hasattr(x, "numpy") and "CPU" in x.device and tf.executing_eagerly()
    if backend.backend() == "jax":
        return not isinstance(x, jax.core.Tracer) and {device.platform for device in x.devices()} == {"cpu"}
    return _is_readable_by_torch(x)


def _is_readable_by_torch(x: Any) -> bool:
    """By trying on an empty part: vmap, FakeTensorMode and ``make_fx`` refuse to give a value by a RuntimeError."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or torch.compiler.is_compiling() or not x.is_cpu:
        return False
    try:
        bool(x.reshape(-1)[:0].any())
    except RuntimeError:
        return False
    return True


def of_shape(x: Any, like: Any) -> Any:
    """``x``; if sizes that are unknown while tracing turn out to differ, this raises, where they would be broadcast."""
    unknown = None in (*x.shape, *like.shape) and same_shape(x.shape, like.shape)
    return ops.reshape(x, ops.shape(like)) if unknown else x


def _shape_of(x: Any, ids: Any, /) -> tuple[Any, ...]:
    # A size that is unknown while tracing is a tensor in TensorFlow. In JAX it is an expression, which stays one.
    sizes = x.shape if isinstance(x, Logits) else ops.shape(x)
    return tuple(ops.cast(size, ids.dtype) if hasattr(size, "dtype") else size for size in sizes)


def _mark(ids: Any, classes: Any, /) -> Any:
    *rows, _ = ops.shape(ids)
    flat = ops.reshape(ids, (-1,))
    row = ops.reshape(ops.arange(prod(rows), dtype=ids.dtype), (*rows, 1)) + ops.zeros_like(ids)
    columns = ops.cast(classes, "int32") if hasattr(classes, "dtype") else classes
    hot = ops.zeros((prod(rows), columns + 1), "bool")
    hot = ops.scatter_update(hot, ops.stack([ops.reshape(row, (-1,)), flat], axis=-1), ops.ones_like(flat, "bool"))
    return ops.reshape(hot[:, :columns], (*rows, columns))


xp = namespace_from(
    ops,
    bool="bool",
    float32="float32",
    float64="float64",
    int8="int8",
    int32="int32",
    int64="int64",
    uint32="uint32",
    uint64="uint64",
    astype=_astype,
    isdtype=_isdtype,
    finfo=_finfo,
    where=_where,
    floor=_floor,
    max=_max,
    sum=_sum,
    permute_dims=ops.transpose,
    asarray=_asarray,
    device=lambda x: None,  # Keras places tensors by itself
    readable=_is_readable,
    mark=_mark,
    shape_of=_shape_of,
    stop_gradient=ops.stop_gradient,
    dialect={
        "targets": "labels",
        "linear_weight": "kernel",
        "zlpr": "zlpr_loss",
        "sparse_zlpr": "sparse_zlpr_loss",
        "sparse_linear_zlpr": "sparse_linear_zlpr_loss",
    },
)
xp_in_loop = cast("Extended", SimpleNamespace(**{**vars(xp), "sum": _sum_in_loop}))
"""``xp`` for sums of terms that take few operations each: XLA stores no terms, but computes them as it adds them up."""
xp_in_short_loop = cast("Extended", SimpleNamespace(**{**vars(xp), "sum": _sum_in_short_loop}))
"""The same for terms that take more operations each, by sums of fewer of them."""
