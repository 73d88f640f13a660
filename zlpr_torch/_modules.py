"""ZLPR as ``torch.nn`` modules."""

from collections.abc import Sequence
from inspect import signature
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from zlpr_core._checks import check_fraction, check_positive
from zlpr_core._typing import Axis

from ._dispatch import Implementation, check_implementation
from ._divergences import kl_divergence, symmetric_kl_divergence
from ._losses import rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss
from ._namespace import Option, asarray, readable
from ._reduction import Reduction, check_reduction


class _Module(nn.Module):
    """Options that move, are saved and are shown with the module."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        check_reduction(options["reduction"])
        check_implementation(options.get("impl", "auto"))
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """A tensor becomes a buffer, assigned later too: it moves with the module and is saved with it."""
        is_tensor = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        if not is_tensor or name in self._buffers or name in self._parameters:
            super().__setattr__(name, value)
            return
        if hasattr(self, name):
            delattr(self, name)
        self.register_buffer(name, value)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        always = ("dim", "reduction")
        shown = {
            name: value
            for name, value in self._options().items()
            if name in always or isinstance(value, Tensor) or value != defaults[name]
        }
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class _Loss(_Module):
    """A loss with weights and smoothing, which are checked at once."""

    def __init__(self, **options: Any) -> None:
        for name in ("weight", "pos_weight", "threshold"):
            options[name] = _as_option(name, options[name])
        super().__init__(**options)
        check_fraction("label_smoothing", options["label_smoothing"] or 0.0)
        _check_weight("weight", options["weight"])
        _check_weight("pos_weight", options["pos_weight"])


class ZLPRLoss(_Loss):
    r"""Multi-label ZLPR loss, where ``BCEWithLogitsLoss`` stood.

    .. math::
        L(s, t) = \log\Bigl(1 + \sum_i t_i e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_i (1 - t_i) e^{s_i}\Bigr)

    Args are the options of :func:`zlpr_loss` (``mask`` goes to the call). A ``weight``, ``pos_weight`` or ``threshold``
    that is a tensor (or a list or a NumPy array) becomes a buffer: it moves with the module and is saved with it. An
    ``nn.Parameter`` is learned.

    Shape:
        - input and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        ValueError: an unknown ``reduction`` or ``impl``, a negative or infinite weight, a ``label_smoothing`` outside
            [0, 1].

    Example:
        >>> criterion = ZLPRLoss()
        >>> criterion(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.9889)
        >>> ZLPRLoss(pos_weight=torch.tensor([1.0, 2.0, 4.0]), reduction="sum")
        ZLPRLoss(dim=-1, pos_weight=tensor([1., 2., 4.]), reduction='sum')
    """

    def __init__(
        self,
        *,
        dim: Axis = -1,
        weight: Option = None,
        pos_weight: Option = None,
        threshold: Option = 0.0,
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        reduction: Reduction = "mean",
        impl: Implementation = "auto",
    ) -> None:
        super().__init__(
            dim=dim,
            weight=weight,
            pos_weight=pos_weight,
            threshold=threshold,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            impl=impl,
        )

    def forward(self, input: Tensor, target: Tensor, *, mask: Option = None) -> Tensor:
        """The loss of ``input`` against ``target``; where ``mask`` is False the cell does not count."""
        return zlpr_loss(input, target, mask=mask, **self._options())


class SparseZLPRLoss(_Loss):
    r"""ZLPR of class ids, for label sets too many to be multi-hot rows.

    .. math::
        L(s, P) = \log\Bigl(1 + \sum_{i \in P} e^{-s_i}\Bigr) + \log\Bigl(1 + \sum_{i \notin P} e^{s_i}\Bigr)

    Args are the options of :func:`sparse_zlpr_loss` (``mask`` goes to the call); tensors among them are held as in
    :class:`ZLPRLoss`.

    Shape:
        - input: :math:`(*, C)`
        - indices: :math:`(*, P)`, or one of the other forms that :func:`sparse_zlpr_loss` takes
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        ValueError: as in :class:`ZLPRLoss`.

    Example:
        >>> criterion = SparseZLPRLoss()
        >>> criterion(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[0, -1]]))
        tensor(0.9889)
    """

    def __init__(
        self,
        *,
        dim: Axis = -1,
        weight: Option = None,
        pos_weight: Option = None,
        threshold: Option = 0.0,
        label_smoothing: float | None = 0.0,
        pad: int = -1,
        reduction: Reduction = "mean",
        impl: Implementation = "auto",
    ) -> None:
        super().__init__(
            dim=dim,
            weight=weight,
            pos_weight=pos_weight,
            threshold=threshold,
            label_smoothing=label_smoothing,
            pad=pad,
            reduction=reduction,
            impl=impl,
        )

    def forward(self, input: Tensor, indices: Tensor | Sequence[Tensor], *, mask: Option = None) -> Tensor:
        """The loss of ``input`` when ``indices`` are its positives; where ``mask`` is False the cell does not count."""
        return sparse_zlpr_loss(input, indices, mask=mask, **self._options())


class RDropZLPRLoss(_Loss):
    r"""R-Drop: the loss of two passes through dropout, and how far apart they are.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    Args are the options of :func:`rdrop_zlpr_loss` (``mask`` goes to the call); tensors among them are held as in
    :class:`ZLPRLoss`.

    Shape:
        - input1, input2 and target: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        ValueError: as in :class:`ZLPRLoss`; a negative ``alpha``, a ``scale`` that is not positive.

    Example:
        >>> criterion = RDropZLPRLoss(alpha=2.0)
        >>> criterion(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.5, -0.5]]), torch.tensor([[1, 0]]))
        tensor(0.6008)
    """

    def __init__(
        self,
        *,
        alpha: float = 4.0,
        scale: float = 1.0,
        dim: Axis = -1,
        weight: Option = None,
        pos_weight: Option = None,
        threshold: Option = 0.0,
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        check_positive("alpha", alpha, zero=True)
        check_positive("scale", scale)
        super().__init__(
            alpha=alpha,
            scale=scale,
            dim=dim,
            weight=weight,
            pos_weight=pos_weight,
            threshold=threshold,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
        )

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor, *, mask: Option = None) -> Tensor:
        """The loss of both against ``target``, and their divergence."""
        return rdrop_zlpr_loss(input1, input2, target, mask=mask, **self._options())


class ZLPRKLDivLoss(_Module):
    r"""Divergence between the label probabilities of two logit tensors.

    .. math::
        \sum_i \mathrm{KL}\bigl(\sigma(c s_i) \,\|\, \sigma(c u_i)\bigr)

    Args are the options of :func:`kl_divergence` (``mask`` goes to the call), and ``symmetric=True`` for
    :func:`symmetric_kl_divergence`. Unlike ``nn.KLDivLoss`` it takes logits, the distribution that is right first.

    Shape:
        - p_logits and q_logits: :math:`(*, C)`
        - output: scalar, or :math:`(*)` with ``reduction="none"``

    Raises:
        ValueError: an unknown ``reduction``, a ``scale`` that is not positive.

    Example:
        >>> teacher, student = torch.tensor([[1.2, -0.7, 0.3]]), torch.tensor([[0.8, -0.1, -0.4]])
        >>> ZLPRKLDivLoss()(teacher, student)
        tensor(0.1181)
        >>> ZLPRKLDivLoss(symmetric=True)(teacher, student)
        tensor(0.2385)
    """

    def __init__(
        self, *, dim: Axis = -1, scale: float = 1.0, symmetric: bool = False, reduction: Reduction = "mean"
    ) -> None:
        check_positive("scale", scale)
        super().__init__(dim=dim, scale=scale, symmetric=symmetric, reduction=reduction)

    def forward(self, p_logits: Tensor, q_logits: Tensor, *, mask: Option = None) -> Tensor:
        """The divergence of ``q_logits`` from ``p_logits``; where ``mask`` is False the cell does not count."""
        options = self._options()
        divergence = symmetric_kl_divergence if options.pop("symmetric") else kl_divergence
        return divergence(p_logits, q_logits, mask=mask, **options)


def _as_option(name: str, value: Any) -> Any:
    """A tensor of a list or a NumPy array, so that it moves and is saved. Numbers keep their digits, in lists too."""
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, Real):
        return float(value)
    try:
        return asarray(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"`{name}` must be a number, a tensor, or what torch.as_tensor takes. Received: {type(value).__name__}."
        raise TypeError(msg) from error


def _check_weight(name: str, weight: Tensor | float | None) -> None:
    """Values are looked at where there are any: not while compiling, under vmap, of a meta or a fake tensor."""
    if weight is None or (isinstance(weight, Tensor) and not readable(weight)):
        return
    if not bool(((torch.as_tensor(weight) >= 0) & (torch.as_tensor(weight) < inf)).all()):
        msg = f"`{name}` must be non-negative and finite. Received: {weight}."
        raise ValueError(msg)
