"""Class ids: the rows of targets that they stand for, in whatever form users have them, and the ids of spans."""

from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any, NamedTuple, TypeVar, cast

from ._checks import class_axes, name, one_id_each, same_shape
from ._namespace import infer
from ._targets import first_cell
from ._typing import Array, ArrayT, Axis, Extended, Namespace

PAD = -1


def multi_hot(indices: ArrayT, num_classes: int, /, *, pad: int | None = PAD, xp: Namespace | None = None) -> ArrayT:
    r"""Turn rows of class ids into rows of bool targets.

    Parameters
    ----------
    indices : array, shape (..., P)
        Integer ids in [0, num_classes), each row filled up with ``pad``. Duplicates count once; order is irrelevant.
    num_classes : int
        C, the number of classes.
    pad : int
        The id that marks an unused slot.
    xp : Namespace, optional
        Inferred from ``indices`` when absent.

    Returns
    -------
    bool array, shape (..., C)

    Raises
    ------
    TypeError
        ``indices`` are not integers.
    IndexError
        An id is neither in range nor ``pad``. Where values cannot be read, while tracing or on an accelerator, such an
        id is left out.

    Examples
    --------
    >>> multi_hot(np.asarray([[0, 2], [1, -1]]), 3).astype(int)
    array([[1, 0, 1],
           [0, 1, 0]])
    """
    xp, pad = infer(xp, indices=indices), PAD if pad is None else pad
    ids = _integers(indices, "indices", xp=xp)
    outside = _outside(indices, ids, num_classes, pad, xp=xp)
    _refuse(outside, indices, _legal_ids(num_classes, pad), xp=xp)
    hot: ArrayT = _marked(ids, outside | (ids == pad), num_classes, xp=xp)
    return hot


class Ids(NamedTuple):
    """Class ids, one row an example."""

    ids: Any
    unused: Any  # slots that are padding, or hold an illegal id
    illegal: Any  # rows with an illegal id that could not be looked at; None where all could


def indicated(indices: Any, logits: Array, axis: Axis, pad: int | None, /, *, xp: Extended) -> Any:
    """Hard targets of the shape of ``logits``, for the losses of class ids.

    bool where ids can be read, and an illegal one raises. Elsewhere int8, with 2 throughout an example that has an
    illegal id, which the losses turn into NaN.
    """
    axes = class_axes(logits, axis, xp=xp)
    if is_matrix(indices):
        return _from_matrix(indices, logits, axis, xp=xp)
    read, sizes = read_ids(indices, logits, axes, pad, xp=xp)
    classes = prod([sizes[a] for a in axes])
    hot = _in_place(_marked(read.ids, read.unused, classes, xp=xp), sizes, axes, xp=xp)
    rows = tuple(1 if a in axes else n for a, n in enumerate(sizes))
    return hot if read.illegal is None else _spoiled(hot, xp.reshape(read.illegal, rows), xp=xp)


def read_ids(
    indices: Any, logits: Array, axes: tuple[int, ...], pad: int | None, /, *, xp: Extended
) -> tuple[Ids, Any]:
    """The ids, and the shape of ``logits``, of which a size that is unknown while tracing is a tensor."""
    pad = PAD if pad is None else pad
    if isinstance(indices, (list, tuple)):
        indices = _from_lists(indices, len(logits.shape) - len(axes), pad, xp.device(logits), xp=xp)
    ids = _integers(indices, "indices", xp=xp)
    _check_rows(ids, logits, axes, xp=xp)
    sizes = xp.shape_of(logits, ids)
    classes = prod([sizes[a] for a in axes])
    outside = _outside(indices, ids, classes, pad, xp=xp)
    unused = outside | (ids == pad)
    if not xp.readable(ids):
        return Ids(ids, unused, xp.any(outside, axis=-1)), sizes
    _refuse_multi_hot(ids, classes, pad, xp=xp)
    _refuse(outside, indices, _legal_ids(classes, pad), xp=xp)
    return Ids(ids, unused, None), sizes


def part_of_ids(read: Ids, first: Any, size: int, /, *, xp: Extended) -> Any:
    """The targets of ``size`` classes from ``first`` on, which are on the last axis."""
    ids = read.ids - first
    beyond = read.unused | (ids < 0) | (ids >= size)
    hot = _marked(ids, beyond, size, xp=xp)
    return hot if read.illegal is None else _spoiled(hot, read.illegal[..., None], xp=xp)


def _spoiled(hot: Any, illegal: Any, *, xp: Namespace) -> Any:
    return xp.astype(hot, xp.int8) + 2 * xp.astype(illegal, xp.int8)


def _legal_ids(classes: Any, pad: int) -> str:
    return f"`indices` must be in [0, {classes}) or `pad` ({pad})"


def _from_lists(nested: Sequence[Any], depth: int, pad: int, device: Any, *, xp: Extended) -> Any:
    """An array of the lists of ids, one list an example, each filled up to the longest with ``pad``."""
    try:
        width = max([1, *map(len, _leaves(nested, depth))])
        filled = _filled(nested, depth, width, pad)
    except TypeError:
        msg = f"`indices` as a list must hold whole numbers, in one list for each example. Received: {nested!r:.60}."
        raise TypeError(msg) from None
    return xp.asarray(filled or [[pad]], device=device)[: len(filled), ...]


def _leaves(nested: Sequence[Any], depth: int) -> list[Sequence[Any]]:
    return [leaf for part in nested for leaf in _leaves(part, depth - 1)] if depth else [nested]


def _filled(nested: Sequence[Any], depth: int, width: int, pad: int) -> list[Any]:
    if depth:
        return [_filled(part, depth - 1, width, pad) for part in nested]
    return [index(number) for number in nested] + [pad] * (width - len(nested))


def is_matrix(indices: Any, /) -> bool:
    """True for a sparse matrix of SciPy, or of PyData's ``sparse``, told by its attributes without an import."""
    return hasattr(indices, "toarray") or hasattr(indices, "to_scipy_sparse")


def _from_matrix(matrix: Any, logits: Array, axis: Axis, *, xp: Extended) -> Any:
    """bool targets from a sparse matrix, which holds 1 at the positives."""
    check_matrix(matrix, logits, axis, xp=xp)
    matrix = (matrix if hasattr(matrix, "toarray") else matrix.to_scipy_sparse()).tocoo()
    if ((matrix.data != 0) & (matrix.data != 1)).any():
        fix = f"Soft labels go to {name('zlpr', xp)}, as a dense array."
        msg = f"`indices` as a sparse matrix must hold 0 or 1 only. {fix}"
        raise ValueError(msg)
    return xp.asarray(matrix.astype(bool).toarray(), device=xp.device(logits))


def check_matrix(matrix: Any, logits: Array, axis: Axis, /, *, xp: Namespace) -> None:
    """Raise unless the sparse matrix has the shape of the logits, which are two-dimensional with classes last."""
    if not same_shape(tuple(matrix.shape), tuple(logits.shape)) or class_axes(logits, axis, xp=xp) != (1,):
        msg = (
            f"`indices` as a sparse matrix must have the shape of {name('logits', xp)}, classes last. Received: "
            f"{tuple(matrix.shape)} for {tuple(logits.shape)}. Rows of ids go in a list or an array."
        )
        raise ValueError(msg)


def _check_rows(ids: Array, logits: Array, axes: tuple[int, ...], *, xp: Namespace) -> None:
    rows = tuple(size for a, size in enumerate(logits.shape) if a not in axes)
    if len(ids.shape) == 0 or not same_shape(tuple(ids.shape)[:-1], rows):
        one_each = len(rows) > 0 and same_shape(tuple(ids.shape), rows)
        fix = one_id_each("indices", xp=xp) if one_each else f"Multi-hot targets go to {name('zlpr', xp)}."
        msg = (
            f"`indices` must have one row of ids for each example of {name('logits', xp)}: shape {(*rows, 'P')}. "
            f"Received: {tuple(ids.shape)} for {tuple(logits.shape)}. {fix}"
        )
        raise ValueError(msg)


def _refuse_multi_hot(ids: Any, classes: int, pad: int, *, xp: Extended) -> None:
    """Raise for as many slots as classes that hold nothing but 0 and 1: as ids, the first two classes of each row.

    Of one class or two such a matrix may well be ids, as it may where 0 or 1 is padding.
    """
    if classes <= 2 or ids.shape[-1] != classes or 0 in ids.shape or pad in (0, 1):
        return
    if not xp.any(xp.reshape((ids != 0) & (ids != 1), (-1,)), axis=0):
        msg = (
            f"`indices` must be class ids, each row filled up with `pad` ({pad}). Received: {tuple(ids.shape)} of 0 "
            f"and 1 only, with {classes} classes. Multi-hot targets go to {name('zlpr', xp)}."
        )
        raise ValueError(msg)


def _integers(ids: Any, argument: str, /, *, xp: Namespace) -> Any:
    """As int32 or int64, so that -1 means padding in every dtype; a uint64 id beyond int64 becomes negative."""
    if not hasattr(ids, "dtype") or not xp.isdtype(ids.dtype, "integral"):
        came = f"dtype: {ids.dtype}" if hasattr(ids, "dtype") else type(ids).__name__
        msg = f"`{argument}` must be integer class ids. Received {came}."
        raise TypeError(msg)
    return xp.astype(ids, xp.int64 if xp.isdtype(ids.dtype, (xp.int64, xp.uint32, xp.uint64)) else xp.int32)


def _outside(indices: Any, ids: Any, classes: Any, pad: int, *, xp: Namespace) -> Any:
    """True where an id is neither in [0, classes) nor ``pad``. ``indices`` are the ids as they came."""
    beyond = (ids < 0) | (ids >= classes)
    if xp.isdtype(indices.dtype, "unsigned integer"):  # a negative id was beyond int64, and is not the pad of -1
        return beyond & ((ids != pad) | (ids < 0))
    return beyond & (ids != pad)


def _marked(ids: Any, unused: Any, classes: Any, *, xp: Extended) -> Any:
    """bool (..., classes), True at the ids that are not ``unused``."""
    return xp.mark(xp.where(unused, classes, ids), classes)


def _in_place(hot: Any, sizes: Any, axes: tuple[int, ...], *, xp: Extended) -> Any:
    """``hot``, whose classes lie flat on the last axis, with its classes on ``axes``."""
    if axes == (len(sizes) - 1,):
        return hot
    order = (*(a for a in range(len(sizes)) if a not in axes), *axes)
    spread = xp.reshape(hot, tuple(sizes[a] for a in order))
    return xp.permute_dims(spread, tuple(order.index(a) for a in range(len(sizes))))


def _refuse(illegal: Array, values: Array, expected: str, *, xp: Extended) -> None:
    """Raise if there is an illegal value that can be read."""
    bad = first_cell(illegal, xp=xp) if xp.readable(illegal) else None
    if bad is not None:
        msg = f"{expected}. Received: {int(values[bad])} at {list(bad)}."
        raise IndexError(msg)


Int = TypeVar("Int")


def span_to_index(start: Int, end: Int, length: int, /, *, xp: Namespace | None = None) -> Int:
    r"""The class id of a span among the ``length`` x ``length`` cells of a token-pair matrix.

    .. math::
        \text{index} = \text{start} \cdot \text{length} + \text{end}

    It is what :func:`sparse_zlpr` counts with ``axis=(-2, -1)``.

    Parameters
    ----------
    start, end : int or integer array
        Positions in [0, length) of the first and the last token; negative in a slot that is padding.
    length : int
        L, the number of tokens that the matrix has room for.
    xp : Namespace, optional
        Inferred from the arrays when absent.

    Returns
    -------
    int or integer array
        -1 for padding.

    Raises
    ------
    TypeError
        A position is not an integer.
    IndexError
        A position is ``length`` or more. Where values cannot be read, while tracing or on an accelerator, such a span
        becomes the illegal id ``length * length``.

    Examples
    --------
    >>> span_to_index(2, 5, 128)
    261
    >>> span_to_index(np.asarray([2, -1]), np.asarray([5, -1]), 128)
    array([261,  -1])
    """
    if isinstance(start, int) and isinstance(end, int):
        _refuse_number(max(start, end), length, "`start` and `end`")
        number: Any = start * length + end if min(start, end) >= 0 else PAD
        return cast("Int", number)
    xp = infer(xp, start=start, end=end)
    first, last = _integers(start, "start", xp=xp), _integers(end, "end", xp=xp)
    for at in (first, last):
        _refuse(at >= length, at, f"`start` and `end` must be below `length` ({length})", xp=xp)
    beyond = (first >= length) | (last >= length)
    inside = xp.where(beyond, length * length, first * length + last)
    ids: Int = xp.where((first < 0) | (last < 0), PAD, inside)
    return ids


def index_to_span(index: Int, length: int, /, *, xp: Namespace | None = None) -> tuple[Int, Int]:
    r"""The span of a class id, the inverse of :func:`span_to_index`.

    .. math::
        (\lfloor \text{index} / \text{length} \rfloor, \; \text{index} \bmod \text{length})

    Parameters
    ----------
    index : int or integer array
        In [0, length²); negative in a slot that is padding.
    length : int
        L, the number of tokens that the matrix has room for.
    xp : Namespace, optional
        Inferred from ``index`` when absent.

    Returns
    -------
    (start, end), as ``index`` came
        Both -1 for padding.

    Raises
    ------
    TypeError
        ``index`` is not an integer.
    IndexError
        It is length² or more, and can be looked at.

    Examples
    --------
    >>> index_to_span(261, 128)
    (2, 5)
    >>> index_to_span(np.asarray([261, -1]), 128)
    (array([ 2, -1]), array([ 5, -1]))
    """
    if isinstance(index, int):
        _refuse_number(index, length * length, "`index`")
        pair: Any = divmod(index, length) if index >= 0 else (PAD, PAD)
        return cast("tuple[Int, Int]", pair)
    xp = infer(xp, index=index)
    ids = _integers(index, "index", xp=xp)
    _refuse(ids >= length * length, ids, f"`index` must be below `length` squared ({length * length})", xp=xp)
    return xp.where(ids < 0, PAD, ids // length), xp.where(ids < 0, PAD, ids % length)


def _refuse_number(number: int, bound: int, names: str) -> None:
    if number >= bound:
        msg = f"{names} must be below {bound}. Received: {number}."
        raise IndexError(msg)
