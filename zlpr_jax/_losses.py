"""ZLPR as JAX functions, in optax's manner: ``(logits, labels)`` to one value per example.

The derivative is JAX's own of the core's formula, so ``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` all hold.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import zlpr_core
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from ._namespace import xp


def zlpr_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike = 0.0,
    label_smoothing: float = 0.0,
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
      where: bool, broadcastable to ``logits``. False takes the cell out of value and gradient, whatever it holds.
      weight: non-negative weights of the classes (or cells), broadcastable to ``logits``, inside the logarithms. A
        negative or NaN weight makes the loss NaN.
      pos_weight: the same, for positives only.
      threshold: :math:`\theta`, the logit above which a label is predicted (TLPR), broadcastable to ``logits``. It may
        be learned.
      label_smoothing: strength in [0, 1] of symmetric smoothing; see :func:`smooth_labels` for what it costs when
        there are many classes.
      ignore_index: cells whose label equals this are masked.

    Returns:
      One non-negative value per example: ``logits.shape`` without the class axes, in float32 (float64 for float64
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
    positive, negative = zlpr_terms(
        logits,
        labels,
        axis=axis,
        where=where,
        weight=weight,
        pos_weight=pos_weight,
        threshold=threshold,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
    )
    return positive + negative


def zlpr_terms(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    threshold: ArrayLike = 0.0,
    label_smoothing: float = 0.0,
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
    scores = jnp.asarray(logits)
    targets, kept = prepare_targets(
        jnp.asarray(labels), _array(where), scores, label_smoothing=label_smoothing, ignore_index=ignore_index, xp=xp
    )
    return zlpr_core.zlpr_terms(
        scores,
        targets,
        axis=axis,
        where=kept,
        weight=_array(weight),
        pos_weight=_array(pos_weight),
        threshold=_array(threshold),
        xp=xp,
    )


def _array(option: Any) -> Any:
    """Numbers stay weakly typed and None stays away; whatever else JAX takes becomes an array."""
    return option if option is None or isinstance(option, (int, float)) else jnp.asarray(option)
