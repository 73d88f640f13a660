"""The loss by a kernel of its own, for what nearly everyone does: eager, reverse mode, a gradient in the logits alone.

What ``torch.compile`` makes of it on a CPU is in ``_compiled``. Everything else (``torch.func``, forward mode, second
order, gradients in targets, weights or threshold) goes through the core's formula and autograd, which know it all.
"""

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._checks import check_pair, class_axes
from zlpr_core._typing import Axis

from . import _blocked
from ._namespace import xp
from ._rows import Options, Rows

Reduction: TypeAlias = Literal["mean", "sum", "none"]
Implementation: TypeAlias = Literal["auto", "plain", "blocked", "triton"]
PLAIN = (Tensor, torch.nn.Parameter)


class Plan(NamedTuple):
    """What shapes, dtypes and names say about a call."""

    rows: Rows
    reduction: Reduction
    impl: Implementation
    kernel: Any  # a module, or None

    @property
    def scale(self) -> float:
        """Of the losses in the reduced one."""
        return 1 / max(self.rows.flat[0], 1) if self.reduction == "mean" else 1.0


def planned(input: Tensor, target: Tensor, dim: Axis, reduction: Reduction, impl: Implementation) -> Plan:
    """Checks it all, once for calls that are alike: a small batch takes less time than that."""
    plain_dim = type(dim) is int or (type(dim) is tuple and {int}.issuperset(map(type, dim)))
    if plain_dim and not torch.compiler.is_compiling() and torch._C._get_tracing_state() is None:
        about = input.shape, input.dtype, input.device, target.shape, target.dtype
        try:
            return _remembered(*about, dim, reduction, impl)
        except TypeError:  # cannot be looked up, as a symbolic shape, or is wrong, and says so below
            pass
    return _plan(input, target, dim, reduction, impl)


def _plan(input: Any, target: Any, dim: Axis, reduction: Reduction, impl: Implementation) -> Plan:
    check_reduction(reduction)
    check_implementation(impl)
    check_pair(input, target, xp=xp)
    rows = Rows(input.shape, class_axes(input, dim, xp=xp))
    return Plan(rows, reduction, impl, None if torch.compiler.is_compiling() else _kernel_for(input.device, impl))


class _Like(NamedTuple):
    """A tensor, as far as a plan looks at it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@lru_cache(maxsize=256)
def _remembered(
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    target_shape: torch.Size,
    target_dtype: torch.dtype,
    dim: Axis,
    reduction: Reduction,
    impl: Implementation,
) -> Plan:
    target = _Like(target_shape, target_dtype, device)
    return _plan(_Like(shape, dtype, device), target, dim, reduction, impl)


def loss(plan: Plan, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """Reduced ZLPR, by the fastest way that there is for this call."""
    if torch.compiler.is_compiling():
        return _in_graph(plan, input, target, options)
    tensors = options.tensors()
    if plan.kernel is None or _is_seen_through(input, target, *tensors):
        return plain(plan, input, target, options)
    if input.requires_grad and torch.is_grad_enabled():
        fused: Tensor = _Fused.apply(input, target, plan, options, *tensors)  # type: ignore[no-untyped-call]
        return fused
    return _forward(plan, input, target, options, None)[0]


def plain(plan: Plan, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """By the core's formula, which any transformation can look into."""
    return reduce(zlpr_core.zlpr(input, target, axis=plan.rows.axes, **options._asdict(), xp=xp), plan.reduction)


def _in_graph(plan: Plan, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """In a graph, where a compiler for a CPU that alone looks on can be told the derivative."""
    told = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting() and input.is_cpu
    if told and plan.impl != "plain" and options.absent() and not _is_transformed(input, target):
        from . import _compiled  # not before it is wanted, because torch._dynamo takes its time

        if _compiled.by_inductor():
            return reduce(_compiled.losses(input, target, plan.rows.axes), plan.reduction)
    return plain(plan, input, target, options)


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


def _kernel_for(device: torch.device, impl: Implementation) -> ModuleType | None:
    on_cpu = device.type == "cpu"
    if impl == "blocked" and not on_cpu:
        msg = f'impl="blocked" is for a CPU. Received an `input` on: {device}. Leave `impl` at "auto".'
        raise ValueError(msg)
    if impl == "blocked" or (impl == "auto" and on_cpu):
        return _blocked
    wanted = impl == "triton" or (impl == "auto" and device.type == "cuda" and _triton().available())
    return _triton() if wanted else None


def _triton() -> ModuleType:
    """Imported when first wanted, because Triton takes its time."""
    return importlib.import_module("zlpr_torch._triton")


def _is_seen_through(input: Tensor, *others: Tensor) -> bool:
    """Whether more than autograd's reverse mode in ``input`` looks on, which a kernel would leave in the dark."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or _is_transformed(input, *others)
        or (torch.is_grad_enabled() and any(map(torch.is_inference, others)))
    )


def _is_transformed(input: Tensor, *others: Tensor) -> bool:
    """Whether a derivative of another kind is wanted, or one in others than ``input``."""
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return True
    recorded = torch.is_grad_enabled()
    for x in others:
        if type(x) not in PLAIN or (recorded and x.requires_grad):
            return True
    return type(input) not in PLAIN


def _forward(plan: Plan, input: Tensor, target: Tensor, options: Options, expected: float | None) -> tuple[Tensor, Any]:
    """The reduced loss by the kernel, and its state."""
    rows, kernel = plan.rows, plan.kernel
    losses, state = kernel.forward(rows.of(input), rows.of(target), rows.of_options(options), expected)
    return reduce(rows.of_examples(losses), plan.reduction), state


class _Fused(torch.autograd.Function):
    """What is saved beside the inputs is the kernel's ``state``."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, plan: Plan, options: Options, *tensors: Tensor) -> Tensor:
        reduced, ctx.state = _forward(plan, input, target, options, plan.scale)
        ctx.save_for_backward(input, target, *tensors)
        ctx.plan, ctx.options = plan, options.emptied() if tensors else options
        return reduced

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, target, *tensors = ctx.saved_tensors
        plan, options = ctx.plan, ctx.options.refilled(tensors) if tensors else ctx.options
        if torch.is_grad_enabled():  # to be differentiated once more
            again = plain(plan, input, target, options)
            gradient = torch.autograd.grad(again, input, upstream, create_graph=True)[0]
        elif _is_batched(upstream) or _is_seen_through(upstream):
            gradient = _linear_in_upstream(plan, input, target, options, upstream)
        else:
            rows = plan.rows
            arrays = rows.of(input), rows.of(target), rows.of_options(options)
            gradient = rows.back(plan.kernel.backward(*arrays, ctx.state, upstream.flatten(), plan.scale))
        return gradient, None, None, None, *(None for _ in tensors)


def _is_batched(upstream: Tensor) -> bool:
    """As for a Jacobian in one go, by either of PyTorch's two ways to vmap."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(upstream) or functorch.is_legacy_batchedtensor(upstream)


def _linear_in_upstream(plan: Plan, input: Tensor, target: Tensor, options: Options, upstream: Tensor) -> Tensor:
    """The gradient by the core, which any transformation of ``upstream`` can look into."""
    wide, axes = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32), plan.rows.axes
    slopes: Tensor = zlpr_core.zlpr_grad(wide, target, axis=axes, **options._asdict(), xp=xp)
    upstream = upstream * plan.scale
    if upstream.dim():
        for axis in sorted(axes):
            upstream = upstream.unsqueeze(axis)
    return (slopes * upstream).to(input.dtype)
