"""The loss by a kernel of its own, for what nearly everyone does: eager, reverse mode, a gradient in the logits alone.

What ``torch.compile`` makes of it on a CPU is in ``_compiled``. Everything else (``torch.func``, forward mode, second
order, gradients in targets, weights or threshold) goes through the core's formula and autograd, which know it all.
"""

import importlib
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

import zlpr_core

from . import _blocked
from ._namespace import xp
from ._rows import Options, Rows

Reduction: TypeAlias = Literal["mean", "sum", "none"]
Implementation: TypeAlias = Literal["auto", "plain", "blocked", "triton"]
_SAVED: Any = object()  # stands for an option that autograd keeps


def loss(
    input: Tensor,
    target: Tensor,
    axes: tuple[int, ...],
    options: Options,
    reduction: Reduction,
    impl: Implementation = "auto",
) -> Tensor:
    """Reduced ZLPR, by the fastest way that there is for this call."""
    if impl != "plain" and _is_compiled_alone(input, target, options):
        from . import _compiled  # not before it is wanted, because torch._dynamo takes its time

        if _compiled.by_inductor():
            return reduce(_compiled.losses(input, target, axes), reduction)
    seen_through = _is_seen_through(input, target, *options.tensors())
    kernel = None if seen_through else _kernel_for(input, impl)
    if kernel is None:
        return plain(input, target, axes, options, reduction)
    if torch.is_grad_enabled() and input.requires_grad:
        fused: Tensor = _Fused.apply(input, kernel, axes, reduction, target, options)  # type: ignore[no-untyped-call]
        return fused
    rows = Rows(input.shape, axes)
    losses, _ = kernel.forward(rows.of(input), rows.of(target), rows.of_options(options), None)
    return reduce(rows.of_examples(losses), reduction)


def plain(input: Tensor, target: Tensor, axes: tuple[int, ...], options: Options, reduction: Reduction) -> Tensor:
    """By the core's formula, which any transformation can look into."""
    return reduce(zlpr_core.zlpr(input, target, axis=axes, **options._asdict(), xp=xp), reduction)


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        msg = f'`reduction` must be "mean", "sum" or "none". Received: {reduction!r}.'
        raise ValueError(msg)


def check_implementation(impl: str) -> None:
    if impl not in ("auto", "plain", "blocked", "triton"):
        msg = f'`impl` must be "auto", "plain", "blocked" or "triton". Received: {impl!r}.'
        raise ValueError(msg)
    if impl == "triton" and not _triton().available():
        msg = 'impl="triton" needs Triton 3.3 or later. Install it, or leave `impl` at "auto".'
        raise ValueError(msg)


def _kernel_for(input: Tensor, impl: Implementation) -> ModuleType | None:
    if impl == "blocked" and not input.is_cpu:
        msg = f'impl="blocked" is for a CPU. Received an `input` on: {input.device}. Leave `impl` at "auto".'
        raise ValueError(msg)
    if impl == "blocked" or (impl == "auto" and input.is_cpu):
        return _blocked
    wanted = impl == "triton" or (impl == "auto" and input.is_cuda and _triton().available())
    return _triton() if wanted else None


def _triton() -> ModuleType:
    """Imported when first wanted, because Triton takes its time."""
    return importlib.import_module("zlpr_torch._triton")


def _is_compiled_alone(input: Tensor, target: Tensor, options: Options) -> bool:
    """Whether a compiler for a CPU looks on, and nothing else does."""
    return (
        torch.compiler.is_dynamo_compiling()
        and not torch.compiler.is_exporting()
        and input.is_cpu
        and options.absent()
        and not _is_transformed(input, target)
    )


def _is_seen_through(input: Tensor, *others: Tensor) -> bool:
    """Whether more than autograd's reverse mode in ``input`` looks on, which a kernel would leave in the dark."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch.is_grad_enabled() and any(x.is_inference() for x in others))
        or _is_transformed(input, *others)
    )


def _is_transformed(input: Tensor, *others: Tensor) -> bool:
    """Whether a derivative of another kind is wanted, or one in others than ``input``."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or any(type(x) not in (Tensor, torch.nn.Parameter) for x in (input, *others))
        or (torch.is_grad_enabled() and any(x.requires_grad for x in others))
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
        options: Options,
    ) -> Tensor:
        rows = Rows(input.shape, axes)
        scale = 1 / max(rows.flat[0], 1) if reduction == "mean" else 1.0
        losses, ctx.state = kernel.forward(rows.of(input), rows.of(target), rows.of_options(options), scale)
        tensors = options.tensors()
        ctx.save_for_backward(input, target, *tensors)
        given = Options._make(_SAVED if isinstance(x, Tensor) else x for x in options) if tensors else options
        ctx.call = kernel, rows, reduction, scale, given
        return reduce(rows.of_examples(losses), reduction)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        kernel, rows, reduction, scale, given = ctx.call
        input, target, *tensors = ctx.saved_tensors
        options = _refilled(given, tensors)
        if torch.is_grad_enabled():  # to be differentiated once more
            again = plain(input, target, rows.axes, options, reduction)
            gradient = torch.autograd.grad(again, input, upstream, create_graph=True)[0]
        elif _is_batched(upstream) or _is_seen_through(upstream):
            gradient = _linear_in_upstream(input, target, rows.axes, options, upstream * scale)
        else:
            arrays = rows.of(input), rows.of(target), rows.of_options(options)
            gradient = rows.back(kernel.backward(*arrays, ctx.state, upstream.flatten(), scale))
        return gradient, None, None, None, None, None


def _is_batched(upstream: Tensor) -> bool:
    """As for a Jacobian in one go, by either of PyTorch's two ways to vmap."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(upstream) or functorch.is_legacy_batchedtensor(upstream)


def _linear_in_upstream(
    input: Tensor, target: Tensor, axes: tuple[int, ...], options: Options, upstream: Tensor
) -> Tensor:
    """The gradient by the core, which any transformation of ``upstream`` can look into."""
    wide = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    slopes: Tensor = zlpr_core.zlpr_grad(wide, target, axis=axes, **options._asdict(), xp=xp)
    if upstream.dim():
        for axis in sorted(axes):
            upstream = upstream.unsqueeze(axis)
    return (slopes * upstream).to(input.dtype)


def _refilled(options: Options, tensors: list[Tensor]) -> Options:
    """With the tensors that autograd has kept, and whose versions it has checked."""
    if not tensors:
        return options
    kept = iter(tensors)
    return Options._make(next(kept) if option is _SAVED else option for option in options)
