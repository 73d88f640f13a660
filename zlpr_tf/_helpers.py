"""Making and checking labels, and reading logits."""

from typing import Any, Literal, TypeVar

from keras import ops

import zlpr_core
from zlpr_core._typing import Axis

from ._namespace import xp
from ._symbolic import keras_function

Int = TypeVar("Int", int, Any)


@keras_function
def predict(logits: Any, *, threshold: Any = 0.0, at_least_one: bool | None = False, axis: Axis = -1) -> Any:
    r"""Label set: class i belongs to it iff :math:`s_i > \theta`.

    Args:
        logits: Raw logits :math:`s` of shape `(..., num_classes)`, in any floating dtype.
        threshold: :math:`\theta`, the one that the loss was trained with, broadcastable to `logits`.
        at_least_one: Where no class passes, take the best one (with its exact ties). A class at -inf is never taken,
            and none is beside a NaN.
        axis: The class axis or axes, among which `at_least_one` looks for the best.

    Returns:
        bool, of the shape of `logits`; False at NaN.

    Raises:
        TypeError: Logits that are not floating, a `threshold` that is no number.
        ValueError: A `threshold` that does not broadcast, an `axis` that does not exist.

    Example:
        >>> labels = predict([[2.0, -1.0, 0.5], [-3.0, -1.0, -2.0]], at_least_one=True)
        >>> print(ops.convert_to_numpy(labels))
        [[ True False  True]
         [False  True False]]
    """
    options: Any = {"threshold": threshold, "at_least_one": at_least_one, "axis": axis}
    return zlpr_core.predict(ops.convert_to_tensor(logits), **options, xp=xp)


@keras_function
def probabilities(logits: Any, *, scale: float | None = 2.0) -> Any:
    r"""The probabilities that a model trained with soft ZLPR states: :math:`\sigma(\text{scale} \cdot s)`.

    Soft ZLPR is least at :math:`t = \sigma(2s)`, not :math:`\sigma(s)`. After training on hard labels neither is
    calibrated: there the best scale lies between 1 (one class) and 2 (many).

    Args:
        logits: Raw logits :math:`s` of any shape, in any floating dtype.
        scale: 2 for soft ZLPR; another one if you calibrated it.

    Returns:
        The shape of `logits`, in [0, 1]; float64 for float64 logits, else float32.

    Raises:
        TypeError: Logits that are not floating.

    Example:
        >>> print(ops.convert_to_numpy(probabilities([0.0, 1.0986123, -1000.0])).round(4))
        [0.5 0.9 0. ]
    """
    return zlpr_core.probabilities(ops.convert_to_tensor(logits), scale=scale, xp=xp)


@keras_function
def smooth_labels(labels: Any, epsilon: float, *, mode: Literal["symmetric", "positive"] | None = "symmetric") -> Any:
    r"""Move labels away from 0 and 1, so that the best logits are finite.

    .. math::
        \text{symmetric: } (1 - \epsilon) t + \epsilon / 2 \qquad \text{positive: } (1 - \epsilon) t

    Symmetric smoothing dilutes the positives when there are many classes: every negative adds
    :math:`\tfrac{\epsilon}{2} e^{-s}` to the positive term. With logits of -1.5 everywhere, the gradient of a missed
    positive falls from -0.818 to -0.155 at :math:`\epsilon = 0.1` and 100 classes, to -0.0019 at 10 000. Keep
    :math:`\epsilon \lesssim 2 / C^2`, or smooth the positives only.

    Args:
        labels: bool, integer (0 or 1) or floating in [0, 1], of any shape. An illegal label becomes NaN.
        epsilon: Strength, in [0, 1].
        mode: "positive" leaves the zeros where they are.

    Returns:
        The shape of `labels`; float64 for float64 labels, else float32.

    Raises:
        ValueError: `epsilon` is outside [0, 1], or `mode` is unknown.

    Example:
        >>> print(ops.convert_to_numpy(smooth_labels([1, 0], 0.1)).round(2))
        [0.95 0.05]
        >>> print(ops.convert_to_numpy(smooth_labels([1, 0], 0.1, mode="positive")).round(2))
        [0.9 0. ]
    """
    return zlpr_core.smooth_labels(ops.convert_to_tensor(labels), epsilon, mode=mode, xp=xp)


@keras_function
def zlpr_entropy(labels: Any, *, axis: Axis = -1, where: Any = None) -> Any:
    r"""The least value that `zlpr_loss` can take for these labels, one per example.

    .. math::
        H(t) = 2 \log\Bigl(1 + \sum_i \sqrt{t_i (1 - t_i)}\Bigr) \le L(s, t)

    It is reached at :math:`s = \tfrac12 \operatorname{logit}(t)` and nowhere else, so the loss less the entropy is a
    regret: 0 exactly when the model says what the labels say. It is 0 for hard labels.

    Args:
        labels: As in `zlpr_loss`.
        axis: The class axis or axes; they are summed away.
        where: bool, broadcastable to `labels`. False takes the cell out.

    Returns:
        One value per example: float64 for float64 labels, else float32. NaN for an example with an illegal label. Its
        slope at labels of exactly 0 and 1 is infinite, which automatic differentiation gives as NaN.

    Raises:
        TypeError: A `where` that is not bool.
        ValueError: A `where` that does not broadcast, an `axis` that does not exist, no class at all.

    Example:
        >>> print(ops.convert_to_numpy(zlpr_entropy([[0.9, 0.2, 0.5], [1.0, 0.0, 0.0]])).round(4))
        [1.5769 0.    ]
    """
    options: Any = {"axis": axis, "where": where}
    return zlpr_core.zlpr_entropy(ops.convert_to_tensor(labels), **options, xp=xp)


def check_targets(labels: Any, *, ignore_index: float | None = None) -> None:
    """Raise if a label is not one that the losses accept, naming the first bad cell.

    The losses themselves never look at values, which would halt an asynchronous step: they turn a bad example into NaN.
    Call this while loading data instead, outside `tf.function`.

    Args:
        labels: Of any shape. bool; integer 0 or 1; or floating in [0, 1], where 8 eps of the dtype beyond either end
            are forgiven.
        ignore_index: A further legal value, for labels that mark cells to leave out.

    Raises:
        TypeError: The dtype is none of those.
        ValueError: A label is out of range or NaN.

    Example:
        >>> check_targets([[0.0, 1.0], [0.5, 7.0]])
        Traceback (most recent call last):
            ...
        ValueError: `labels` must be in [0, 1]. Received: 7.0 at [1, 1].
    """
    zlpr_core.check_targets(ops.convert_to_tensor(labels), ignore_index=ignore_index, xp=xp)


@keras_function
def multi_hot(indices: Any, num_classes: int, *, pad: int | None = -1) -> Any:
    """Turn rows of class ids into rows of bool labels.

    Args:
        indices: Integer ids in [0, num_classes) of shape `(..., P)`, each row filled up with `pad`. Duplicates
            count once; order is irrelevant.
        num_classes: How many classes there are.
        pad: The id that marks an unused slot.

    Returns:
        bool, of shape `(..., num_classes)`.

    Raises:
        TypeError: Ids that are not integers.
        IndexError: An id is neither in range nor `pad`. In a `tf.function` and on an accelerator, such an id is left
            out.

    Example:
        >>> print(ops.convert_to_numpy(multi_hot([[0, 2], [1, -1]], 3)).astype(int))
        [[1 0 1]
         [0 1 0]]
    """
    return zlpr_core.multi_hot(ops.convert_to_tensor(indices), num_classes, pad=pad, xp=xp)


@keras_function
def span_to_index(start: Int, end: Int, length: int) -> Int:
    r"""The class id of a span among the `length` x `length` cells of a token-pair matrix.

    .. math::
        \text{index} = \text{start} \cdot \text{length} + \text{end}

    It is what `sparse_zlpr_loss` counts with `axis=(-2, -1)`.

    Args:
        start: Position in [0, length) of the first token: a number or an integer tensor; negative in a slot that is
            padding.
        end: The same for the last token.
        length: How many tokens the matrix has room for.

    Returns:
        A number for two numbers, else an integer tensor; -1 for padding.

    Raises:
        TypeError: A position is not an integer.
        IndexError: A position is `length` or more. In a `tf.function` and on an accelerator such a span becomes the
            illegal id `length * length`.

    Example:
        >>> span_to_index(2, 5, 128)
        261
        >>> print(ops.convert_to_numpy(span_to_index([2, -1], [5, -1], 128)))
        [261  -1]
    """
    if isinstance(start, int) and isinstance(end, int):
        return zlpr_core.span_to_index(start, end, length)
    return zlpr_core.span_to_index(ops.convert_to_tensor(start), ops.convert_to_tensor(end), length, xp=xp)


@keras_function
def index_to_span(index: Int, length: int) -> tuple[Int, Int]:
    r"""The span of a class id, the inverse of `span_to_index`.

    .. math::
        (\lfloor \text{index} / \text{length} \rfloor, \; \text{index} \bmod \text{length})

    Args:
        index: In [0, length²), a number or an integer tensor; negative in a slot that is padding.
        length: How many tokens the matrix has room for.

    Returns:
        `(start, end)`, numbers for a number, else integer tensors; both -1 for padding.

    Raises:
        TypeError: `index` is not an integer.
        IndexError: It is length² or more, and can be looked at.

    Example:
        >>> index_to_span(261, 128)
        (2, 5)
        >>> start, end = index_to_span([261, -1], 128)
        >>> print(ops.convert_to_numpy(start), ops.convert_to_numpy(end))
        [ 2 -1] [ 5 -1]
    """
    return zlpr_core.index_to_span(index if isinstance(index, int) else ops.convert_to_tensor(index), length, xp=xp)
