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

    Args are the options of :func:`zlpr_loss` (``mask`` goes to the call). A ``weight``, ``pos_weight`` or ``threshold``
    that is a tensor becomes a buffer: it moves with the module and is saved with it. An ``nn.Parameter`` is learned.

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

    weight: Tensor | float | None
    pos_weight: Tensor | float | None
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
        options = {"weight": weight, "pos_weight": pos_weight, "threshold": threshold}
        for name, value in options.items():
            _hold(self, name, value)
        _check_non_negative(weight=self.weight, pos_weight=self.pos_weight)
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


def _hold(module: nn.Module, name: str, value: Tensor | float | None) -> None:
    """Tensors move and are saved with the module; a parameter is learned too."""
    if isinstance(value, nn.Parameter) or value is None or isinstance(value, (int, float)):
        setattr(module, name, value)
    else:
        module.register_buffer(name, torch.as_tensor(value))


def _check_non_negative(**weights: Tensor | float | None) -> None:
    for name, weight in weights.items():
        if weight is None or (isinstance(weight, Tensor) and weight.is_meta):
            continue
        if not bool((torch.as_tensor(weight) >= 0).all()):
            msg = f"`{name}` must be non-negative. Received: {weight}."
            raise ValueError(msg)
