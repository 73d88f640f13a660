"""Which array library computes, the one passed in or the one that the arrays come from, and in which dtype."""

from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from array_api_compat import array_namespace, device

from ._checks import refuse_sparse
from ._typing import Extended, Namespace

_NUMPY = frozenset({"numpy", "array_api_compat.numpy"})
# These add float32 one by one along any axis but the contiguous one: 10 000 equal terms are off by 2e-5.
_NAIVE_SUM = _NUMPY | {"array_api_strict", "array_api_compat.dask.array"}
_MEMBERS = frozenset(Namespace.__annotations__) | {member for member in vars(Namespace) if not member.startswith("_")}

_FOR_IDS = frozenset({"any", "arange", "argmax", "asarray", "concat", "permute_dims", "reshape", "zeros"})
"""What the losses of dense targets do without."""
_CREATE = frozenset({"arange", "asarray", "zeros"})


def namespace_from(library: Any, **own: Any) -> Extended:
    """``library`` as the core calls it. ``own`` replaces names of the library, and the defaults of ``Extended``."""
    taken = {**own, **{member: _taken(library, member) for member in sorted(_MEMBERS - own.keys())}}
    defaults = {
        "dialect": {},
        "mark": lambda ids, classes: _mark_slot_by_slot(SimpleNamespace(**taken), ids, classes),
        "shape_of": lambda x, ids: x.shape,
        "stop_gradient": lambda x: x,
        "lift": lambda x, rank: x,
        "device": _device,
        "readable": lambda x: _is_readable(SimpleNamespace(**taken), x),
    }
    return cast("Extended", SimpleNamespace(**{**defaults, **taken}))


def infer(xp: Namespace | None, /, **arrays: Any) -> Extended:
    """The namespace asked for, or the one that the named arrays have in common."""
    library: Any = _common_namespace(arrays) if xp is None else xp
    return cast("Extended", library) if hasattr(library, "readable") else _extended(library)


def compute_dtype(dtype: Any, /, *, xp: Namespace) -> Any:
    """float64 for float64 and what is wider, such as NumPy's longdouble; everything else computes in float32."""
    if xp.isdtype(dtype, xp.float32):  # nearly every call
        return xp.float32
    is_wide = xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits > 32
    return xp.float64 if is_wide else xp.float32


def largest(dtype: Any, /, *, xp: Namespace) -> float:
    """What is above it is infinite. A constant ``inf`` in a graph sets off ``enable_check_numerics`` of TensorFlow."""
    return float(xp.finfo(dtype).max)


def _common_namespace(arrays: dict[str, Any]) -> Namespace:
    try:
        return cast("Namespace", array_namespace(*arrays.values()))
    except TypeError:
        for argument, array in arrays.items():
            refuse_sparse(array, argument, xp=None)
        kinds = " and ".join(f"`{argument}` of type {type(array).__name__}" for argument, array in arrays.items())
        msg = f"Expected arrays of one library that array-api-compat knows. Received: {kinds}. Convert, or pass `xp`."
        raise TypeError(msg) from None


@cache
def _extended(library: Any) -> Extended:
    """A library of the standard, with the sum and the scatter of NumPy where the standard's lose digits or time."""
    if hasattr(library, "asarray"):
        _check_where(library)

    def sum_in_float64(x: Any, /, *, axis: Any, keepdims: bool) -> Any:
        return library.astype(library.sum(x, axis=axis, keepdims=keepdims, dtype=library.float64), x.dtype)

    def mark(ids: Any, classes: int, /) -> Any:
        hot = library.zeros((*ids.shape[:-1], classes + 1), dtype=bool)
        library.put_along_axis(hot, ids, True, axis=-1)
        return hot[..., :classes]

    name = getattr(library, "__name__", None)
    own: dict[str, Any] = {"sum": sum_in_float64} if name in _NAIVE_SUM else {}
    return namespace_from(library, **own, **({"mark": mark} if name in _NUMPY else {}))


def _check_where(library: Any) -> None:
    """Raise for a library of an older standard, in which every loss would fail in words about ``where``."""
    one = library.asarray([1.0])
    try:
        library.where(one > 0, one, 0.0)
    except (AttributeError, TypeError):
        version = getattr(library, "__array_api_version__", "unknown")
        msg = (
            f"The array library must take numbers in `where`, as the array API standard says since 2024.12. Received: "
            f"{getattr(library, '__name__', library)} of version {version}."
        )
        raise TypeError(msg) from None


def _taken(library: Any, member: str) -> Any:
    """A function of the library; for one that no loss of dense targets needs and it lacks, an error to come."""
    if member == "bool" and not hasattr(library, member):
        return library.bool_  # MLX's word, and NumPy's before 2
    if hasattr(library, member) or member not in _FOR_IDS:
        function = getattr(library, member)
        return _placing(function) if member in _CREATE else function

    def absent(*_: Any, **__: Any) -> Any:
        own = getattr(library, "__name__", type(library).__name__)
        users = "Class ids, linear layers, `check_targets` and options as lists"
        msg = f"{users} need `{member}`, which the array library {own} lacks."
        raise NotImplementedError(msg)

    return absent


def _placing(create: Any) -> Any:
    """``create`` with a ``device`` only where there is one to name: MLX's functions know no such argument."""

    def placed(x: Any, /, *, device: Any = None, **dtype: Any) -> Any:
        return create(x, **dtype) if device is None else create(x, device=device, **dtype)

    return placed


def _device(x: Any, /) -> Any:
    """None for an array that does not say where it lies, as MLX's: such a library has no devices to choose from."""
    try:
        return device(x)
    except AttributeError:
        return None


def _mark_slot_by_slot(library: Any, ids: Any, classes: int) -> Any:
    """One slot of all examples at a time: the standard has no scatter, and all at once would take P bytes a logit."""
    every = library.arange(classes, dtype=ids.dtype, device=_device(ids))
    hot = library.zeros((*ids.shape[:-1], classes), dtype=library.bool, device=_device(ids))
    for slot in range(ids.shape[-1]):
        hot = hot | (ids[..., slot : slot + 1] == every)
    return hot


def _is_readable(library: Any, x: Any) -> bool:
    """By trying on an empty part of ``x``: JAX, and torch under a transform, refuse a traced value by an exception."""
    if "cpu" not in str(_device(x)).lower():
        return False
    none = library.any(library.reshape(x, (-1,))[:0], axis=0)
    try:
        bool(none)
    except (TypeError, RuntimeError):
        return False
    return True
