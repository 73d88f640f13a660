"""Classes spread over the processes of a group: each has some logits of every row, all get the loss of whole rows.

Forward exchanges the shift and the rest of either half, 16 bytes a row; backward exchanges nothing for the logits.
Every process returns the same loss and takes its own gradient of it, which is not rescaled, as Megatron-LM does it. For
a linear layer the gradient of the inputs is the sum over the processes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from zlpr_core._options import Options
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum
from zlpr_core._terms import Halves

from ._chunks import Chunk, Sums, gradient_of, sums_of_chunk
from ._layout import Layout, Shape
from ._namespace import xp
from ._reduction import Reduction, number_of, reduce

ClassRange = tuple[int, int]
"""The first class of this process, and how many there are in all."""


def whole_rows(own: Sums, dtype: torch.dtype, group: Any) -> Sums:
    """The sums of whole rows from those of each process, by one exchange; with a mask it carries one number more."""
    packed = [part[:, 0].to(dtype) for half in own.halves for part in half]
    if own.labelled is not None:
        packed.append(own.labelled.to(packed[0].dtype))
    mine = torch.stack(packed)
    gathered = [torch.empty_like(mine) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, mine, group=group)
    parts = torch.stack(gathered, -1)  # numbers, rows, processes
    halves = (merge(ShiftedSum(parts[2 * i], parts[2 * i + 1]), axis=(1,), xp=xp) for i in (0, 1))
    labelled = None if own.labelled is None else parts[4].any(1)
    return Sums(Halves(*halves), labelled)


def range_of(classes: int, group: Any, class_range: ClassRange | None, device: torch.device) -> ClassRange:
    """What was told, else by an exchange of the numbers of classes."""
    if class_range is not None:
        first, total = class_range
        if not 0 <= first <= first + classes <= total:
            msg = (
                f"`class_range` must be (first class of this process, classes in all). Received: {tuple(class_range)} "
                f"for {classes} classes here."
            )
            raise ValueError(msg)
        return first, total
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(sizes, torch.tensor([classes], device=device), group=group)
    numbers = [int(size) for size in sizes]
    rank = distributed.get_rank(group)
    return sum(numbers[:rank]), sum(numbers)


class _Call(NamedTuple):
    group: Any
    axes: Shape
    reduction: Reduction
    numbers: Sequence[Any]  # the options that are no tensors


def loss(input: Tensor, target: Tensor, options: Options, axes: Shape, reduction: Reduction, group: Any) -> Tensor:
    """Reduced ZLPR of whole rows."""
    refuse_gradients(target, *options)
    tensors = [x if isinstance(x, Tensor) else None for x in options]
    call = _Call(group, axes, reduction, [None if isinstance(x, Tensor) else x for x in options])
    reduced: Tensor = _ShardedLoss.apply(call, input, target, *tensors)  # type: ignore[no-untyped-call]
    return reduced


def refuse_gradients(*others: Any) -> None:
    """Raise if one of the targets and options requires a gradient, which only all logits at once could give."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in others):
        msg = (
            "With `group` or `weight_grad_hook` there is no gradient in `target`, `threshold`, `weight` and "
            "`pos_weight`. Detach them."
        )
        raise NotImplementedError(msg)


class _ShardedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, input: Tensor, target: Tensor, *tensors: Tensor | None) -> Tensor:
        chunk = _as_chunk(call, input, target, tensors)
        mask = chunk.options.where
        labelled = None if mask is None else mask.expand(chunk.logits.shape).any(1)
        sums = whole_rows(Sums(sums_of_chunk(chunk), labelled), chunk.logits.dtype, call.group)
        ctx.call = call
        ctx.save_for_backward(input, target, *tensors, *[part for half in sums.halves for part in half], sums.labelled)
        losses = sums.losses.to(chunk.logits.dtype)
        losses = (
            losses.reshape(Layout(input.dim(), call.axes).batch(input.shape)) if call.reduction == "none" else losses
        )
        return reduce(losses, call.reduction, sums.labelled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        call, (input, target, *tensors) = ctx.call, ctx.saved_tensors
        tensors, kept, labelled = tensors[:4], tensors[4:8], tensors[8]
        chunk = _as_chunk(call, input, target, tensors)
        each = upstream.reshape(-1, 1).to(chunk.logits.dtype)
        if call.reduction == "mean":
            each = each / (len(chunk.logits) if labelled is None else number_of(labelled))
        halves = Halves(ShiftedSum(*kept[:2]), ShiftedSum(*kept[2:]))
        gradient = gradient_of(chunk, halves, each.expand(len(chunk.logits), 1))
        return None, Layout(input.dim(), call.axes).cells(gradient.to(input.dtype), input.shape), *[None] * 5


def _as_chunk(call: _Call, input: Tensor, target: Tensor, tensors: Sequence[Tensor | None]) -> Chunk:
    layout = Layout(input.dim(), call.axes)
    options = Options(*[n if x is None else x for x, n in zip(tensors, call.numbers, strict=True)])
    logits = layout.rows(input)
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    rows = layout.rows(target), layout.options(options, input.shape)
    return Chunk(0, logits.shape[1], logits, logits.to(wide), *rows)
