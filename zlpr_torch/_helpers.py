"""What goes with the losses: decoding, targets, class ids. Tensors, NumPy arrays and lists in, tensors out."""

from typing import Any, Literal, TypeAlias

from torch import Tensor

import zlpr_core
from zlpr_core._typing import Axis

from ._arguments import read_tensor, readable_option
from ._namespace import Option, xp

Arrays: TypeAlias = Option


def predict(input: Arrays, *, threshold: Option = 0.0, at_least_one: bool | None = False, dim: Axis = -1) -> Tensor:
    r"""Label set: class i belongs to it iff :math:`s_i > \theta`.

    Args:
        input: raw logits :math:`s`, in any floating dtype.
        threshold: :math:`\theta`, the one that the loss was trained with, broadcastable to ``input``.
        at_least_one: where no class passes, take the best one (with its exact ties). A class at -inf is never taken,
            and none is beside a NaN.
        dim: the class dimension or dimensions, among which ``at_least_one`` looks for the best.

    Shape:
        - input: :math:`(*, C)`
        - output: the same, bool; False at NaN

    Raises:
        TypeError: logits that are not floating.
        ValueError: ``threshold`` does not broadcast, ``dim`` does not exist.

    Example:
        >>> predict(torch.tensor([[2.0, -1.0, 0.5], [-3.0, -1.0, -2.0]]), at_least_one=True)
        tensor([[ True, False,  True],
                [False,  True, False]])
    """
    theta: Any = 0.0 if threshold is None else readable_option("threshold", threshold)
    return zlpr_core.predict(
        read_tensor("input", input, jagged=True), threshold=theta, at_least_one=at_least_one, axis=dim, xp=xp
    )


def probabilities(input: Arrays, *, scale: float | None = 2.0) -> Tensor:
    r"""The probabilities that a model trained with soft ZLPR states.

    .. math::
        \sigma(c \, s)

    Soft ZLPR is least at :math:`t = \sigma(2s)`, not :math:`\sigma(s)`. After training on hard labels neither is
    calibrated: there the best scale lies between 1 (one class) and 2 (many).

    Args:
        input: raw logits :math:`s`, in any floating dtype.
        scale: :math:`c`; 2 for soft ZLPR, another one if you calibrated it.

    Shape:
        - input: any
        - output: the same, in [0, 1]; float64 for float64 ``input``, else float32

    Raises:
        TypeError: logits that are not floating.

    Example:
        >>> probabilities(torch.tensor([0.0, 1.0986123, -1000.0]))
        tensor([0.5000, 0.9000, 0.0000])
    """
    return zlpr_core.probabilities(read_tensor("input", input, jagged=True), scale=scale, xp=xp)


def smooth_labels(
    target: Arrays, epsilon: float, *, mode: Literal["symmetric", "positive"] | None = "symmetric"
) -> Tensor:
    r"""Move targets away from 0 and 1, so that the best logits are finite.

    .. math::
        \text{symmetric: } (1 - \epsilon) t + \epsilon / 2 \qquad \text{positive: } (1 - \epsilon) t

    Symmetric smoothing dilutes the positives when there are many classes: every negative adds
    :math:`\tfrac{\epsilon}{2} e^{-s}` to the positive term. With logits of -1.5 everywhere, the gradient of a missed
    positive falls from -0.818 to -0.155 at :math:`\epsilon = 0.1` and 100 classes, to -0.0019 at 10 000. Keep
    :math:`\epsilon \lesssim 2 / C^2`, or smooth the positives only.

    Args:
        target: bool, integer (0 or 1) or floating in [0, 1]. An illegal target becomes NaN.
        epsilon: strength, in [0, 1].
        mode: ``"positive"`` leaves the zeros where they are.

    Shape:
        - target: any
        - output: the same; float64 for float64 ``target``, else float32

    Raises:
        ValueError: ``epsilon`` is outside [0, 1], or ``mode`` is unknown.

    Example:
        >>> smooth_labels(torch.tensor([1, 0]), 0.1)
        tensor([0.9500, 0.0500])
        >>> smooth_labels(torch.tensor([1, 0]), 0.1, mode="positive")
        tensor([0.9000, 0.0000])
    """
    return zlpr_core.smooth_labels(read_tensor("target", target, jagged=True), epsilon, mode=mode, xp=xp)


def zlpr_entropy(target: Arrays, *, dim: Axis = -1, mask: Option = None) -> Tensor:
    r"""The least value that soft ZLPR can take for these targets, one per example.

    .. math::
        H(t) = 2 \log\Bigl(1 + \sum_i \sqrt{t_i (1 - t_i)}\Bigr) \le L(s, t)

    It is reached at :math:`s = \tfrac12 \operatorname{logit}(t)` and nowhere else, so loss minus entropy is a regret:
    0 exactly when the model says what the targets say. It is 0 for hard targets.

    Args:
        target: as in :func:`zlpr_loss`.
        dim: the class dimension or dimensions; they are summed away.
        mask: bool, broadcastable to ``target``. False takes the cell out.

    Shape:
        - target: :math:`(*, C)`
        - output: :math:`(*)`; NaN for an example with an illegal target. Its slope at targets of exactly 0 and 1 is
          infinite, which autograd gives as NaN.

    Example:
        >>> zlpr_entropy(torch.tensor([[0.9, 0.2, 0.5], [1.0, 0.0, 0.0]]))
        tensor([1.5769, 0.0000])
    """
    where: Any = readable_option("mask", mask)
    return zlpr_core.zlpr_entropy(read_tensor("target", target), axis=dim, where=where, xp=xp)


def check_targets(target: Arrays, *, ignore_index: float | None = None) -> None:
    """Raise if a target is not one that the losses accept, naming the first bad cell.

    The losses themselves never look at values, which would stop a compiled or asynchronous step: they turn a bad
    example into NaN. Call this while loading data instead.

    Args:
        target: bool; integer 0 or 1; or floating in [0, 1], where 8 eps of the dtype beyond either end are forgiven.
        ignore_index: a further legal value, for targets that mark cells to leave out; it may be NaN.

    Raises:
        TypeError: the dtype is none of those.
        ValueError: a target is out of range or NaN.

    Example:
        >>> check_targets(torch.tensor([[0.0, 1.0], [0.5, 7.0]]))
        Traceback (most recent call last):
            ...
        ValueError: `target` must be in [0, 1]. Received: 7.0 at [1, 1].
    """
    zlpr_core.check_targets(read_tensor("target", target), ignore_index=ignore_index, xp=xp)


def multi_hot(indices: Arrays, num_classes: int, *, pad: int | None = -1) -> Tensor:
    """Turn rows of class ids into rows of bool targets.

    Args:
        indices: integer ids in [0, num_classes), each row filled up with ``pad``. Duplicates count once; order is
            irrelevant.
        num_classes: C, the number of classes.
        pad: the id that marks an unused slot.

    Shape:
        - indices: :math:`(*, P)`
        - output: :math:`(*, C)`, bool

    Raises:
        TypeError: ``indices`` are not integers.
        IndexError: an id is neither in range nor ``pad``. Where values cannot be read, while tracing or on an
            accelerator, such an id is left out.

    Example:
        >>> multi_hot(torch.tensor([[0, 2], [1, -1]]), 3)
        tensor([[ True, False,  True],
                [False,  True, False]])
    """
    return zlpr_core.multi_hot(read_tensor("indices", indices), num_classes, pad=pad, xp=xp)


def span_to_index(start: Any, end: Any, length: int) -> Any:
    r"""The class id of a span among the ``length`` x ``length`` cells of a token-pair matrix.

    .. math::
        \text{index} = \text{start} \cdot \text{length} + \text{end}

    It is what :func:`sparse_zlpr_loss` counts with ``dim=(-2, -1)``.

    Args:
        start: the position of the first token in [0, length), a number or integers; negative in a slot that is padding.
        end: that of the last token.
        length: L, the number of tokens that the matrix has room for.

    Returns:
        An int for two ints, else a tensor; -1 for padding.

    Raises:
        TypeError: a position is not an integer.
        IndexError: a position is ``length`` or more. Where values cannot be read, while tracing or on an accelerator,
            such a span becomes the illegal id ``length * length``.

    Example:
        >>> span_to_index(2, 5, 128)
        261
        >>> span_to_index(torch.tensor([2, -1]), torch.tensor([5, -1]), 128)
        tensor([261,  -1])
    """
    if isinstance(start, int) and isinstance(end, int):
        return zlpr_core.span_to_index(start, end, length)
    return zlpr_core.span_to_index(read_tensor("start", start), read_tensor("end", end), length, xp=xp)


def index_to_span(index: Any, length: int) -> tuple[Any, Any]:
    r"""The span of a class id, the inverse of :func:`span_to_index`.

    .. math::
        (\lfloor \text{index} / \text{length} \rfloor, \; \text{index} \bmod \text{length})

    Args:
        index: in [0, length²), a number or integers; negative in a slot that is padding.
        length: L, the number of tokens that the matrix has room for.

    Returns:
        ``(start, end)``, ints for an int and else tensors; both -1 for padding.

    Raises:
        TypeError: ``index`` is not an integer.
        IndexError: it is length² or more, and can be read.

    Example:
        >>> index_to_span(261, 128)
        (2, 5)
        >>> index_to_span(torch.tensor([261, -1]), 128)
        (tensor([ 2, -1]), tensor([ 5, -1]))
    """
    return zlpr_core.index_to_span(index if isinstance(index, int) else read_tensor("index", index), length, xp=xp)
