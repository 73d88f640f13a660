"""ZLPR as ``torch.nn`` modules."""

import torch
from torch import Tensor, nn

from zlpr_core._checks import check_fraction
from zlpr_core._typing import Axis

from ._losses import Reduction, check_reduction, zlpr_loss


class ZLPRLoss(nn.Module):
    r"""Multi-label ZLPR loss, where ``BCEWithLogitsLoss`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i t_i e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_i (1 - t_i) e^{s_i}\Bigr)

    Args are the options of :func:`zlpr_loss` (``mask`` goes to the call). Weights become buffers: they move with the
    module and are saved with it. A ``threshold`` that is an ``nn.Parameter`` is learned, another tensor is a buffer.

    Shape:
        - input and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        ValueError: an unknown ``reduction``, a negative weight, a ``label_smoothing`` outside [0, 1].

    Example:
        >>> criterion = ZLPRLoss()
        >>> criterion(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.9889)
        >>> ZLPRLoss(pos_weight=torch.tensor([1.0, 2.0, 4.0]), reduction="sum")
        ZLPRLoss(dim=-1, pos_weight=tensor([1., 2., 4.]), reduction='sum')
    """

    weight: Tensor | None
    pos_weight: Tensor | None
    threshold: Tensor | float

    def __init__(
        self,
        *,
        dim: Axis = -1,
        weight: Tensor | float | None = None,
        pos_weight: Tensor | float | None = None,
        threshold: Tensor | float = 0.0,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        check_fraction("label_smoothing", label_smoothing)
        self.register_buffer("weight", _weight_tensor("weight", weight))
        self.register_buffer("pos_weight", _weight_tensor("pos_weight", pos_weight))
        if isinstance(threshold, Tensor) and not isinstance(threshold, nn.Parameter):
            self.register_buffer("threshold", threshold)
        else:
            self.threshold = threshold
        self.dim, self.reduction = dim, reduction
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def forward(self, input: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of ``input`` against ``target``; where ``mask`` is False the cell does not count."""
        return zlpr_loss(
            input,
            target,
            dim=self.dim,
            mask=mask,
            weight=self.weight,
            pos_weight=self.pos_weight,
            threshold=self.threshold,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        neutral = {"weight": None, "pos_weight": None, "threshold": 0.0, "label_smoothing": 0.0, "ignore_index": None}
        options = {name: getattr(self, name) for name in neutral}
        shown = {name: value for name, value in options.items() if isinstance(value, Tensor) or value != neutral[name]}
        shown = {"dim": self.dim, **shown, "reduction": self.reduction}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _weight_tensor(argument: str, weight: Tensor | float | None) -> Tensor | None:
    if weight is None:
        return None
    tensor = torch.as_tensor(weight)
    if not tensor.is_meta and not bool((tensor >= 0).all()):
        msg = f"`{argument}` must be non-negative. Received: {weight}."
        raise ValueError(msg)
    return tensor
