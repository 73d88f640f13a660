r"""The loss of a linear layer whose logits never exist at once: ``linear_zlpr``, its form for class ids, and gradients.

The classes are taken in chunks, in two sweeps. The first sums each chunk and merges the sums; the second computes the
logits anew and turns them into gradients. This is the reference that the frameworks' own are compared with, and it
serves linear models on bags of words: inputs and targets may be sparse matrices of SciPy.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

from ._checks import check_chunk, check_layer, check_layer_targets
from ._indices import is_matrix, part_of_ids, read_ids
from ._losses import slopes
from ._namespace import compute_dtype, infer
from ._options import Logits, Options, is_number
from ._parts import merge_chunks
from ._reduce import log_sum, sum_exp
from ._terms import Halves, halves_of, is_movable
from ._typing import Array, ArrayT, Extended, Namespace

CELLS = 1 << 21
"""Logits in a chunk unless told: 16 MiB in float64."""


class LinearGradients(NamedTuple):
    """Derivatives of ``Σ upstream · linear_zlpr``, each in the shape and dtype of what it is the derivative in."""

    inputs: Any
    """None for sparse inputs, which are data."""

    linear_weight: Any
    bias: Any
    """None without a bias."""


def linear_zlpr(
    inputs: Any,
    linear_weight: ArrayT,
    targets: Any,
    /,
    *,
    bias: Array | None = None,
    chunk: int | None = None,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> ArrayT:
    r""":func:`zlpr` of the logits ``inputs @ linear_weight.T + bias``, of which only a chunk exists at a time.

    .. math::
        L = \log\Bigl(1 + \sum_i a_i e^{-(\langle x, w_i \rangle + \beta_i - \theta)}\Bigr)
          + \log\Bigl(1 + \sum_i b_i e^{\langle x, w_i \rangle + \beta_i - \theta}\Bigr)

    Exact: equal to the dense loss up to the rounding of the product. Nothing is sampled or left out.

    Parameters
    ----------
    inputs : array of shape (..., H), or sparse matrix of shape (N, H)
        What the layer sees, :math:`x`. Half precision is added up in float32.
    linear_weight : array, shape (C, H)
        The layer's own weights, a row a class, as in ``torch.nn.Linear``.
    targets : array of shape (..., C), or sparse matrix of shape (N, C)
        As in :func:`zlpr`.
    bias : array, shape (C,), optional
        :math:`\beta`.
    chunk : int, optional
        How many classes at a time; by default as many as make two million logits.
    where, weight, pos_weight, threshold
        As in :func:`zlpr`, broadcastable to (..., C).
    xp : Namespace, optional
        Inferred from ``linear_weight`` when absent.

    Returns
    -------
    array, the shape of ``inputs`` without the last axis
        As in :func:`zlpr`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`zlpr`; shapes of inputs, weights, bias and targets that do not belong together; a ``chunk`` below
        1.

    References
    ----------
    Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Examples
    --------
    >>> inputs, layer = np.asarray([[2.0, 1.0]]), np.asarray([[1.0, 0.0], [0.0, -1.0], [0.5, -1.0]])
    >>> linear_zlpr(inputs, layer, np.asarray([[1, 0, 0]]), chunk=2).round(4)
    array([0.9889])
    """
    read = _read(inputs, linear_weight, bias, chunk, Options(where, weight, pos_weight, threshold), xp)
    losses: ArrayT = _value(_with_targets(read, targets))
    return losses


def sparse_linear_zlpr(
    inputs: Any,
    linear_weight: ArrayT,
    indices: Any,
    /,
    *,
    bias: Array | None = None,
    chunk: int | None = None,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    pad: int | None = -1,
    xp: Namespace | None = None,
) -> ArrayT:
    r""":func:`linear_zlpr` of class ids, of which no row of targets is made.

    Parameters
    ----------
    inputs, linear_weight, bias, chunk, where, weight, pos_weight, threshold, xp
        As in :func:`linear_zlpr`.
    indices, pad
        As in :func:`sparse_zlpr`; a sparse matrix goes to :func:`linear_zlpr`.

    Returns
    -------
    array, the shape of ``inputs`` without the last axis
        As in :func:`sparse_zlpr`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As in :func:`sparse_zlpr` and :func:`linear_zlpr`.

    Examples
    --------
    >>> inputs, layer = np.asarray([[2.0, 1.0]]), np.asarray([[1.0, 0.0], [0.0, -1.0], [0.5, -1.0]])
    >>> sparse_linear_zlpr(inputs, layer, [[0]]).round(4)
    array([0.9889])
    """
    read = _read(inputs, linear_weight, bias, chunk, Options(where, weight, pos_weight, threshold), xp)
    losses: ArrayT = _value(_with_ids(read, indices, pad))
    return losses


def linear_zlpr_grad(
    inputs: Any,
    linear_weight: Array,
    targets: Any,
    /,
    *,
    bias: Array | None = None,
    chunk: int | None = None,
    upstream: Array | float = 1.0,
    where: Array | None = None,
    weight: Array | float | None = None,
    pos_weight: Array | float | None = None,
    threshold: Array | float | None = 0.0,
    xp: Namespace | None = None,
) -> LinearGradients:
    r"""Derivatives of ``Σ upstream · linear_zlpr`` in the inputs, the weights and the bias.

    .. math::
        G = u \frac{\partial L}{\partial s}, \qquad
        \frac{\partial}{\partial x} = G W, \quad \frac{\partial}{\partial W} = G^\top x, \quad
        \frac{\partial}{\partial \beta} = \sum_n G_n

    Parameters
    ----------
    upstream : float, or array of the shape of the losses
        :math:`u`, what each loss is multiplied by: ``1 / N`` for the mean of N examples.
    inputs, linear_weight, targets, bias, chunk, where, weight, pos_weight, threshold, xp
        As in :func:`linear_zlpr`. Sparse targets may hold class ids' rows: 1 at the positives.

    Returns
    -------
    LinearGradients
        ``inputs``, ``linear_weight`` and ``bias``.

    Examples
    --------
    >>> inputs, layer = np.asarray([[2.0, 1.0]]), np.asarray([[1.0, 0.0], [0.0, -1.0], [0.5, -1.0]])
    >>> linear_zlpr_grad(inputs, layer, np.asarray([[1, 0, 0]])).linear_weight.round(4)
    array([[-0.2384, -0.1192],
           [ 0.3107,  0.1554],
           [ 0.8446,  0.4223]])
    """
    read = _read(inputs, linear_weight, bias, chunk, Options(where, weight, pos_weight, threshold), xp)
    return _gradients(_with_targets(read, targets), upstream)


class _Layer(NamedTuple):
    """The arguments of a public function, read."""

    inputs: Any
    linear_weight: Any
    bias: Any
    logits: Any  # Logits, which pass for an array where no value is looked at
    options: Options
    chunk: int
    targets_of: Callable[[int, int], Any]  # of the classes from one to before another
    xp: Extended


def _read(
    inputs: Any, linear_weight: Array, bias: Any, chunk: int | None, options: Options, xp: Namespace | None
) -> _Layer:
    extended = infer(xp, linear_weight=linear_weight)
    check_layer(inputs, linear_weight, bias, 0, xp=extended)
    dtypes = (compute_dtype(part.dtype, xp=extended) for part in (inputs, linear_weight))
    dtype = extended.float64 if extended.float64 in dtypes else extended.float32
    shape = (*tuple(inputs.shape)[:-1], linear_weight.shape[0])
    logits: Any = Logits(shape, dtype, extended.device(linear_weight))
    given = options.where, options.weight, options.pos_weight, options.threshold
    read = Options.of(logits, *given, xp=extended)
    return _Layer(inputs, linear_weight, bias, logits, read, _chunk(chunk, shape), _no_targets, extended)


def _no_targets(first: int, last: int) -> Any:
    raise NotImplementedError


def _chunk(chunk: int | None, shape: tuple[int, ...]) -> int:
    return max(1, min(shape[-1], CELLS // max(prod(shape[:-1]), 1))) if chunk is None else check_chunk(chunk)


def _with_targets(layer: _Layer, targets: Any) -> _Layer:
    xp, logits = layer.xp, layer.logits
    check_layer_targets(targets, logits.shape, xp=xp)
    if not is_matrix(targets):
        return layer._replace(targets_of=lambda first, last: targets[..., first:last])
    columns = targets.tocsc()  # of which a few are taken in no time
    return layer._replace(targets_of=lambda first, last: xp.asarray(columns[:, first:last].toarray()))


def _with_ids(layer: _Layer, indices: Any, pad: int | None) -> _Layer:
    xp, logits = layer.xp, layer.logits
    if is_matrix(indices):
        return _with_targets(layer, indices)
    read, _ = read_ids(indices, logits, (len(logits.shape) - 1,), pad, xp=xp)
    return layer._replace(targets_of=lambda first, last: part_of_ids(read, first, last - first, xp=xp))


class _Chunk(NamedTuple):
    """Some of the classes."""

    linear_weight: Any
    halves: Halves
    movable: Any


def _chunks(layer: _Layer) -> Iterator[_Chunk]:
    """One after the other, in the order of the classes."""
    xp, classes = layer.xp, layer.logits.shape[-1]
    inputs = layer.inputs.astype(layer.logits.dtype) if is_matrix(layer.inputs) else _wide(layer.inputs, layer)
    for first in range(0, classes, layer.chunk):
        last = min(first + layer.chunk, classes)
        rows = _wide(layer.linear_weight[first:last, ...], layer)
        logits = inputs @ rows.T
        if layer.bias is not None:
            logits = logits + _wide(layer.bias[first:last], layer)
        options = layer.options.of_classes(first, last, classes)
        halves = halves_of(logits, layer.targets_of(first, last), options, xp=xp)
        yield _Chunk(rows, halves, is_movable(logits, options.where, xp=xp))


def _wide(array: Any, layer: _Layer) -> Any:
    """In the dtype of the logits."""
    return layer.xp.astype(array, layer.logits.dtype)


def _sums(layer: _Layer) -> Halves:
    axis, xp = (len(layer.logits.shape) - 1,), layer.xp
    return merge_chunks([[sum_exp(half, axis=axis, xp=xp) for half in chunk.halves] for chunk in _chunks(layer)], xp=xp)


def _value(layer: _Layer) -> Any:
    positive, negative = _sums(layer)
    axis = (len(layer.logits.shape) - 1,)
    return log_sum(positive, axis=axis, xp=layer.xp) + log_sum(negative, axis=axis, xp=layer.xp)


def _gradients(layer: _Layer, upstream: Any) -> LinearGradients:
    xp, inputs, sums = layer.xp, layer.inputs, _sums(layer)
    sparse = is_matrix(inputs)
    flat = inputs.T.astype(layer.logits.dtype) if sparse else xp.reshape(_wide(inputs, layer), (-1, inputs.shape[-1])).T
    scale = upstream if is_number(upstream) else _wide(upstream, layer)[..., None]
    in_inputs: Any = 0.0
    in_weight, in_bias = [], []
    for rows, halves, movable in _chunks(layer):
        positive, negative = slopes(halves, sums, movable, xp=xp)
        gradient = scale * (negative + positive)
        in_inputs = in_inputs if sparse else in_inputs + gradient @ rows
        cells = xp.reshape(gradient, (-1, rows.shape[0]))
        in_weight.append((flat @ cells).T)
        in_bias.append(xp.squeeze(xp.sum(cells, axis=(0,), keepdims=True), axis=(0,)))
    return LinearGradients(
        None if sparse else xp.astype(in_inputs, inputs.dtype),
        xp.astype(xp.concat(in_weight, axis=0), layer.linear_weight.dtype),
        None if layer.bias is None else xp.astype(xp.concat(in_bias, axis=0), layer.bias.dtype),
    )
