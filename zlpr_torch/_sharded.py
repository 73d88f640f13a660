"""Classes spread over the processes of a group: each has some logits of every row, all get the loss of whole rows.

Forward exchanges the shift and the rest of either half, 16 bytes a row; backward exchanges nothing for the logits.
Every process returns the same loss and takes its own gradient of it, which is not rescaled, as Megatron-LM does it. For
a linear layer the gradient of the inputs is the sum over the processes.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zlpr_core._options import Options

from . import _torch_internals
from ._chunks import Sums, gradient_of, kernel_of, merged, write_sums
from ._group import Part, exchange_sums
from ._layer import Chunk
from ._layout import Shape, layout_of
from ._namespace import computing_dtype
from ._reduction import Reduction, number_of, reduce


def whole_rows(own: Sums, dtype: torch.dtype, group: Any, part: Part | None = None) -> Sums:
    """The sums of whole rows from those of each process, by one exchange; with a mask it carries one number more."""
    mine = own.parts.to(dtype).t().contiguous()
    if own.labelled is not None:
        mine = torch.cat([mine, own.labelled.to(dtype).unsqueeze(0)])
    parts = torch.stack(exchange_sums(mine, group, part))  # processes, numbers, rows
    labelled = None if own.labelled is None else parts[:, 4].any(0)
    return Sums(merged(parts[:, :4].transpose(1, 2)), labelled)


class _Call(NamedTuple):
    group: Any
    axes: Shape
    reduction: Reduction
    numbers: Sequence[Any]  # the options that are no tensors
    part: Part | None


@_torch_internals.untraced
def of_dtensors(function: Callable[..., Tensor], **given: Any) -> Tensor:
    """A loss by its ``locals()``, one of which is a DTensor. Compiled code breaks its graph here."""
    loss: Tensor = importlib.import_module("zlpr_torch._dtensor").loss(function, given)
    return loss


@_torch_internals.untraced
def loss(
    input: Tensor,
    target: Tensor,
    options: Options,
    axes: Shape,
    reduction: Reduction,
    group: Any,
    part: Part | None = None,
) -> Tensor:
    """Reduced ZLPR of whole rows. Compiled code breaks its graph here, as Dynamo does not trace the Function."""
    refuse_gradients(target, *options)
    tensors = [x if isinstance(x, Tensor) else None for x in options]
    call = _Call(group, axes, reduction, [None if isinstance(x, Tensor) else x for x in options], part)
    reduced: Tensor = _ShardedLoss.apply(call, input, target, *tensors)  # type: ignore[no-untyped-call]
    return reduced


def refuse_gradients(*others: Any) -> None:
    """Raise if one of the targets and options requires a gradient, which only all logits at once could give."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in others):
        msg = (
            "With `group`, sharded classes or `weight_grad_hook` there is no gradient in `target`, `threshold`, "
            "`weight` and `pos_weight`. Detach them."
        )
        raise NotImplementedError(msg)


class _ShardedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, input: Tensor, target: Tensor, *tensors: Tensor | None) -> Tensor:
        chunk = _as_chunk(call, input, target, tensors)
        mask = chunk.options.where
        labelled = None if mask is None else mask.expand(chunk.logits.shape).any(1)
        sums = whole_rows(Sums(_sums_of(chunk), labelled), chunk.logits.dtype, call.group, call.part)
        ctx.call = call
        ctx.save_for_backward(input, target, *tensors, *sums)
        losses = sums.losses.to(chunk.logits.dtype)
        losses = (
            losses.reshape(layout_of(input.dim(), call.axes).batch(input.shape)) if call.reduction == "none" else losses
        )
        return reduce(losses, call.reduction, sums.labelled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        call, (input, target, *tensors) = ctx.call, ctx.saved_tensors
        *tensors, sums, labelled = tensors
        chunk = _as_chunk(call, input, target, tensors)
        each = upstream.reshape(-1, 1).to(chunk.logits.dtype)
        if call.reduction == "mean":
            each = each / (len(chunk.logits) if labelled is None else number_of(labelled))
        gradient = gradient_of(kernel_of(chunk.logits), chunk, sums, each.expand(len(chunk.logits), 1))
        return None, layout_of(input.dim(), call.axes).cells(gradient.to(input.dtype), input.shape), *[None] * 5


def _sums_of(chunk: Chunk) -> Tensor:
    kernel, logits = kernel_of(chunk.logits), chunk.logits
    sums = logits.new_empty((len(logits), 4), dtype=kernel.sums_dtype(logits.dtype))
    write_sums(kernel, chunk, sums)
    return sums


def _as_chunk(call: _Call, input: Tensor, target: Tensor, tensors: Sequence[Tensor | None]) -> Chunk:
    layout = layout_of(input.dim(), call.axes)
    options = Options(*[n if x is None else x for x, n in zip(tensors, call.numbers, strict=True)])
    logits = layout.rows(input)
    wide = computing_dtype(input)
    rows = layout.rows(target), layout.options(options, input.shape)
    return Chunk(0, logits.shape[1], logits, logits.to(wide), *rows)
