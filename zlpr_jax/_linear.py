"""A linear layer and its loss, a chunk of the classes at a time, so that the logits never exist at once.

Each chunk is computed anew for the gradient (``jax.checkpoint``), so that every derivative is JAX's own of the core's
formula, in any order and mode. XLA writes the gradient of a chunk of the kernel in its place (jaxlib 0.10).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from zlpr_core._checks import check_layer, check_layer_targets, refuse_sparse
from zlpr_core._namespace import compute_dtype
from zlpr_core._options import Logits, Options
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum, log_sum, spread_nan, sum_exp
from zlpr_core._targets import prepare_targets
from zlpr_core._terms import Halves, halves_of

from ._derivative import zlpr
from ._ids import ids_of_device
from ._namespace import xp
from ._parts import Chunk, Cut, over_devices, side_by_side


def linear_zlpr_loss(
    inputs: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    chunk: int | None = None,
    axis_name: Any = None,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Array:
    r""":func:`zlpr_loss` of the logits ``inputs @ kernel + bias``, of which only a chunk exists at a time.

    .. math::
        L = \log\Bigl(1 + \sum_i a_i e^{-(x \cdot k_i + \beta_i - \theta)}\Bigr)
          + \log\Bigl(1 + \sum_i b_i e^{x \cdot k_i + \beta_i - \theta}\Bigr)

    Exact: equal to the dense loss up to the rounding of the product. The logits are computed a second time for the
    gradient, which makes four products of three. Where there is more than one device, a chunk has every k-th class, so
    that under ``jit`` with classes sharded over devices nothing but numbers of a row is exchanged.

    Args:
      inputs: what the layer sees, ``[..., features]``. Half precision is multiplied in half and added up in float32.
      kernel: the layer's own weights, ``[features, num_classes]``, as in ``flax.nnx.Linear``.
      labels: ``[..., num_classes]``, as in :func:`zlpr_loss`.
      bias: :math:`\beta`, ``[num_classes]``.
      chunk: how many classes at a time; by default as many as make a million logits.
      axis_name: inside ``shard_map``, the axis over which the classes are spread: ``kernel``, ``labels``, ``bias`` and
        options are this device's. Without it the loss is that of the device's classes alone.
      where, weight, pos_weight, threshold, label_smoothing, ignore_index: as in :func:`zlpr_loss`, broadcastable to the
        logits.

    Returns:
      One non-negative value per example, as :func:`zlpr_loss`.

    Raises:
      TypeError, ValueError: as in :func:`zlpr_loss`; shapes that make no linear layer; a ``chunk`` below 1.

    References:
      Su et al., `ZLPR: A Novel Loss for Multi-label Classification <https://arxiv.org/abs/2208.02955>`_, 2022.

    Examples:
      >>> inputs, kernel = jnp.array([[2.0, 1.0]]), jnp.array([[1.0, 0.0, 0.5], [0.0, -1.0, -1.0]])
      >>> print(f"{linear_zlpr_loss(inputs, kernel, jnp.array([[1, 0, 0]]), chunk=2)[0]:.4f}")
      0.9889
    """
    refuse_sparse(labels, "targets", xp=xp)
    targets, prepared = jnp.asarray(labels), {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    layer = _layer(inputs, kernel, bias, chunk, axis_name, (where, weight, pos_weight, threshold), prepared)
    check_layer_targets(targets, layer.logits.shape, xp=xp)
    return _losses(layer, lambda part: part.of(targets, -1))


def sparse_linear_zlpr_loss(
    inputs: ArrayLike,
    kernel: ArrayLike,
    indices: Any,
    *,
    bias: ArrayLike | None = None,
    chunk: int | None = None,
    axis_name: Any = None,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
) -> Array:
    r""":func:`linear_zlpr_loss` of class ids, of which no row of labels is ever made.

    Args:
      inputs, kernel, bias, chunk, where, weight, pos_weight, threshold, label_smoothing: as in
        :func:`linear_zlpr_loss`.
      indices: the ids of the positives, as in :func:`sparse_zlpr_loss`, but for a sparse matrix.
      axis_name: as in :func:`linear_zlpr_loss`; the ids count the classes of all devices, which have as many each.
      pad: the id that marks an unused slot.

    Returns:
      One non-negative value per example, as :func:`sparse_zlpr_loss`.

    Raises:
      IndexError, TypeError, ValueError: as in :func:`sparse_zlpr_loss` and :func:`linear_zlpr_loss`.

    Examples:
      >>> inputs, kernel = jnp.array([[2.0, 1.0]]), jnp.array([[1.0, 0.0, 0.5], [0.0, -1.0, -1.0]])
      >>> print(f"{sparse_linear_zlpr_loss(inputs, kernel, [[0]])[0]:.4f}")
      0.9889
    """
    prepared = {"label_smoothing": label_smoothing, "ignore_index": None}
    layer = _layer(inputs, kernel, bias, chunk, axis_name, (where, weight, pos_weight, threshold), prepared)
    ids = ids_of_device(indices, layer.logits, pad, axis_name)
    return _losses(layer, lambda part: part.marked(ids))


class _Layer(NamedTuple):
    """The arguments but for the targets, read."""

    inputs: jax.Array  # in the dtype that computes, in which their gradient is added up over the chunks
    kernel: jax.Array
    product: Any  # the dtype that is multiplied
    bias: jax.Array | None
    cut: Cut
    axis_name: Any
    options: Options
    prepared: dict[str, float | None]
    logits: Any  # Logits, which pass for an array where no value is looked at


def _layer(
    inputs: Any,
    kernel: Any,
    bias: Any,
    chunk: int | None,
    axis_name: Any,
    options: tuple[Any, ...],
    prepared: dict[str, Any],
) -> _Layer:
    x, weights = jnp.asarray(inputs), jnp.asarray(kernel)
    added = None if bias is None else jnp.asarray(bias)
    check_layer(x, weights, added, 1, xp=xp)
    product = jnp.promote_types(x.dtype, weights.dtype)
    dtype = compute_dtype(product, xp=xp)
    logits: Any = Logits((*x.shape[:-1], weights.shape[1]), dtype, None)
    several = axis_name is None and jax.device_count() > 1
    cut = Cut.of(x.shape[:-1], weights.shape[1], chunk, interleaved=several)
    read = Options.of(logits, *options, xp=xp)
    return _Layer(x.astype(dtype), weights, product, added, cut, axis_name, read, prepared, logits)


def _losses(layer: _Layer, targets_of: Callable[[Chunk], Any]) -> jax.Array:
    """One value an example."""
    axis = (len(layer.logits.shape) - 1,)
    if layer.cut.is_whole:
        logits, targets, options = _read_chunk(layer, targets_of, layer.cut.chunk(0))
        return zlpr(logits, targets, axis, options, layer.axis_name)
    sums = _sums(layer, targets_of, axis)
    if layer.axis_name is not None:
        sums = over_devices(sums, layer.axis_name)
    losses: jax.Array = sum(log_sum(half, axis=axis, xp=xp) for half in sums)
    spread: jax.Array = spread_nan(losses, losses, xp=xp)
    return spread


def _sums(layer: _Layer, targets_of: Callable[[Chunk], Any], axis: tuple[int, ...]) -> Halves:
    one = partial(_sums_of_chunk, layer, targets_of)
    again = jax.checkpoint(lambda number: one(layer.cut.chunk(number)), prevent_cse=False)
    _, chunks = lax.scan(lambda _, number: (None, again(number)), None, jnp.arange(layer.cut.parts))
    rest = [jax.checkpoint(lambda part=part: one(part))() for part in layer.cut.rest]
    parts = (side_by_side(half, [r[i] for r in rest]) for i, half in enumerate(chunks))
    return Halves(*(merge(part, axis=axis, xp=xp) for part in parts))


def _sums_of_chunk(layer: _Layer, targets_of: Callable[[Chunk], Any], part: Chunk) -> tuple[ShiftedSum, ShiftedSum]:
    logits, targets, options = _read_chunk(layer, targets_of, part)
    positive, negative = halves_of(logits, targets, options, xp=xp)
    axis = (logits.ndim - 1,)
    return sum_exp(positive, axis=axis, xp=xp), sum_exp(negative, axis=axis, xp=xp)


def _read_chunk(layer: _Layer, targets_of: Callable[[Chunk], Any], part: Chunk) -> tuple[jax.Array, jax.Array, Options]:
    """Its logits, targets and options."""
    kernel = part.of(layer.kernel, 1)
    inputs = layer.inputs.astype(layer.product)
    logits = jnp.matmul(inputs, kernel.astype(layer.product), preferred_element_type=layer.logits.dtype)
    if layer.bias is not None:
        logits = logits + part.of(layer.bias, 0).astype(logits.dtype)
    options = Options(*(part.of(option, -1) if hasattr(option, "shape") else option for option in layer.options))
    targets, where = prepare_targets(targets_of(part), options.where, logits, **layer.prepared, xp=xp)
    return logits, targets, options._replace(where=where)
