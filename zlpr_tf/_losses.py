"""ZLPR as functions of tensors, ``(labels, logits)`` as in ``tf.nn``, to one value per example.

They are made of ``keras.ops``, so the tensors are those of whichever backend Keras runs on: TensorFlow's unless
``KERAS_BACKEND`` says otherwise. Derivatives are the framework's own of the core's formula, except for those of
`zlpr_loss` and `zlpr_terms` in a graph of TensorFlow, which are in ``_derivative``.
"""

from typing import Any

from keras import backend, ops

from zlpr_core._checks import check_positive, refuse_sparse, sparse_error
from zlpr_core._divergences import JEFFREYS
from zlpr_core._indices import PAD, check_matrix, indicated, is_matrix
from zlpr_core._options import Options
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from . import _derivative
from ._divergence_derivative import divergence
from ._namespace import of_shape, xp
from ._symbolic import keras_function


@keras_function
def zlpr_loss(
    labels: Any,
    logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Any:
    r"""Multi-label ZLPR loss, where ``tf.nn.sigmoid_cross_entropy_with_logits`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr) + \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    with :math:`a_i = w_i p_i t_i` and :math:`b_i = w_i (1 - t_i)` for weights :math:`w` and positive weights :math:`p`.

    Args:
        labels: The shape of `logits`. bool or integer: hard labels, 0 or 1. Floating: soft labels in [0, 1], where 8
            eps of their dtype beyond either end count as 0 or 1. Anything else, or NaN, makes the loss of that
            example NaN, inside a `tf.function` too.
        logits: Raw logits :math:`s` (no sigmoid) of shape `(..., num_classes)`, in any floating dtype. Half precision
            computes in and returns float32; the gradient comes back in the dtype of `logits`. -inf on a negative and
            +inf on a positive contribute nothing; the other way round the loss is +inf, and such a cell has no
            gradient.
        axis: The class axis or axes; they are summed away.
        where: bool, broadcastable to `logits`. False takes the cell out of value and gradient, whatever it holds.
        weight: Non-negative weights of the classes (or cells), broadcastable to `logits`, inside the logarithms. A
            negative, infinite or NaN weight makes the loss NaN.
        pos_weight: The same, for positives only.
        threshold: :math:`\theta`, the logit above which a label is predicted (TLPR), broadcastable to `logits`. It may
            be learned.
        label_smoothing: Strength in [0, 1] of symmetric smoothing; see `smooth_labels` for what it costs when there
            are many classes.
        ignore_index: Cells whose label equals this, which may be NaN, are masked.

    Returns:
        One non-negative value per example, of the shape of `logits` without the class axes, in float32 (float64 for
        float64 logits).

    Raises:
        TypeError: Logits that are not floating, labels of another kind, a `where` that is not bool.
        ValueError: Shapes that differ or do not broadcast, an `axis` that does not exist, no class at all.

    Reference:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> loss = zlpr_loss(labels=[[1, 0, 0]], logits=[[2.0, -1.0, 0.0]])
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.9889]
    """
    scores, targets, kept = _read(labels, logits, where, label_smoothing, ignore_index)
    options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)
    return _derivative.loss(scores, targets, axis, options)


@keras_function
def sparse_zlpr_loss(
    indices: Any,
    logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
) -> Any:
    r"""ZLPR of class ids: `zlpr_loss` of the rows that the ids stand for.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    Exact, because the positives are masked out of the second sum, by one byte a logit. The published form subtracts
    them from the sum of all, and trains backwards once a positive is above 16.

    Args:
        indices: The ids of the positives, in [0, num_classes), in any order; duplicates count once. An integer tensor
            of shape `(..., P)` with each row filled up with `pad`, lists of ids, a `tf.RaggedTensor` of ids, or a
            `tf.SparseTensor` of the shape of `logits` that holds 1 at the positives. (Ids out of
            `tf.io.VarLenFeature` become ragged by `tf.RaggedTensor.from_sparse`.)
        logits: As in `zlpr_loss`.
        axis: The class axis or axes. Of several, an id counts the cells in C order, as `span_to_index` does.
        where: As in `zlpr_loss`.
        weight: As in `zlpr_loss`.
        pos_weight: As in `zlpr_loss`.
        threshold: As in `zlpr_loss`.
        label_smoothing: As in `zlpr_loss`.
        pad: The id that marks an unused slot.

    Returns:
        One non-negative value per example. In a `tf.function` and on an accelerator, where a look at the values would
        stop everything, NaN for an example with an illegal id, or with another number than 0 and 1 in a matrix.

    Raises:
        IndexError: An id is neither in range nor `pad`, where it can be looked at.
        TypeError: Ids that are not integers.
        ValueError: Not one row of ids for each example.

    Reference:
        J. Su, https://kexue.fm/archives/8888, 2022, for the task and the form by subtraction.

    Example:
        >>> loss = sparse_zlpr_loss(indices=[[0], [0, 1]], logits=[[2.0, -1.0, 0.0], [3.0, 1.0, -2.0]])
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.9889 0.4759]
    """
    scores = ops.convert_to_tensor(logits)
    return zlpr_loss(
        _labels(indices, scores, axis, pad),
        scores,
        axis=axis,
        where=where,
        weight=weight,
        pos_weight=pos_weight,
        threshold=threshold,
        label_smoothing=label_smoothing,
    )


def _labels(indices: Any, scores: Any, axis: Axis, pad: int | None) -> Any:
    if hasattr(indices, "dense_shape"):  # a SparseTensor, told by its attributes: Keras may run without TensorFlow
        return _of_matrix(indices, scores, axis)
    return indicated(plain_ids(indices, pad), scores, axis, pad, xp=xp)


def plain_ids(indices: Any, pad: int | None) -> Any:
    """Ragged rows filled up, as a tensor. Lists stay, as their lengths may differ, and so does a matrix of SciPy."""
    if hasattr(indices, "row_splits"):
        wide = indices.with_flat_values(ops.cast(indices.flat_values, "int64"))  # which holds every pad
        indices = wide.to_tensor(default_value=PAD if pad is None else pad)
    if not isinstance(indices, (list, tuple)) and not is_matrix(indices):
        indices = ops.convert_to_tensor(indices)
        _check_ids(indices)
    return indices


def _check_ids(ids: Any) -> None:
    """Raise if they are floats, as Keras makes them of the targets of a loss function but not of ours as a class."""
    dtype = backend.standardize_dtype(ids.dtype)
    if "float" in dtype:
        msg = (
            f"`indices` must be integer class ids. Received dtype: {dtype}. Keras makes floats of the targets of a "
            f"loss function: compile with `loss=SparseZLPRLoss()`."
        )
        raise TypeError(msg)


def _of_matrix(matrix: Any, scores: Any, axis: Axis) -> Any:
    """int8, with 2 where an entry is neither 0 nor 1, which makes the loss NaN."""
    check_matrix(matrix, scores, axis, xp=xp)
    values = ops.cast(matrix.values, "float32")
    kinds = ops.cast(ops.where((values == 0) | (values == 1), values, 2.0), "int8")
    return ops.scatter_update(ops.zeros(matrix.dense_shape, "int8"), matrix.indices, kinds)


@keras_function
def rdrop_zlpr_loss(
    labels: Any,
    logits1: Any,
    logits2: Any,
    *,
    alpha: float | None = 4.0,
    scale: float | None = 1.0,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Any:
    r"""R-Drop: the loss of two passes through dropout, and how far apart they are.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    with `symmetric_kl_divergence` as the last term: the mean of two losses and the published code's quarter. Multiply
    by 2 for the scale of the R-Drop paper, which adds the two losses.

    Args:
        labels: As in `zlpr_loss`, as are all the options that are not named here. The weights concern the losses only;
            a `threshold` is subtracted from the logits in all three terms.
        logits1: Raw logits :math:`s` of one pass.
        logits2: Raw logits :math:`u` of another pass of the same examples.
        alpha: :math:`\alpha`, non-negative: what the agreement is worth.
        scale: As in `kl_divergence`.

    Returns:
        One non-negative value per example.

    Reference:
        Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, arXiv:2106.14448.

    Example:
        >>> loss = rdrop_zlpr_loss(labels=[[1, 0]], logits1=[[2.0, -1.0]], logits2=[[1.5, -0.5]])
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.6438]
    """
    first, targets, kept = _read(labels, logits1, where, label_smoothing, ignore_index)
    second = of_shape(ops.convert_to_tensor(logits2), first)
    alpha = 4.0 if alpha is None else alpha
    check_positive("alpha", alpha, zero=True)
    jeffreys = divergence(JEFFREYS, first, second, axis, kept, scale, threshold, ("logits1", "logits2"))
    options: Any = {"axis": axis, "where": kept, "weight": weight, "pos_weight": pos_weight, "threshold": threshold}
    losses = zlpr_loss(targets, first, **options) + zlpr_loss(targets, second, **options)
    return 0.5 * losses + alpha / 4 * jeffreys


@keras_function
def zlpr_terms(
    labels: Any,
    logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> tuple[Any, Any]:
    r"""The two halves of ZLPR for each example: what the positives cost and what the negatives cost.

    .. math::
        P = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr), \; N = \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    Args, errors and edges are those of `zlpr_loss`, to which the two sum.

    Returns:
        Two tensors, each the shape of `logits` without the class axes.

    Example:
        >>> positive, negative = zlpr_terms(labels=[[1, 0, 0]], logits=[[2.0, -1.0, 0.0]])
        >>> print(ops.convert_to_numpy(positive).round(4), ops.convert_to_numpy(negative).round(4))
        [0.1269] [0.862]
    """
    scores, targets, kept = _read(labels, logits, where, label_smoothing, ignore_index)
    options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)
    return _derivative.terms(scores, targets, axis, options)


def _read(
    labels: Any, logits: Any, where: Any, label_smoothing: float | None, ignore_index: float | None
) -> tuple[Any, Any, Any]:
    """``(logits, targets, where)`` as tensors, with the two options of the adapters worked into the last two."""
    refuse_sparse_labels(labels)
    scores, options = ops.convert_to_tensor(logits), {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    targets = of_shape(ops.convert_to_tensor(labels), scores)
    return scores, *prepare_targets(targets, where, scores, **options, xp=xp)


def refuse_sparse_labels(labels: Any) -> None:
    """Raise if they are a sparse matrix or ragged."""
    refuse_sparse(labels, "targets", xp=xp)
    if hasattr(labels, "row_splits"):
        raise sparse_error(labels, "targets", xp=xp)
