"""ZLPR as functions of tensors, ``(labels, logits)`` as in ``tf.nn``, to one value per example.

They are made of ``keras.ops``, so the tensors are those of whichever backend Keras runs on: TensorFlow's unless
``KERAS_BACKEND`` says otherwise. The derivative is the framework's own of the core's formula.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from keras import ops

import zlpr_core
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from ._namespace import xp

P = ParamSpec("P")
R = TypeVar("R")


def zlpr_loss(
    labels: Any,
    logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float = 0.0,
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
            negative or NaN weight makes the loss NaN.
        pos_weight: The same, for positives only.
        threshold: :math:`\theta`, the logit above which a label is predicted (TLPR), broadcastable to `logits`. It may
            be learned.
        label_smoothing: Strength in [0, 1] of symmetric smoothing; see `smooth_labels` for what it costs when there
            are many classes.
        ignore_index: Cells whose label equals this are masked.

    Returns:
        One non-negative value per example: the shape of `logits` without the class axes, in float32 (float64 for
        float64 logits).

    Raises:
        TypeError: Logits that are not floating, labels of another kind, a `where` that is not bool.
        ValueError: Shapes that differ or do not broadcast, an `axis` that does not exist, no class at all.

    Reference:
        Su et al., [ZLPR: A Novel Loss for Multi-label Classification](https://arxiv.org/abs/2208.02955), 2022.

    Example:
        >>> loss = zlpr_loss(labels=[[1, 0, 0]], logits=[[2.0, -1.0, 0.0]])
        >>> print(ops.convert_to_numpy(loss).round(4))
        [0.9889]
    """
    positive, negative = zlpr_terms(
        labels,
        logits,
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
    labels: Any,
    logits: Any,
    *,
    axis: Axis = -1,
    where: Any = None,
    weight: Any = None,
    pos_weight: Any = None,
    threshold: Any = 0.0,
    label_smoothing: float = 0.0,
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
    targets, scores = ops.convert_to_tensor(labels), ops.convert_to_tensor(logits)
    if None in (*targets.shape, *scores.shape) and len(targets.shape) == len(scores.shape):
        targets = ops.reshape(targets, ops.shape(scores))  # raises once the sizes are known, rather than broadcast
    targets, kept = prepare_targets(
        targets, _tensor(where), scores, label_smoothing=label_smoothing, ignore_index=ignore_index, xp=xp
    )
    return zlpr_core.zlpr_terms(
        scores,
        targets,
        axis=axis,
        where=kept,
        weight=_tensor(weight),
        pos_weight=_tensor(pos_weight),
        threshold=_tensor(threshold),
        xp=xp,
    )


def _tensor(option: Any) -> Any:
    """Numbers stay weakly typed and None stays away; whatever else Keras takes becomes a tensor."""
    if isinstance(option, (list, tuple)):
        option = np.asarray(option)  # float64, where Keras would round to float32
    return option if option is None or isinstance(option, (int, float)) else ops.convert_to_tensor(option)


def _of_tensors(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A function of the core as one of tensors, which array-api-compat does not know of TensorFlow."""

    @wraps(function)
    def of_tensors(array: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        kwargs.setdefault("xp", xp)
        kwargs.update({name: _tensor(kwargs[name]) for name in ("where", "threshold") if name in kwargs})
        return function(ops.convert_to_tensor(array), *args, **kwargs)

    return of_tensors


check_targets = _of_tensors(zlpr_core.check_targets)
multi_hot = _of_tensors(zlpr_core.multi_hot)
predict = _of_tensors(zlpr_core.predict)
probabilities = _of_tensors(zlpr_core.probabilities)
smooth_labels = _of_tensors(zlpr_core.smooth_labels)
zlpr_entropy = _of_tensors(zlpr_core.zlpr_entropy)
