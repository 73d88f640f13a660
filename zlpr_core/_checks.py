"""What may be passed in, and the one sentence that says so when it may not.

Everything here reads shapes and dtypes, which are known while tracing. Only ``check_targets`` looks at values.
"""

from collections.abc import Sequence
from math import inf, prod
from numbers import Real
from operator import index
from typing import Any

from ._typing import Array, Axis, Namespace


def name(argument: str, xp: Namespace | None) -> str:
    """What the user's framework calls ``argument``, or a function of the core's, quoted."""
    return f"`{getattr(xp, 'dialect', {}).get(argument, argument)}`"


def check_pair(logits: Array, targets: Array, /, *, xp: Namespace) -> None:
    """Real floating logits, and targets of the same shape in a dtype that says hard or soft."""
    check_floating(logits, "logits", xp=xp)
    if not is_kind(targets.dtype, ("bool", "integral", "real floating"), xp=xp):
        msg = f"{name('targets', xp)} must be bool, integer or real floating. Received dtype: {targets.dtype}."
        raise TypeError(msg)
    if hasattr(targets, "toarray"):  # SciPy's, of which an adapter makes no array
        raise sparse_error(targets, "targets", xp=xp)
    if not same_shape(logits.shape, targets.shape):
        msg = (
            f"{name('logits', xp)} and {name('targets', xp)} must have the same shape. Received: "
            f"{tuple(logits.shape)} and {tuple(targets.shape)}. {_likely_fix(logits, targets, xp=xp)}"
        )
        raise ValueError(msg)


def check_floating(logits: Array, argument: str, /, *, xp: Namespace) -> None:
    if not is_kind(logits.dtype, "real floating", xp=xp):
        msg = f"{name(argument, xp)} must have a real floating dtype. Received: {logits.dtype}. Convert it first."
        raise TypeError(msg)


def is_kind(dtype: Any, kind: Any, /, *, xp: Namespace) -> bool:
    """``isdtype``, where a dtype that the library does not know is of no kind."""
    try:
        return bool(xp.isdtype(dtype, kind))
    except (TypeError, ValueError):  # how NumPy and Keras answer
        return False


def check_same_shape(arrays: Sequence[Array], arguments: Sequence[str], /, *, xp: Namespace) -> None:
    """For arrays that stand for the same cells."""
    shapes = [tuple(array.shape) for array in arrays]
    if not same_shape(*shapes):
        names = " and ".join(name(argument, xp) for argument in arguments)
        msg = f"{names} must have the same shape. Received: {shapes[0]} and {shapes[1]}."
        raise ValueError(msg)


def same_shape(left: Sequence[int | None], right: Sequence[int | None]) -> bool:
    """True if equal; an unknown size equals any other: None while tracing, NaN in dask."""
    if tuple(left) == tuple(right):
        return True
    return len(left) == len(right) and all(map(_same_size, left, right))


def _same_size(left: int | None, right: int | None) -> bool:
    unknown = left is None or right is None or left != left or right != right
    return unknown or left == right


def _likely_fix(logits: Array, targets: Array, *, xp: Namespace) -> str:
    if xp.isdtype(targets.dtype, "integral") and len(targets.shape) == len(logits.shape) - 1:
        return one_id_each("targets", xp=xp)
    if xp.isdtype(targets.dtype, "integral"):
        return "For class ids, call `multi_hot` on them first, one row of ids per example."
    return f"{name('targets', xp).capitalize()} are never broadcast: give every class its own, one row per example."


def one_id_each(argument: str, /, *, xp: Namespace) -> str:
    """The fix for class ids of shape [B], one an example, given to either loss."""
    ids = name(argument, xp).strip("`")
    return f"For one class id per example, call {name('sparse_zlpr', xp)} with `{ids}[..., None]`."


def refuse_sparse(value: Any, argument: str, /, *, xp: Namespace | None) -> None:
    """Raise if it is a sparse matrix: SciPy's, JAX's, TensorFlow's, told by their attributes without an import.

    Adapters call it before they convert, which would fail in words that help nobody.
    """
    if any(hasattr(value, attribute) for attribute in ("toarray", "todense", "dense_shape")):
        raise sparse_error(value, argument, xp=xp)


def sparse_error(value: Any, argument: str, /, *, xp: Namespace | None) -> TypeError:
    """For an adapter to raise by itself where the attributes do not tell, as of a sparse torch.Tensor."""
    fix = "make it dense" if argument != "targets" else f"pass it to {name('sparse_zlpr', xp)}, or make it dense"
    return TypeError(f"{name(argument, xp)} must be dense. Received: a sparse {type(value).__name__}; {fix}.")


def check_axis(axis: Any, argument: str, /, *, xp: Namespace | None = None) -> tuple[int, ...]:
    """``axis`` as a tuple of ints, where None means the last. Raise if it can be none, for any logits.

    Constructors call it, so that a bad one is refused there and not by the first batch.
    """
    given = (-1,) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    try:
        if not any(isinstance(a, bool) for a in given):
            return tuple(index(a) for a in given)  # NumPy's integers too
    except TypeError:
        pass
    msg = f"{name(argument, xp)} must be an int or a tuple of ints. Received: {axis!r}."
    raise TypeError(msg)


def class_axes(logits: Array, axis: Axis, /, *, xp: Namespace, empty: bool = False) -> tuple[int, ...]:
    """``axis`` as a tuple of distinct non-negative ints, none of them empty unless the classes are a part of all."""
    shape = tuple(logits.shape)
    single = axis[0] if type(axis) is tuple and len(axis) == 1 else axis
    if type(single) is int and -len(shape) <= single < len(shape) and shape[single] != 0:
        return (single % len(shape),)  # nearly every call
    given = check_axis(axis, "axis", xp=xp)
    axes = tuple(a + len(shape) if a < 0 else a for a in given)
    if not axes or len(set(axes)) != len(axes) or not all(0 <= a < len(shape) for a in axes):
        msg = (
            f"{name('axis', xp)} must name distinct axes of {name('logits', xp)}. Received: {axis!r} for shape {shape}."
        )
        raise ValueError(msg)
    if not empty and any(shape[a] == 0 for a in axes):
        msg = f"{name('logits', xp)} must have at least one class. Received shape: {shape}, classes on {axis!r}."
        raise ValueError(msg)
    return axes


def broadcasts(shape: tuple[int | None, ...], onto: tuple[int | None, ...]) -> bool:
    """True if an array of ``shape`` broadcasts to ``onto``; an unknown size fits any other."""
    tail = onto[len(onto) - len(shape) :]
    return len(shape) <= len(onto) and all(m == 1 or _same_size(m, n) for m, n in zip(shape, tail, strict=True))


def check_fraction(argument: str, value: float, /) -> None:
    """Raise unless it is a number in [0, 1], as a smoothing strength must be. A traced one has no value to check."""
    if isinstance(value, Real) and 0 <= value <= 1:
        return
    fix = " Pass a Python number, static under `jit`." if hasattr(value, "dtype") else ""
    msg = f"`{argument}` must be a number in [0, 1]. Received: {value}.{fix}"
    raise ValueError(msg)


def check_positive(argument: str, value: Any, /, *, zero: bool = False) -> None:
    """Raise unless it is a finite number above 0, or 0 where that is allowed.

    An array of one number passes, because it may be traced and have no value to read.
    """
    number = isinstance(value, Real)  # NumPy's numbers too
    if not number and hasattr(value, "dtype") and value.shape == ():
        return
    if not number or not 0 <= value < inf or (value == 0 and not zero):
        msg = f"`{argument}` must be a {'non-negative' if zero else 'positive'} number. Received: {value!r}."
        raise ValueError(msg)


def check_chunk(chunk: Any, /) -> int:
    """A number of classes, 1 or more; it may be NumPy's."""
    if isinstance(chunk, bool) or not hasattr(chunk, "__index__") or chunk < 1:
        msg = f"`chunk` must be a number of classes, 1 or more. Received: {chunk!r}."
        raise ValueError(msg)
    return index(chunk)


def check_layer(
    inputs: Array, layer: Array, bias: Array | None, class_axis: int, /, *, xp: Namespace, empty: bool = False
) -> None:
    """Raise unless they are floating and make a linear layer, whose weights have the classes on ``class_axis``.

    ``empty`` allows no classes, of a part of all.
    """
    check_floating(inputs, "inputs", xp=xp)
    check_floating(layer, "linear_weight", xp=xp)
    shape, features = tuple(layer.shape), tuple(inputs.shape)[-1:]
    # None while tracing: of unknown classes no chunks can be made
    wrong = len(shape) != 2 or shape[class_axis] is None or not (empty or shape[class_axis])
    if wrong or not same_shape(features, (shape[1 - class_axis],)):
        wide = features[0] if features else "H"
        expected = f"({wide}, classes)" if class_axis else f"(classes, {wide})"
        msg = (
            f"{name('linear_weight', xp)} must have the shape {expected}, for {name('inputs', xp)} of shape "
            f"{tuple(inputs.shape)}. Received: {shape}."
        )
        raise ValueError(msg)
    if bias is not None:
        _check_bias(bias, (shape[class_axis],), xp=xp)


def _check_bias(bias: Any, classes: tuple[Any], *, xp: Namespace) -> None:
    if not hasattr(bias, "dtype"):
        msg = f"`bias` must be an array. Received: {type(bias).__name__}."
        raise TypeError(msg)
    check_floating(bias, "bias", xp=xp)
    if tuple(bias.shape) != classes:
        msg = f"`bias` must have one number a class: {classes}. Received: {tuple(bias.shape)}."
        raise ValueError(msg)


def check_layer_targets(targets: Array, shape: tuple[Any, ...], /, *, xp: Namespace) -> None:
    """Raise unless there is one row for each of the inputs."""
    if not same_shape(tuple(targets.shape), shape):
        msg = (
            f"{name('targets', xp)} must have one row for each of {name('inputs', xp)} and a column a class: "
            f"{shape}. Received: {tuple(targets.shape)}. For class ids, call {name('sparse_linear_zlpr', xp)}."
        )
        raise ValueError(msg)


def unravel(position: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of the cell at ``position`` when the array is read in C order."""
    return tuple(position // prod(shape[k + 1 :]) % shape[k] for k in range(len(shape)))
