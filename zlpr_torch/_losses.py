"""ZLPR as PyTorch functions: ``(input, target)``, ``dim``, ``mask`` and ``reduction``.

The derivative is autograd's own of the core's formula, which gives both modes, any order, ``torch.func`` and
``torch.compile`` at once.
"""

from typing import Literal, TypeAlias

from torch import Tensor

import zlpr_core
from zlpr_core._targets import prepare_targets
from zlpr_core._typing import Axis

from ._namespace import xp

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    dim: Axis = -1,
    mask: Tensor | None = None,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    threshold: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Multi-label ZLPR loss, where ``binary_cross_entropy_with_logits`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr) + \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    with :math:`a_i = w_i p_i t_i` and :math:`b_i = w_i (1 - t_i)` for weights :math:`w` and positive weights :math:`p`.

    Args:
        input: raw logits :math:`s` (no sigmoid), in any floating dtype. Half precision, autocast included, computes in
            and returns float32; the gradient comes back in the dtype of ``input``. -inf on a negative and +inf on a
            positive contribute nothing; the other way round the loss is +inf, and such a cell has no gradient.
        target: the shape of ``input``. bool or integer: hard labels, 0 or 1. Floating: soft labels in [0, 1], where
            8 eps of their dtype beyond either end count as 0 or 1. Anything else, or NaN, makes the loss of that
            example NaN, on any device.
        dim: the class dimension or dimensions; they are summed away.
        mask: bool, broadcastable to ``input``. False takes the cell out of value and gradient, whatever it holds.
        weight: non-negative weights of the classes (or cells), broadcastable to ``input``, inside the logarithms.
            A negative or NaN weight makes the loss NaN.
        pos_weight: the same, for positives only.
        threshold: :math:`\theta`, the logit above which a label is predicted (TLPR): a number or a tensor that
            broadcasts to ``input`` and may require a gradient.
        label_smoothing: strength in [0, 1] of symmetric smoothing; see :func:`smooth_labels` for what it costs when
            there are many classes.
        ignore_index: cells whose target equals this are masked.
        reduction: ``"mean"`` over the examples (never over the classes), ``"sum"`` or ``"none"``.

    Shape:
        - input and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``; float32, or float64 for float64 ``input``.

    Raises:
        TypeError: an argument is not a tensor of the right kind.
        ValueError: shapes differ or do not broadcast, ``dim`` does not exist, ``reduction`` is unknown.

    The formula is from Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> input = torch.tensor([[2.0, -1.0, 0.0]], requires_grad=True)
        >>> loss = zlpr_loss(input, torch.tensor([[1, 0, 0]]))
        >>> loss.backward()
        >>> loss.item(), input.grad
        (0.9889..., tensor([[-0.1192,  0.1554,  0.4223]]))
    """
    check_reduction(reduction)
    positive, negative = zlpr_terms(
        input,
        target,
        dim=dim,
        mask=mask,
        weight=weight,
        pos_weight=pos_weight,
        threshold=threshold,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
    )
    return reduce(positive + negative, reduction)


def zlpr_terms(
    input: Tensor,
    target: Tensor,
    *,
    dim: Axis = -1,
    mask: Tensor | None = None,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    threshold: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The two halves of ZLPR for each example: what the positives cost and what the negatives cost.

    .. math::
        P = \log\Bigl(1 + \sum_i a_i e^{-(s_i - \theta)}\Bigr), \; N = \log\Bigl(1 + \sum_i b_i e^{s_i - \theta}\Bigr)

    Arguments, errors and edges are those of :func:`zlpr_loss`, without ``reduction``.

    Shape:
        - input and target: :math:`(*, C)`
        - each output: :math:`(*)`

    Example:
        >>> zlpr_terms(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1, 0, 0]]))
        (tensor([0.1269]), tensor([0.8620]))
    """
    check_tensors(input=input, target=target)
    target, mask = prepare_targets(
        target, mask, input, label_smoothing=label_smoothing, ignore_index=ignore_index, xp=xp
    )
    return zlpr_core.zlpr_terms(
        input, target, axis=dim, where=mask, weight=weight, pos_weight=pos_weight, threshold=threshold, xp=xp
    )


def reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        msg = f'`reduction` must be "mean", "sum" or "none". Received: {reduction!r}.'
        raise ValueError(msg)


def check_tensors(**arguments: object) -> None:
    for argument, value in arguments.items():
        if not isinstance(value, Tensor):
            msg = f"`{argument}` must be a torch.Tensor. Received: {type(value).__name__}. Wrap it in torch.as_tensor."
            raise TypeError(msg)
