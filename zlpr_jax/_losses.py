"""ZLPR as JAX functions, in optax's manner: ``(logits, labels)`` to one value per example.

``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` all hold.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from zlpr_core._checks import check_positive, refuse_sparse
from zlpr_core._divergences import JEFFREYS
from zlpr_core._options import Options
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from ._derivative import terms, zlpr
from ._divergence_derivative import divergence
from ._ids import labels_of
from ._namespace import xp


def zlpr_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    axis_name: Any = None,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Array:
    r"""Multi-label ZLPR loss, where ``optax.sigmoid_binary_cross_entropy`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr) + \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    with :math:`a_i = w_i p_i t_i` and :math:`b_i = w_i (1 - t_i)` for weights :math:`w` and positive weights :math:`p`.

    Args:
      logits: raw logits :math:`s` (no sigmoid) of shape ``[..., num_classes]``, in any floating dtype. Half precision
        computes in and returns float32; the gradient comes back in the dtype of ``logits``. -inf on a negative and
        +inf on a positive contribute nothing; the other way round the loss is +inf, and such a cell has no gradient.
      labels: the shape of ``logits``. bool or integer: hard labels, 0 or 1. Floating: soft labels in [0, 1], where
        8 eps of their dtype beyond either end count as 0 or 1. Anything else, or NaN, makes the loss of that example
        NaN, under ``jit`` too.
      axis: the class axis or axes; they are summed away.
      axis_name: inside ``shard_map``, the axis over which the classes are spread: all arrays are this device's, and the
        loss is that of whole rows, the same on every device. Without it the loss is that of the device's classes alone.
      where: bool, broadcastable to ``logits``. False takes the cell out of value and gradient, whatever it holds.
      weight: non-negative weights of the classes (or cells), broadcastable to ``logits``, inside the logarithms. A
        negative, infinite or NaN weight makes the loss NaN.
      pos_weight: the same, for positives only.
      threshold: :math:`\theta`, the logit above which a label is predicted (TLPR), broadcastable to ``logits``. It may
        be learned.
      label_smoothing: strength in [0, 1] of symmetric smoothing; see :func:`smooth_labels` for what it costs when
        there are many classes.
      ignore_index: cells whose label equals this, which may be NaN, are masked.

    Returns:
      One non-negative value per example, of ``logits.shape`` without the class axes, in float32 (float64 for float64
      logits).

    Raises:
      TypeError: logits that are not floating, labels of another kind, a ``where`` that is not bool.
      ValueError: shapes that differ or do not broadcast, an ``axis`` that does not exist, no class at all.

    References:
      Su et al., `ZLPR: A Novel Loss for Multi-label Classification <https://arxiv.org/abs/2208.02955>`_, 2022.

    Examples:
      >>> zlpr_loss(jnp.array([[2.0, -1.0, 0.0]]), jnp.array([[1, 0, 0]])).round(4)
      Array([0.98889995], dtype=float32)
    """
    scores, targets, kept = _read(logits, labels, where, label_smoothing, ignore_index)
    options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)
    return zlpr(scores, targets, axis, options, axis_name)


def sparse_zlpr_loss(
    logits: ArrayLike,
    indices: Any,
    *,
    axis: Axis = -1,
    axis_name: Any = None,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    pad: int | None = -1,
) -> Array:
    r"""ZLPR of class ids: :func:`zlpr_loss` of the rows that the ids stand for.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    Exact, because the positives are masked out of the second sum, by one byte a logit. The published form subtracts
    them from the sum of all, and trains backwards once a positive is above 16.

    Args:
      logits: as in :func:`zlpr_loss`.
      indices: the ids of the positives, in [0, num_classes), in any order; duplicates count once. An integer array of
        shape ``[..., P]`` with each row filled up with ``pad``, or lists of ids of any length outside ``jit``, or a
        :class:`jax.experimental.sparse.BCOO` of the shape of ``logits`` that holds 1 at the positives.
      axis: the class axis or axes. Of several, an id counts the cells in C order, as :func:`span_to_index` does.
      axis_name: as in :func:`zlpr_loss`, for classes on the last axis. The ids count the classes of all devices, which
        have as many each.
      where, weight, pos_weight, threshold, label_smoothing: as in :func:`zlpr_loss`.
      pad: the id that marks an unused slot.

    Returns:
      One non-negative value per example. Under ``jit`` and on an accelerator, where a look at the values would stop
      everything, NaN for an example with an illegal id, or with another number than 0 and 1 in a matrix.

    Raises:
      IndexError: an id is neither in range nor ``pad``, where it can be looked at.
      TypeError: ids that are not integers.
      ValueError: not one row of ids for each example.

    References:
      J. Su, https://kexue.fm/archives/8888, 2022, for the task and the form by subtraction.

    Examples:
      >>> logits = jnp.array([[2.0, -1.0, 0.0], [3.0, 1.0, -2.0]])
      >>> print(f"{sparse_zlpr_loss(logits, jnp.array([[0, -1], [0, 1]])).mean():.4f}")
      0.7324
    """
    scores = jnp.asarray(logits)
    return zlpr_loss(
        scores,
        labels_of(indices, scores, axis, pad, axis_name),
        axis=axis,
        axis_name=axis_name,
        where=where,
        weight=weight,
        pos_weight=pos_weight,
        threshold=threshold,
        label_smoothing=label_smoothing,
    )


def rdrop_zlpr_loss(
    logits1: ArrayLike,
    logits2: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: float | None = 4.0,
    scale: float | None = 1.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> Array:
    r"""R-Drop: the loss of two passes through dropout, and how far apart they are.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    with :func:`symmetric_kl_divergence` as the last term: the mean of two losses and the published code's quarter.
    Multiply by 2 for the scale of the R-Drop paper, which adds the two losses.

    Args:
      logits1: raw logits :math:`s` of one pass.
      logits2: raw logits :math:`u` of another pass of the same examples.
      labels: as in :func:`zlpr_loss`, as are all the options that are not named here. The weights concern the losses
        only; a ``threshold`` is subtracted from the logits in all three terms.
      alpha: :math:`\alpha`, non-negative: what the agreement is worth.
      scale: as in :func:`kl_divergence`.

    Returns:
      One non-negative value per example.

    References:
      Liang et al., `R-Drop: Regularized Dropout for Neural Networks <https://arxiv.org/abs/2106.14448>`_, 2021.

    Examples:
      >>> first, second = jnp.array([[2.0, -1.0]]), jnp.array([[1.5, -0.5]])
      >>> print(f"{rdrop_zlpr_loss(first, second, jnp.array([[1, 0]])).mean():.4f}")
      0.6438
    """
    alpha = 4.0 if alpha is None else alpha
    check_positive("alpha", alpha, zero=True)
    first, targets, kept = _read(logits1, labels, where, label_smoothing, ignore_index)
    second = jnp.asarray(logits2)
    names = "logits1", "logits2"
    jeffreys = divergence(JEFFREYS, first, second, axis, kept, scale, threshold, names)
    options = Options.of(first, kept, weight, pos_weight, threshold, xp=xp)
    losses = sum(zlpr(logits, targets, axis, options, by_parts=True) for logits in (first, second))
    return 0.5 * losses + (alpha / 4) * jeffreys


def zlpr_terms(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike | None = 0.0,
    label_smoothing: float | None = 0.0,
    ignore_index: float | None = None,
) -> tuple[Array, Array]:
    r"""The two halves of ZLPR for each example: what the positives cost and what the negatives cost.

    .. math::
        P = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr), \; N = \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    Args, errors and edges are those of :func:`zlpr_loss`, to which the two sum.

    Returns:
      Two arrays, each ``logits.shape`` without the class axes.

    Examples:
      >>> positive, negative = zlpr_terms(jnp.array([[2.0, -1.0, 0.0]]), jnp.array([[1, 0, 0]]))
      >>> print(positive.round(4), negative.round(4))
      [0.1269] [0.862]
    """
    scores, targets, kept = _read(logits, labels, where, label_smoothing, ignore_index)
    return terms(scores, targets, axis, Options.of(scores, kept, weight, pos_weight, threshold, xp=xp))


def _read(
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    label_smoothing: float | None,
    ignore_index: float | None,
) -> tuple[Array, Any, Any]:
    """``(logits, targets, where)`` as arrays, with the two options of the adapters worked into the last two."""
    refuse_sparse(labels, "targets", xp=xp)
    scores, options = jnp.asarray(logits), {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
    return scores, *prepare_targets(jnp.asarray(labels), where, scores, **options, xp=xp)
