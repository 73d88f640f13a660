"""ZLPR as a Keras loss, on any backend of Keras."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from zlpr_core._checks import check_fraction
from zlpr_core._targets import compute_dtype, equals, soft_targets
from zlpr_core._typing import Axis

from ._losses import zlpr_loss
from ._namespace import xp


@keras.saving.register_keras_serializable(package="zlpr")
class ZLPRLoss(keras.losses.Loss):
    r"""Multi-label ZLPR loss, where `BinaryCrossentropy(from_logits=True)` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i t_i e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_i (1 - t_i) e^{s_i}\Bigr)

    The model must end in raw logits. Predict with `logits > 0`, and use metrics with `threshold=0`.

    Args:
        axis: The class axis or axes.
        weight: Non-negative weights of the classes, inside the logarithms: a number or nested sequences.
        pos_weight: The same, for positives only.
        threshold: The logit above which a label is predicted: a number or nested sequences.
        label_smoothing: Strength in [0, 1] of symmetric smoothing.
        ignore_index: Cells whose target equals this are left out.
        reduction: As in every Keras loss; the mean is over examples, never over classes.
        name: Optional name.
        dtype: As in every Keras loss; half precision still computes in float32.

    Call:
        `y_true` and `y_pred` of shape `(batch, ..., classes)`, and `sample_weight` of shape `(batch, ...)`.

    Raises:
        ValueError: A negative weight, a `label_smoothing` outside [0, 1], an unknown `reduction`, shapes that differ.

    Example:
        >>> loss = ZLPRLoss()
        >>> print(f"{float(loss([[1, 0, 0]], [[2.0, -1.0, 0.0]])):.4f}")
        0.9889
    """

    def __init__(
        self,
        axis: Axis = -1,
        weight: Any = None,
        pos_weight: Any = None,
        threshold: Any = 0.0,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        reduction: str = "sum_over_batch_size",
        name: str | None = "zlpr_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_fraction("label_smoothing", label_smoothing)
        self.axis = tuple(axis) if isinstance(axis, Sequence) else axis
        self.weight, self.pos_weight = _weights("weight", weight), _weights("pos_weight", pos_weight)
        self.threshold = _plain("threshold", threshold)
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss. Keras casts `y_true` on its way to `call`, so what its own dtype says is read here."""
        targets = ops.convert_to_tensor(y_true)
        soft = soft_targets(targets, compute_dtype(targets.dtype, xp=xp), xp=xp)
        if self.ignore_index is not None:
            soft = ops.where(equals(targets, self.ignore_index, xp=xp), self.ignore_index, soft)
        return super().__call__(soft, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value per example."""
        return zlpr_loss(y_true, y_pred, **self._options())

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs, `dtype` included, which Keras leaves out."""
        return {**super().get_config(), **self._options(), "dtype": self.dtype}

    def _options(self) -> dict[str, Any]:
        return {
            "axis": self.axis,
            "weight": self.weight,
            "pos_weight": self.pos_weight,
            "threshold": self.threshold,
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
        }


def _plain(argument: str, value: Any) -> Any:
    """Numbers or nested lists of them, which a saved model can hold."""
    if hasattr(value, "assign"):
        msg = f"`{argument}` of the class is a constant. Received a variable: call `zlpr_loss` to have it learned."
        raise TypeError(msg)
    return (
        value if value is None or isinstance(value, (int, float)) else np.asarray(ops.convert_to_numpy(value)).tolist()
    )


def _weights(argument: str, weight: Any) -> Any:
    plain = _plain(argument, weight)
    if plain is not None and not np.all(np.asarray(plain) >= 0):
        msg = f"`{argument}` must be non-negative. Received: {weight}."
        raise ValueError(msg)
    return plain
