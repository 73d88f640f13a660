"""Which array library computes: the one passed in, or the one that the arrays come from."""

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, cast

from array_api_compat import array_namespace, device

from ._typing import Extended, Namespace

_NUMPY = frozenset({"numpy", "array_api_compat.numpy"})
# these add float32 one by one along any axis but the contiguous one: 10 000 equal terms are off by 2e-5
_NAIVE_SUM = _NUMPY | {"array_api_strict", "array_api_compat.dask.array"}
_MEMBERS = frozenset(Namespace.__annotations__) | {member for member in vars(Namespace) if not member.startswith("_")}

P = ParamSpec("P")
R = TypeVar("R")


def namespace_from(library: Any, **own: Any) -> Extended:
    """``library`` with all that the core asks for: its names replaced by those in ``own``, which may add others."""
    taken = {member: getattr(library, member) for member in _MEMBERS if member not in own}

    def mark(ids: Any, classes: int, /) -> Any:
        return _marked_slot_by_slot(library, ids, classes)

    ours = {
        "dialect": {},
        "mark": mark,
        "shape_of": lambda x, ids: x.shape,
        "stop_gradient": lambda x: x,
        "compiling": lambda: False,
    }
    return cast("Extended", SimpleNamespace(**{**taken, **ours, **own}))


def bound(function: Callable[P, R], xp: Extended, convert: Callable[[Any], Any] = lambda x: x) -> Callable[P, R]:
    """A function of the core in one framework's own namespace; ``convert`` makes arrays of what is not a number."""

    positional = [p.name for p in signature(function).parameters.values() if p.kind is p.POSITIONAL_ONLY]

    @wraps(function)
    def in_namespace(*args: P.args, **kwargs: P.kwargs) -> R:
        options: dict[str, Any] = {**kwargs, "xp": xp}  # last: tf.function passes every default, None for xp
        options |= {name: convert(options[name]) for name in ("where", "threshold") if name in options}
        arrays = [*args, *(options.pop(name) for name in positional[len(args) :] if name in options)]
        return function(*map(convert, arrays), **options)

    return in_namespace


def infer(xp: Namespace | None, /, **arrays: Any) -> Extended:
    """The namespace asked for, or the one that the named arrays have in common."""
    if xp is None:
        xp = _common_namespace(arrays)
    library: Any = xp
    return cast("Extended", xp) if hasattr(xp, "mark") else _extended(library)


def _common_namespace(arrays: dict[str, Any]) -> Namespace:
    try:
        return cast("Namespace", array_namespace(*arrays.values()))
    except TypeError:
        kinds = " and ".join(f"`{argument}` of type {type(array).__name__}" for argument, array in arrays.items())
        msg = f"Expected arrays of one library that array-api-compat knows. Received: {kinds}. Convert, or pass `xp`."
        raise TypeError(msg) from None


@cache
def _extended(library: Any) -> Extended:
    def sum_in_float64(x: Any, /, *, axis: Any, keepdims: bool) -> Any:
        return library.astype(library.sum(x, axis=axis, keepdims=keepdims, dtype=library.float64), x.dtype)

    def mark(ids: Any, classes: int, /) -> Any:
        hot = library.zeros((*ids.shape[:-1], classes + 1), dtype=bool)
        library.put_along_axis(hot, ids, True, axis=-1)
        return hot[..., :classes]

    name = getattr(library, "__name__", None)
    own: dict[str, Any] = {"sum": sum_in_float64} if name in _NAIVE_SUM else {}
    return namespace_from(library, **own, **({"mark": mark} if name in _NUMPY else {}))


def _marked_slot_by_slot(library: Any, ids: Any, classes: int) -> Any:
    """The standard has no scatter, and ids against classes all at once would take P bytes a logit."""
    every = library.arange(classes, dtype=ids.dtype, device=device(ids))
    hot = library.zeros((*ids.shape[:-1], classes), dtype=library.bool, device=device(ids))
    for slot in range(ids.shape[-1]):
        hot = hot | (ids[..., slot : slot + 1] == every)
    return hot
