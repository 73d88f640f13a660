"""Keras's reductions, whose means are over the examples that keep at least one cell."""

from typing import Any

import keras
from keras import backend, ops

from zlpr_core._checks import class_axes
from zlpr_core._targets import equals

from ._namespace import xp

if backend.backend() == "tensorflow":
    import tensorflow as tf


class _Computed(keras.losses.Loss):
    """Takes losses that are computed already as `y_true`, for Keras to weight and reduce."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_true


def kept_cells(like: keras.losses.Loss, y_true: Any, logits: Any, mask: Any) -> Any:
    """``where`` for the function that ``like`` calls: what ``mask`` and ``ignore_index`` leave, None if all.

    Keras multiplies by a mask afterwards, which leaves NaN where masked logits or labels are anything at all.
    """
    ignored = getattr(like, "ignore_index", None)
    where = None if mask is None else _of_cells(mask, logits, getattr(like, "axis", None))
    if ignored is None:
        return where
    labelled = ~equals(ops.convert_to_tensor(y_true), ignored, xp=xp)
    return labelled if where is None else labelled & where


def _of_cells(mask: Any, logits: Any, axis: Any) -> Any:
    """The mask of the predictions, which has their leading axes, with an axis of size 1 for each that it lacks."""
    where, rank, axes = ops.cast(mask, "bool"), len(logits.shape), class_axes(logits, axis, xp=xp)
    batch = [a for a in range(rank) if a not in axes]
    own = batch if len(where.shape) <= len(batch) else range(rank)
    for a in range(rank):
        if a not in own[: len(mask.shape)]:
            where = ops.expand_dims(where, a)
    return where


def reduced(losses: Any, where: Any, like: keras.losses.Loss, sample_weight: Any) -> Any:
    """``losses``, which are 0 where nothing is kept, weighted and reduced as ``like`` would."""
    keras_reduced = _Computed(name=like.name, reduction=like.reduction, dtype=like.dtype)
    if where is None or like.reduction in ("sum", "none", None):
        return keras_reduced(losses, losses, sample_weight)
    axes = class_axes(where, getattr(like, "axis", None), xp=xp)
    kept = ops.cast(ops.any(where, axis=axes), like.dtype) * ops.ones_like(losses)
    if like.reduction == "mean_with_sample_weight":  # Keras divides by the sum of the weights
        return keras_reduced(losses, losses, kept if sample_weight is None else kept * _aligned(sample_weight, kept))
    return ops.divide_no_nan(keras_reduced(losses, losses, sample_weight), ops.mean(kept))


def for_all_replicas(loss: Any) -> Any:
    """A reduced loss to be added by a layer. Keras has divided a mean by the number of replicas, and will once more."""
    return loss if backend.backend() != "tensorflow" else loss * tf.distribute.get_strategy().num_replicas_in_sync


def _aligned(sample_weight: Any, losses: Any) -> Any:
    """Weights, which may have one axis of size 1 more or less than the losses, as Keras allows."""
    weight = ops.convert_to_tensor(sample_weight, dtype=losses.dtype)
    if len(weight.shape) == len(losses.shape) + 1:
        return ops.squeeze(weight, axis=-1)
    return ops.expand_dims(weight, -1) if len(weight.shape) == len(losses.shape) - 1 else weight
