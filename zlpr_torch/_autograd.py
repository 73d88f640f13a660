"""The kernels in eager code: one ``autograd.Function``.

It calls what the graph ops of ``_ops`` call. Those would do here too, but an op with an autograd formula costs 65 us
more than a Function when it runs eagerly (torch 2.13), which is as much as the loss of a small batch.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import DEFAULT, Options

from . import _cpu, _torch_internals
from ._formula import (
    Inputs,
    PairCall,
    differentiable_gradients,
    gradient_of_terms,
    linear_gradient,
    pair_gradients,
    plain_pair,
)
from ._layout import Shape
from ._reduction import Reduction


class KernelLoss(torch.autograd.Function):
    """Reduced ZLPR with the derivative in ``input``, and in ``threshold`` if that learns."""

    @staticmethod
    def forward(
        ctx: Any,
        call: tuple[ModuleType, Shape, Reduction],
        options: Options,
        input: Tensor,
        target: Tensor,
        threshold: Tensor | None,
    ) -> Tensor:
        """``threshold`` is that of the options again, if it requires a gradient: autograd does not look into these."""
        loss: Tensor
        kernel, axes, reduction = ctx.call = call
        loss, ctx.residuals = kernel.forward(input, target, options, axes, reduction, with_gradient=True)
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
            options = _joined(tensors, ctx.numbers)
        _, _, in_input, _, in_threshold = ctx.needs_input_grad
        threshold = options.threshold if in_threshold else None
        if torch.is_grad_enabled():
            wrt = ([input] if in_input else []) + ([] if threshold is None else [threshold])
            gradients = differentiable_gradients(upstream, input, target, options, axes, reduction, wrt)
            return None, None, gradients[0] if in_input else None, None, None if threshold is None else gradients[-1]
        if is_seen_through(upstream):
            gradient = linear_gradient(upstream, input, target, options, axes, reduction)
        else:
            # A second backward finds no residuals and recomputes: this one may write over them.
            residuals, ctx.residuals = ctx.residuals, None
            gradient = kernel.backward(upstream, residuals, input, target, options, axes, reduction, overwrite=True)
        slope = None if threshold is None else -gradient.sum_to_size(threshold.shape).to(threshold.dtype)
        return None, None, gradient if in_input else None, None, slope


kernel_loss = _torch_internals.plain_apply(KernelLoss)


class KernelTerms(torch.autograd.Function):
    """The two halves on a CPU with the derivative in ``input``."""

    @staticmethod
    def forward(ctx: Any, axes: Shape, options: Options, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        ctx.axes, ctx.numbers = axes, [None if isinstance(x, Tensor) else x for x in options]
        ctx.save_for_backward(input, target, *(x if isinstance(x, Tensor) else None for x in options))
        halves, ctx.residuals = _cpu.forward_terms(input, target, options, axes, with_gradient=True)
        return halves

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        input, target, *tensors = ctx.saved_tensors
        options = _joined(tensors, ctx.numbers)
        if torch.is_grad_enabled() or any(map(is_seen_through, upstreams)):
            gradient = gradient_of_terms(upstreams, input, target, options, ctx.axes)
        else:
            # A second backward finds no residuals and recomputes: this one may write over them.
            residuals, ctx.residuals = ctx.residuals, None
            gradient = _cpu.backward_terms(upstreams, residuals, input, target, options, ctx.axes)
        return None, None, gradient, None


class ClosedPair(torch.autograd.Function):
    """A reduced divergence, or R-Drop, with its gradients in closed form: by a kernel, or else by the core's formulas.

    Left to itself, autograd keeps 28 to 128 arrays of the logits' size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernel: ModuleType | None,
        call: PairCall,
        options: Options,
        target: Tensor | None,
        p: Tensor,
        q: Tensor,
    ) -> Tensor:
        inputs = Inputs(p, q, target, options)
        ctx.call, ctx.residuals = (kernel, call), None
        ctx.numbers = [None if isinstance(x, Tensor) else x for x in options]
        ctx.save_for_backward(p, q, target, *[x if isinstance(x, Tensor) else None for x in options])
        if kernel is None:
            return plain_pair(call, inputs)
        value: Tensor
        value, ctx.residuals = kernel.forward(call, inputs, ctx.needs_input_grad[4:])
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (kernel, call), (p, q, target, *tensors) = ctx.call, ctx.saved_tensors
        inputs = Inputs(p, q, target, _joined(tensors, ctx.numbers))
        wanted = ctx.needs_input_grad[4:]
        if kernel is None or torch.is_grad_enabled() or is_seen_through(upstream):
            gradients = pair_gradients(call, upstream, inputs)
        else:
            # A second backward finds no residuals and recomputes: this one may write over them.
            residuals, ctx.residuals = ctx.residuals, None
            gradients = kernel.backward(call, upstream, residuals, inputs, wanted)
        return None, None, None, None, *[g if want else None for g, want in zip(gradients, wanted, strict=True)]


def _joined(tensors: list[Tensor | None], numbers: list[Any]) -> Options:
    """The options, of which autograd saves the tensors."""
    return Options(*[n if x is None else x for x, n in zip(tensors, numbers, strict=True)])


def is_seen_through(upstream: Tensor) -> bool:
    """True if vmap, forward mode or a tracing tool has come between forward and backward."""
    # in this order, because compiled autograd can trace the first question only
    return not _torch_internals.is_eager() or type(upstream) is not Tensor or _torch_internals.is_batched(upstream)
