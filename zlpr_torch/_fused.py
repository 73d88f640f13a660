"""The loss by a kernel of its own, for what nearly everyone does: eager, reverse mode, a gradient in the logits alone.

Everything else (``torch.compile``, ``torch.func``, forward mode, second order, gradients in targets, weights or
threshold) goes through the core's formula and autograd, which know it all.
"""

from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

import zlpr_core

from . import _blocked
from ._namespace import xp
from ._rows import Options, Rows

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def loss(input: Tensor, target: Tensor, axes: tuple[int, ...], options: Options, reduction: Reduction) -> Tensor:
    """Reduced ZLPR, by the fastest way that there is for this call."""
    kernel = _kernel_for(input, target, options)
    if kernel is None:
        return plain(input, target, axes, options, reduction)
    if torch.is_grad_enabled() and input.requires_grad:
        fused: Tensor = _Fused.apply(input, kernel, axes, reduction, target, *options)  # type: ignore[no-untyped-call]
        return fused
    rows = Rows(input.shape, axes)
    losses, _ = kernel.forward(rows.of(input), rows.of(target), rows.of_options(options), None)
    return reduce(losses.reshape(rows.batch), reduction)


def plain(input: Tensor, target: Tensor, axes: tuple[int, ...], options: Options, reduction: Reduction) -> Tensor:
    """By the core's formula, which any transformation can look into."""
    return reduce(zlpr_core.zlpr(input, target, axis=axes, **options._asdict(), xp=xp), reduction)


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def _kernel_for(input: Tensor, target: Tensor, options: Options) -> ModuleType | None:
    others = [target, *options.tensors()]
    if not all(type(x) in (Tensor, torch.nn.Parameter) for x in (input, *others)) or _transformed():
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in others):
        return None
    return _blocked if input.is_cpu else None


def _transformed() -> bool:
    """Whether more than autograd's reverse mode looks on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


class _Fused(torch.autograd.Function):
    """What is saved beside the inputs is the kernel's ``state``."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        kernel: ModuleType,
        axes: tuple[int, ...],
        reduction: Reduction,
        target: Tensor,
        *options: Tensor | float | None,
    ) -> Tensor:
        rows, given = Rows(input.shape, axes), Options._make(options)
        scale = 1 / max(rows.flat[0], 1) if reduction == "mean" else 1.0
        losses, ctx.state = kernel.forward(rows.of(input), rows.of(target), rows.of_options(given), scale)
        ctx.save_for_backward(input, target, *given.tensors())
        ctx.call = kernel, rows, reduction, scale, given
        return reduce(losses.reshape(rows.batch), reduction)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        kernel, rows, reduction, scale, given = ctx.call
        input, target, *tensors = ctx.saved_tensors
        options = _refilled(given, tensors)
        if torch.is_grad_enabled():  # to be differentiated again
            again = plain(input, target, rows.axes, options, reduction)
            gradient = torch.autograd.grad(again, input, upstream, create_graph=True)[0]
        else:
            arrays = rows.of(input), rows.of(target), rows.of_options(options)
            gradient = rows.back(kernel.backward(*arrays, ctx.state, upstream.flatten(), scale))
        return gradient, *([None] * (4 + len(options)))


def _refilled(options: Options, tensors: list[Tensor]) -> Options:
    """With the tensors that autograd has kept, and whose versions it has checked."""
    kept = iter(tensors)
    return Options._make(next(kept) if isinstance(option, Tensor) else option for option in options)
