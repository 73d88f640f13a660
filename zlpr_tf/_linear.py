"""A linear layer and its loss in one, a chunk of the classes at a time, so that the logits never exist at once.

On TensorFlow by the loops of ``_linear_graph``; on Keras's other backends by the package of that framework.
"""

from math import prod
from typing import Any

from keras import backend, ops

from zlpr_core._checks import check_chunk, check_layer, check_layer_targets, refuse_sparse
from zlpr_core._indices import read_ids
from zlpr_core._namespace import compute_dtype
from zlpr_core._options import Logits, Options

from ._losses import plain_ids, refuse_sparse_labels
from ._namespace import xp
from ._symbolic import keras_function

if backend.backend() == "tensorflow":
    from . import _linear_graph as graph
elif backend.backend() == "jax":
    import zlpr_jax as jax
else:
    import zlpr_torch as torch
    from zlpr_torch._plan import COPIES


@keras_function
def linear_zlpr_loss(
    labels: Any,
    inputs: Any,
    kernel: Any,
    *,
    bias: Any = None,
    chunk: int | None = None,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Any:
    r"""`zlpr_loss` of the logits `inputs @ kernel + bias`, of which only a chunk exists at a time.

    .. math::
        L = \log\Bigl(1 + \sum_i a_i e^{-(x \cdot k_i + \beta_i - \theta)}\Bigr)
          + \log\Bigl(1 + \sum_i b_i e^{x \cdot k_i + \beta_i - \theta}\Bigr)

    Exact: equal to the dense loss up to the rounding of the product. The logits are computed a second time for the
    gradient, which makes four products of three. On TensorFlow derivatives of second order, and those in `labels`,
    `weight`, `pos_weight` and `threshold`, make all logits at once.

    Args:
        labels: Of shape `(..., num_classes)`, as in `zlpr_loss`.
        inputs: What the layer sees, of shape `(..., features)`. Half precision is added up in float32.
        kernel: The layer's own weights, of shape `(features, num_classes)`, as in `keras.layers.Dense`.
        bias: :math:`\beta`, of shape `(num_classes,)`.
        chunk: How many classes at a time; by default as many as make up to half a million logits, but 128 or more, for
            256 examples where their number is not known while tracing. On JAX that is up to a million, without the
            128; on PyTorch its `memory_budget` decides, and a chunk has 128 classes or more.
        where: As in `zlpr_loss`, broadcastable to the logits, as are the other options.
        weight: As in `zlpr_loss`.
        pos_weight: As in `zlpr_loss`.
        threshold: As in `zlpr_loss`.
        label_smoothing: As in `zlpr_loss`.
        ignore_index: As in `zlpr_loss`.

    Returns:
        One non-negative value per example, as `zlpr_loss`.

    Raises:
        TypeError: As in `zlpr_loss`; inputs, a kernel or a bias that are not floating.
        ValueError: As in `zlpr_loss`; shapes that make no linear layer; a `chunk` below 1.

    Reference:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> inputs, kernel = ops.array([[2.0, 1.0]]), ops.array([[1.0, 0.0, 0.5], [0.0, -1.0, -1.0]])
        >>> loss = linear_zlpr_loss([[1, 0, 0]], inputs, kernel, chunk=2)
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.9889]
    """
    refuse_sparse_labels(labels)
    chunk = None if chunk is None else check_chunk(chunk)
    layer, logits = _layer(inputs, kernel, bias)
    targets = ops.convert_to_tensor(labels)
    check_layer_targets(targets, logits.shape, xp=xp)
    options = _read_options(logits, where, weight, pos_weight, threshold)
    prepared: Any = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    if backend.backend() == "tensorflow":
        return graph.losses(graph.Layer.of(**layer, chunk=chunk, options=options, targets=targets, **prepared))
    if backend.backend() == "jax":
        return jax.linear_zlpr_loss(labels=targets, chunk=chunk, **layer, **options.by_name(), **prepared)
    return torch.linear_zlpr_loss(target=targets, **_in_torch(layer, logits, chunk, options), **prepared)


@keras_function
def sparse_linear_zlpr_loss(
    indices: Any,
    inputs: Any,
    kernel: Any,
    *,
    bias: Any = None,
    chunk: int | None = None,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
) -> Any:
    r"""`linear_zlpr_loss` of class ids, of which no row of labels is ever made.

    Args:
        indices: The ids of the positives, as in `sparse_zlpr_loss`, but for a `tf.SparseTensor`.
        inputs: As in `linear_zlpr_loss`.
        kernel: As in `linear_zlpr_loss`.
        bias: As in `linear_zlpr_loss`.
        chunk: As in `linear_zlpr_loss`.
        where: As in `zlpr_loss`, broadcastable to the logits, as are the other options.
        weight: As in `zlpr_loss`.
        pos_weight: As in `zlpr_loss`.
        threshold: As in `zlpr_loss`.
        label_smoothing: As in `zlpr_loss`.
        pad: The id that marks an unused slot.

    Returns:
        One non-negative value per example, as `sparse_zlpr_loss`.

    Raises:
        IndexError: An id is neither in range nor `pad`, where it can be looked at.
        TypeError: As in `sparse_zlpr_loss` and `linear_zlpr_loss`.
        ValueError: As in `sparse_zlpr_loss` and `linear_zlpr_loss`.

    Example:
        >>> inputs, kernel = ops.array([[2.0, 1.0]]), ops.array([[1.0, 0.0, 0.5], [0.0, -1.0, -1.0]])
        >>> loss = sparse_linear_zlpr_loss([[0]], inputs, kernel)
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.9889]
    """
    refuse_sparse(indices, "indices", xp=xp)
    chunk = None if chunk is None else check_chunk(chunk)
    layer, logits = _layer(inputs, kernel, bias)
    ids = plain_ids(indices, pad)
    options = _read_options(logits, where, weight, pos_weight, threshold)
    if backend.backend() == "tensorflow":
        read, _ = read_ids(ids, logits, (len(logits.shape) - 1,), pad, xp=xp)
        return graph.losses(
            graph.Layer.of(**layer, chunk=chunk, options=options, ids=read, label_smoothing=label_smoothing)
        )
    told: Any = {"pad": pad, "label_smoothing": label_smoothing}
    if backend.backend() == "jax":
        return jax.sparse_linear_zlpr_loss(indices=ids, chunk=chunk, **layer, **options.by_name(), **told)
    return torch.sparse_linear_zlpr_loss(indices=ids, **_in_torch(layer, logits, chunk, options), **told)


def _layer(inputs: Any, kernel: Any, bias: Any) -> tuple[dict[str, Any], Any]:
    """The tensors of a linear layer by their names, and what is known of its logits."""
    x, weights = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
    added = None if bias is None else ops.convert_to_tensor(bias)
    check_layer(x, weights, added, 1, xp=xp)
    dtypes = [compute_dtype(part.dtype, xp=xp) for part in (x, weights)]
    dtype = xp.float64 if xp.float64 in dtypes else xp.float32
    named = {"inputs": x, "kernel": weights, "bias": added}
    return named, Logits((*x.shape[:-1], weights.shape[1]), dtype, None)


def _read_options(logits: Any, *options: Any) -> Options:
    """Without Keras's variables, which the packages of other frameworks do not know."""
    read = Options.of(logits, *options, xp=xp)
    return Options._make([ops.convert_to_tensor(option) if hasattr(option, "dtype") else option for option in read])


def _in_torch(layer: dict[str, Any], logits: Any, chunk: int | None, options: Options) -> dict[str, Any]:
    """In the words of PyTorch, where a budget says how many classes a chunk has."""
    *rows, _ = logits.shape
    bytes_a_logit = 8 if logits.dtype == xp.float64 else 4
    return {
        "input": layer["inputs"],
        "linear_weight": layer["kernel"].mT,  # a view, with a gradient of the same layout
        "bias": layer["bias"],
        "mask": options.where,
        "weight": options.weight,
        "pos_weight": options.pos_weight,
        "threshold": options.threshold,
        "reduction": "none",
        "memory_budget": None if chunk is None else COPIES * bytes_a_logit * chunk * max(1, prod(rows)),
    }
