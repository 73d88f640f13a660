"""ZLPR as ``torch.nn`` modules."""

from collections.abc import Callable, Sequence
from inspect import signature
from math import inf
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor, fx, nn

from zlpr_core._checks import check_axis, check_fraction, check_positive
from zlpr_core._indices import PAD
from zlpr_core._typing import Axis

from ._arguments import check_tensors
from ._dispatch import Implementation, read_implementation
from ._divergences import kl_divergence, symmetric_kl_divergence
from ._losses import rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss
from ._namespace import Option, asarray, readable
from ._reduction import Reduction, read_reduction

# torch.fx records a call of these as one step: it cannot trace what they do, which depends on shapes and dtypes.
for _function in ("kl_divergence", "symmetric_kl_divergence", "rdrop_zlpr_loss", "sparse_zlpr_loss", "zlpr_loss"):
    fx.wrap(_function)


class _Module(nn.Module):
    """Options that move, are saved and are shown with the module."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """An option is checked, assigned later too. A tensor becomes a buffer, which is moved and saved."""
        if name in READ:
            value = READ[name](name, value)
        is_buffer = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and name not in self._parameters
        # By the dictionary, because nn.Module takes no number for a buffer, and what it does for a tensor Dynamo cannot
        # trace. PyTorch 2.6 exports a copy to which it assigns before there is one.
        buffers = self.__dict__.get("_buffers", {})
        if name in buffers and is_buffer:
            buffers[name] = value
        elif is_buffer:
            if hasattr(self, name):
                delattr(self, name)
            self.register_buffer(name, value)
        elif name in buffers:
            delattr(self, name)
            super().__setattr__(name, value)
        else:
            super().__setattr__(name, value)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        defaults: dict[str, Any] = {}
        for kind in reversed(type(self).__mro__):  # a subclass may have a constructor of its own
            if kind is not _Module and issubclass(kind, _Module):
                defaults |= {name: parameter.default for name, parameter in signature(kind).parameters.items()}
        always = ("dim", "reduction")
        shown = {
            name: value
            for name, value in self._options().items()
            if name in always or isinstance(value, Tensor) or (value is not None and value != defaults[name])
        }
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class ZLPRLoss(_Module):
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
        reduction: Reduction | None = "mean",
        impl: Implementation | None = "auto",
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


class SparseZLPRLoss(_Module):
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
        pad: int | None = -1,
        reduction: Reduction | None = "mean",
        impl: Implementation | None = "auto",
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


class RDropZLPRLoss(_Module):
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
        alpha: float | None = 4.0,
        scale: float | None = 1.0,
        dim: Axis = -1,
        weight: Option = None,
        pos_weight: Option = None,
        threshold: Option = 0.0,
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        reduction: Reduction | None = "mean",
    ) -> None:
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
        self,
        *,
        dim: Axis = -1,
        scale: float | None = 1.0,
        symmetric: bool | None = False,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(dim=dim, scale=scale, symmetric=symmetric, reduction=reduction)

    def forward(self, p_logits: Tensor, q_logits: Tensor, *, mask: Option = None) -> Tensor:
        """The divergence of ``q_logits`` from ``p_logits``; where ``mask`` is False the cell does not count."""
        options = self._options()
        divergence = symmetric_kl_divergence if options.pop("symmetric") else kl_divergence
        return divergence(p_logits, q_logits, mask=mask, **options)


def _read_tensor(name: str, value: Any) -> Any:
    """A tensor of a list or a NumPy array, so that it moves and is saved. Numbers keep their digits, in lists too."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        check_tensors(**{name: value})
        return value
    if isinstance(value, Real):
        return float(value)
    try:
        return asarray(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"`{name}` must be a number, a tensor, or what torch.as_tensor takes. Received: {type(value).__name__}."
        raise TypeError(msg) from error


def _read_weight(name: str, value: Any) -> Any:
    """Values are looked at where there are any: not while compiling, under vmap, of a meta or a fake tensor."""
    weight = _read_tensor(name, value)
    if isinstance(weight, Tensor):
        legal = not readable(weight) or bool(((weight >= 0) & (weight < inf)).all())
    else:
        legal = weight is None or 0 <= weight < inf
    if not legal:
        msg = f"`{name}` must be non-negative and finite. Received: {weight}."
        raise ValueError(msg)
    return weight


def _read_dim(name: str, value: Any) -> Any:
    check_axis(value, name)
    return -1 if value is None else value


def _read_fraction(name: str, value: Any) -> Any:
    value = 0.0 if value is None else value
    check_fraction(name, value)
    return value


def _read_positive(name: str, value: Any) -> Any:
    value = {"alpha": 4.0, "scale": 1.0}[name] if value is None else value
    check_positive(name, value, zero=name == "alpha")
    return value


def _read_ignored(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, Real):
        msg = f"`{name}` must be a number. Received: {value!r}."
        raise TypeError(msg)
    return value


def _read_pad(name: str, value: Any) -> Any:
    try:
        return PAD if value is None else index(value)
    except TypeError:
        msg = f"`{name}` must be a whole number. Received: {value!r}."
        raise TypeError(msg) from None


READ: dict[str, Callable[[str, Any], Any]] = {
    "dim": _read_dim,
    "weight": _read_weight,
    "pos_weight": _read_weight,
    "threshold": _read_tensor,
    "label_smoothing": _read_fraction,
    "ignore_index": _read_ignored,
    "pad": _read_pad,
    "alpha": _read_positive,
    "scale": _read_positive,
    "reduction": lambda _, value: read_reduction(value),
    "impl": lambda _, value: read_implementation(value),
}
"""What is kept of an option, by its name. Each raises if it cannot be taken, with None for the default."""
