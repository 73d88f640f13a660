"""The last layer of a model and its loss as one ``torch.nn`` module."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from zlpr_core._options import Options

from ._chunks import Hook
from ._helpers import predict
from ._linear import check_hook, linear_zlpr_loss, sparse_linear_zlpr_loss
from ._modules import READ
from ._namespace import Option
from ._plan import LinearPlan, read_budget
from ._reduction import Reduction

# torch.fx records a call of these as one step, as those of the losses in ``_modules``.
fx.wrap("linear_zlpr_loss")
fx.wrap("sparse_linear_zlpr_loss")


class LinearZLPRLoss(nn.Linear):
    r"""The last linear layer and ZLPR of its logits, which never exist at once: for label sets among very many classes.

    .. math::
        L = \log\Bigl(1 + \sum_i t_i e^{-(x \cdot w_i + \beta_i)}\Bigr)
          + \log\Bigl(1 + \sum_i (1 - t_i) e^{x \cdot w_i + \beta_i}\Bigr)

    It is an ``nn.Linear`` with ``num_classes`` outputs, so that a trained one loads, and it goes where that stood: in
    training the model calls it with inputs and targets and gets a loss. :meth:`predict` and :meth:`topk` take the
    classes in chunks too; :meth:`logits` makes all of them.

    Args:
        in_features, num_classes, bias, device, dtype: as in ``nn.Linear``.
        sparse: True if targets are class ids, as in :func:`sparse_linear_zlpr_loss`.
        threshold: as in :func:`zlpr_loss`. A tensor becomes a buffer, and an ``nn.Parameter`` is learned.
        label_smoothing, ignore_index, pad, reduction, memory_budget, weight_grad_hook: as in
            :func:`linear_zlpr_loss` and :func:`sparse_linear_zlpr_loss`.

    Shape:
        - input: :math:`(*, H)`, target: :math:`(*, C)`, or with ``sparse`` ids :math:`(*, P)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Example:
        >>> head = LinearZLPRLoss(16, 100_000, sparse=True)
        >>> input = torch.randn(4, 16)
        >>> head(input, torch.tensor([[3, 99_999], [0, -1], [-1, -1], [7, 8]])).backward()
        >>> head.topk(input, 5).indices.shape
        torch.Size([4, 5])
    """

    sparse: bool
    threshold: Any
    label_smoothing: float
    ignore_index: float | None
    pad: int
    reduction: Reduction

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        sparse: bool = False,
        threshold: Option = 0.0,
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        pad: int | None = -1,
        reduction: Reduction | None = "mean",
        memory_budget: int | None = None,
        weight_grad_hook: Hook | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, num_classes, bias, device=device, dtype=dtype)
        threshold = READ["threshold"]("threshold", threshold)
        if isinstance(threshold, Tensor) and not isinstance(threshold, nn.Parameter):
            self.register_buffer("threshold", threshold)
        else:
            self.threshold = threshold
        given = {"label_smoothing": label_smoothing, "ignore_index": ignore_index, "pad": pad, "reduction": reduction}
        for name, value in given.items():
            setattr(self, name, READ[name](name, value))
        check_hook(weight_grad_hook)
        self.sparse, self.memory_budget, self.weight_grad_hook = sparse, read_budget(memory_budget), weight_grad_hook

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        target: Tensor | Sequence[Tensor],
        *,
        mask: Option = None,
        class_weight: Option = None,
        pos_weight: Option = None,
    ) -> Tensor:
        """The loss of the layer's logits; ``class_weight`` is the ``weight`` of :func:`zlpr_loss`."""
        options: Any = {"mask": mask, "weight": class_weight, "pos_weight": pos_weight, "threshold": self.threshold}
        options |= {"label_smoothing": self.label_smoothing, "reduction": self.reduction}
        options |= {"memory_budget": self.memory_budget, "weight_grad_hook": self.weight_grad_hook}
        if self.sparse:
            return sparse_linear_zlpr_loss(input, self.weight, target, self.bias, pad=self.pad, **options)
        dense: Any = target
        return linear_zlpr_loss(input, self.weight, dense, self.bias, ignore_index=self.ignore_index, **options)

    def logits(self, input: Tensor) -> Tensor:
        """All of them, as ``nn.Linear`` returns them."""
        return super().forward(input)

    @torch.no_grad()
    def predict(self, input: Tensor) -> Tensor:
        """The labels: where a logit is above the threshold. bool, :math:`(*, C)`."""
        options, parts = Options(threshold=self.threshold), []
        for first, logits in self._parts(input):
            own = options.of_classes(first, first + logits.shape[-1], self.out_features)
            parts.append(predict(logits, threshold=own.threshold))
        return torch.cat(parts, -1)

    @torch.no_grad()
    def topk(self, input: Tensor, k: int) -> torch.return_types.topk:
        """The ``k`` largest logits and their classes, in order, as ``torch.topk`` of all logits returns them."""
        if not 1 <= k <= self.out_features:
            msg = f"`k` must be in [1, {self.out_features}], the number of classes. Received: {k}."
            raise ValueError(msg)
        best = None
        for first, logits in self._parts(input):
            found = logits.topk(min(k, logits.shape[-1]))
            sides = found.values, found.indices + first
            # Merged at once: what is kept of each part would split the memory that malloc reuses for the next.
            best = sides if best is None else _largest(k, best, sides)
        assert best is not None  # there is a class, as k is at most their number
        return torch.return_types.topk(best)

    def _parts(self, input: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The logits of some classes after others, and the first class of each part."""
        rows = max(input[..., 0].numel(), 1)
        sizes: Any = {"device": input.device.type, "memory_budget": self.memory_budget, "one_sweep": False}
        plan = LinearPlan.of(rows=rows, classes=self.out_features, **sizes)
        for first in range(0, self.out_features, plan.size):
            part = slice(first, first + plan.size)
            bias = None if self.bias is None else self.bias[part]
            yield first, nn.functional.linear(input, self.weight[part], bias)

    def extra_repr(self) -> str:
        """As ``nn.Linear``, and what is not the default."""
        sizes = f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
        return f"{sizes}{', sparse=True' if self.sparse else ''}, reduction={self.reduction!r}"


def _largest(k: int, *parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of values and their classes."""
    values, classes = (torch.cat(side, -1) for side in zip(*parts, strict=True))
    best = values.topk(min(k, values.shape[-1]))
    return best.values, classes.gather(-1, best.indices)
