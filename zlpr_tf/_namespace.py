"""``keras.ops`` spelled as ``zlpr_core.Namespace``: TensorFlow, or whichever backend Keras runs on."""

from math import inf, prod
from typing import Any

import ml_dtypes
from keras import backend, ops

from zlpr_core._namespace import namespace_from


def _astype(x: Any, dtype: str, /) -> Any:
    return ops.cast(x, dtype)


def _isdtype(dtype: Any, kind: str | tuple[str, ...], /) -> bool:
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
    # numbers take the dtype of the tensor beside them; Keras would take them through float32
    if isinstance(x1, (int, float)):
        x1 = ops.convert_to_tensor(x1, dtype=x2.dtype)
    if isinstance(x2, (int, float)):
        x2 = ops.convert_to_tensor(x2, dtype=x1.dtype)
    return ops.where(condition, x1, x2)


def _floor(x: Any, /) -> Any:
    return ops.cast(ops.floor(x), x.dtype)  # on torch Keras makes float32 of float64


def _max(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return ops.max(x, axis=axis, keepdims=keepdims, initial=-inf)  # without it an empty batch raises


def _sum(x: Any, /, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    if backend.backend() != "tensorflow":
        return ops.sum(x, axis=axis, keepdims=keepdims)
    # TensorFlow adds one by one: 10 000 equal float32 terms are off by 8e-6
    return ops.cast(ops.sum(ops.cast(_partly_summed(x, axis), "float64"), axis=axis, keepdims=keepdims), x.dtype)


def _partly_summed(x: Any, axis: tuple[int, ...]) -> Any:
    """Up to 32 terms added already, where that takes no copy: float64 would be a copy of twice the size."""
    *rows, classes = ops.shape(x)
    if len(rows) not in axis or not isinstance(classes, int):
        return x
    best_first = (*range(16, 7, -1), *range(17, 33), *range(7, 0, -1))  # fewer take room, more take time
    together = next(n for n in best_first if classes % n == 0)
    return ops.sum(ops.reshape(x, (*rows, together, classes // together)), axis=-2)  # XLA adds neighbours one by one


def _asarray(x: Any, /, *, device: Any) -> Any:
    return ops.convert_to_tensor(x)


def _shape_of(x: Any, ids: Any, /) -> tuple[Any, ...]:
    return tuple(size if isinstance(size, int) else ops.cast(size, ids.dtype) for size in ops.shape(x))


def _mark(ids: Any, classes: Any, /) -> Any:
    *rows, slots = ops.shape(ids)
    flat = ops.reshape(ids, (-1,))
    row = ops.repeat(ops.arange(prod(rows), dtype=ids.dtype), slots)
    columns = ops.cast(classes, "int32") if hasattr(classes, "dtype") else classes
    hot = ops.zeros((prod(rows), columns + 1), "bool")
    hot = ops.scatter_update(hot, ops.stack([row, flat], axis=-1), ops.ones_like(flat, "bool"))
    return ops.reshape(hot[:, :columns], (*rows, columns))


xp = namespace_from(
    ops,
    float32="float32",
    float64="float64",
    int8="int8",
    int32="int32",
    int64="int64",
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
    mark=_mark,
    shape_of=_shape_of,
    stop_gradient=ops.stop_gradient,
    dialect={"targets": "labels"},
)
