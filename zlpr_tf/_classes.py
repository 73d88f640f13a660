"""ZLPR as Keras losses, on any backend of Keras."""

from operator import index
from typing import Any

import keras
import numpy as np
from keras import ops

from zlpr_core._checks import check_axis, check_fraction
from zlpr_core._typing import Axis

from ._keras_internals import mask_of
from ._losses import sparse_zlpr_loss, zlpr_loss
from ._reduction import kept_cells, reduced


class _Loss(keras.losses.Loss):
    """What both losses share: options that a saved model can hold, and targets that keep their dtype."""

    def __init__(self, *, name: str | None, reduction: str | None, dtype: Any, **options: Any) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        for option, value in options.items():
            setattr(self, option, value)
        self._names = tuple(options)

    def __setattr__(self, name: str, value: Any) -> None:
        """An option is read and checked, assigned later too."""
        super().__setattr__(name, _READ[name](name, value) if name in _READ else value)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss. Keras would cast `y_true` to floats first: ids lose digits, hard labels turn soft."""
        logits = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        where = kept_cells(self, y_true, logits, mask_of(y_pred))
        losses = self.call(y_true, logits) if where is None else self.call(y_true, logits, where=where)
        return reduced(losses, where, self, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs, `dtype` included, which Keras leaves out."""
        return {**super().get_config(), **self._options(), "dtype": self.dtype}

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}


@keras.saving.register_keras_serializable(package="zlpr")
class ZLPRLoss(_Loss):
    r"""Multi-label ZLPR loss, where `BinaryCrossentropy(from_logits=True)` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i t_i e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_i (1 - t_i) e^{s_i}\Bigr)

    The model must end in raw logits. Predict with `logits > 0`, and use metrics with `threshold=0`.

    Args:
        axis: The class axis or axes. None is the default of this and every option but `reduction`.
        weight: Non-negative weights of the classes, inside the logarithms: a number or nested sequences.
        pos_weight: The same, for positives only.
        threshold: The logit above which a label is predicted: a number or nested sequences.
        label_smoothing: Strength in [0, 1] of symmetric smoothing.
        ignore_index: Cells whose target equals this are left out.
        reduction: As in every Keras loss; the mean is over the examples that keep a cell, never over classes.
        name: Optional name.
        dtype: As in every Keras loss; half precision still computes in float32.

    Call:
        `y_true` and `y_pred` of shape `(batch, ..., classes)`, and `sample_weight` of shape `(batch, ...)`.

    Raises:
        TypeError: An `axis` that is no int, an option that is no number.
        ValueError: A negative or infinite weight, a `label_smoothing` outside [0, 1], an unknown `reduction`, shapes
            that differ.

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
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "zlpr_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name=name,
            reduction=reduction,
            dtype=dtype,
            axis=axis,
            weight=weight,
            pos_weight=pos_weight,
            threshold=threshold,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
        )

    def call(self, y_true: Any, y_pred: Any, where: Any = None) -> Any:
        """One value per example."""
        return zlpr_loss(y_true, y_pred, where=where, **self._options())


@keras.saving.register_keras_serializable(package="zlpr")
class SparseZLPRLoss(_Loss):
    r"""ZLPR of class ids, for label sets too many to be multi-hot rows.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    The model must end in raw logits. Ids keep all their digits, where Keras would round them to float32.

    Args:
        axis: The class axis or axes. Of several, an id counts the cells in C order, as `span_to_index` does.
        weight: Non-negative weights of the classes, inside the logarithms: a number or nested sequences.
        pos_weight: The same, for positives only.
        threshold: The logit above which a label is predicted: a number or nested sequences.
        label_smoothing: Strength in [0, 1] of symmetric smoothing.
        pad: The id that marks an unused slot.
        reduction: As in every Keras loss; the mean is over the examples that keep a cell, never over classes.
        name: Optional name.
        dtype: As in every Keras loss; half precision still computes in float32.

    Call:
        `y_true` of shape `(batch, ..., slots)` holds the ids of the positives, or is one of the other forms that
        `sparse_zlpr_loss` takes; `y_pred` of shape `(batch, ..., classes)`; `sample_weight` of shape `(batch, ...)`.

    Raises:
        TypeError: An `axis` that is no int, an option that is no number.
        ValueError: A negative or infinite weight, a `label_smoothing` outside [0, 1], an unknown `reduction`.
        IndexError: An id is neither in range nor `pad`, where it can be looked at.

    Example:
        >>> loss = SparseZLPRLoss()
        >>> print(f"{float(loss([[0, -1]], [[2.0, -1.0, 0.0]])):.4f}")
        0.9889
    """

    def __init__(
        self,
        axis: Axis = -1,
        weight: Any = None,
        pos_weight: Any = None,
        threshold: Any = 0.0,
        label_smoothing: float | None = 0.0,
        pad: int | None = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "sparse_zlpr_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name=name,
            reduction=reduction,
            dtype=dtype,
            axis=axis,
            weight=weight,
            pos_weight=pos_weight,
            threshold=threshold,
            label_smoothing=label_smoothing,
            pad=pad,
        )

    def call(self, y_true: Any, y_pred: Any, where: Any = None) -> Any:
        """One value per example."""
        return sparse_zlpr_loss(y_true, y_pred, where=where, **self._options())


def _read_axis(argument: str, axis: Axis) -> int | tuple[int, ...]:
    axes = check_axis(axis, argument)
    return axes if isinstance(axis, (tuple, list)) else axes[0]


def _read_pad(argument: str, pad: Any) -> int | None:
    if pad is None or hasattr(pad, "__index__"):
        return None if pad is None else index(pad)
    msg = f"`{argument}` must be a whole number. Received: {pad!r:.60}."
    raise TypeError(msg)


def _read_numbers(argument: str, value: Any) -> Any:
    """A number or nested lists of them, which a saved model can hold."""
    if hasattr(value, "assign"):
        msg = f"`{argument}` of the class is a constant. Received a variable: call `zlpr_loss` to have it learned."
        raise TypeError(msg)
    if value is None or isinstance(value, (int, float)):
        return value
    try:
        return np.asarray(ops.convert_to_numpy(value)).astype("float64").tolist()
    except (TypeError, ValueError) as error:
        msg = f"`{argument}` must be a number or nested lists of numbers. Received: {value!r:.60}."
        raise TypeError(msg) from error


def _read_number(argument: str, value: Any) -> float | None:
    number: float | None = _read_numbers(argument, value)
    if isinstance(number, list):
        msg = f"`{argument}` must be one number. Received: {value!r:.60}."
        raise TypeError(msg)
    return number


def _read_fraction(argument: str, value: Any) -> float | None:
    number = _read_number(argument, value)
    check_fraction(argument, number or 0.0)
    return number


def _read_weight(argument: str, weight: Any) -> Any:
    plain = _read_numbers(argument, weight)
    numbers = np.asarray(0 if plain is None else plain)
    if not np.all((numbers >= 0) & (numbers < np.inf)):
        msg = f"`{argument}` must be non-negative and finite. Received: {weight}."
        raise ValueError(msg)
    return plain


_READ = {
    "axis": _read_axis,
    "weight": _read_weight,
    "pos_weight": _read_weight,
    "threshold": _read_numbers,
    "label_smoothing": _read_fraction,
    "ignore_index": _read_number,
    "pad": _read_pad,
}
