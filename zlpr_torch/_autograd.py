"""The kernels in eager code: one ``autograd.Function``.

It calls what the graph ops of ``_ops`` call. Those would do here too, but an op with an autograd formula costs 65 us
more than a Function when it runs eagerly (torch 2.13), which is as much as the loss of a small batch.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import DEFAULT, Options

from . import _torch_internals
from ._formula import DivergenceCall, differentiable_gradient, divergence_gradients, linear_gradient, plain_divergence
from ._layout import Shape
from ._reduction import Reduction


class KernelLoss(torch.autograd.Function):
    """Reduced ZLPR with the derivative in ``input``."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: ModuleType,
        axes: Shape,
        reduction: Reduction,
        options: Options,
        input: Tensor,
        target: Tensor,
    ) -> Tensor:
        loss: Tensor
        loss, ctx.residuals = kernel.forward(input, target, options, axes, reduction, with_gradient=True)
        ctx.call = kernel, axes, reduction
        # Tensors are saved, and not kept on ctx, so that autograd notices if one is changed before backward.
        ctx.numbers, tensors = None, []
        if not options.are_default:
            ctx.numbers = [None if isinstance(x, Tensor) else x for x in options]
            tensors = [x if isinstance(x, Tensor) else None for x in options]
        ctx.save_for_backward(input, target, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        kernel, axes, reduction = ctx.call
        input, target, *tensors = ctx.saved_tensors
        options = DEFAULT
        if ctx.numbers is not None:
            options = Options._make([n if x is None else x for x, n in zip(tensors, ctx.numbers, strict=True)])
        if torch.is_grad_enabled():
            gradient = differentiable_gradient(upstream, input, target, options, axes, reduction)
        elif _is_seen_through(upstream):
            gradient = linear_gradient(upstream, input, target, options, axes, reduction)
        else:
            # A second backward finds no residuals and recomputes: this one may write over them.
            residuals, ctx.residuals = ctx.residuals, None
            gradient = kernel.backward(upstream, residuals, input, target, options, axes, reduction, overwrite=True)
        return None, None, None, None, gradient, None


class ClosedDivergence(torch.autograd.Function):
    """A reduced divergence with its gradients in closed form, by a kernel or else by the core's formulas.

    Left to itself, autograd keeps 28 to 128 arrays of the logits' size.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: ModuleType | None, call: DivergenceCall, where: Tensor | None, p: Tensor, q: Tensor
    ) -> Tensor:
        ctx.call, ctx.residuals = (kernel, call), None
        ctx.save_for_backward(p, q, where)
        if kernel is None:
            return plain_divergence(call, p, q, where)
        divergence: Tensor
        divergence, ctx.residuals = kernel.forward(call, p, q, where, ctx.needs_input_grad[3:])
        return divergence

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (kernel, call), (p, q, where) = ctx.call, ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if kernel is None or torch.is_grad_enabled() or _is_seen_through(upstream):
            gradients = divergence_gradients(call, upstream, p, q, where)
            return None, None, None, *(g if want else None for g, want in zip(gradients, wanted, strict=True))
        # A second backward finds no residuals and recomputes: this one may write over them.
        residuals, ctx.residuals = ctx.residuals, None
        return None, None, None, *kernel.backward(call, upstream, residuals, p, q, where, wanted)


def _is_seen_through(upstream: Tensor) -> bool:
    """True if vmap, forward mode or a tracing tool has come between forward and backward."""
    return (
        torch.compiler.is_compiling()  # first, because compiled autograd cannot trace the questions after it
        or type(upstream) is not Tensor
        or _torch_internals.is_transformed()
        or _torch_internals.is_recorded()
        or _torch_internals.is_batched(upstream)
    )
