"""Classes spread over the processes of a group: each has some logits of every row, all get the loss of whole rows.

Forward exchanges the shift and the rest of either half, 16 bytes a row; backward exchanges nothing for the logits.
Every process returns the same loss and takes its own gradient of it, which is not rescaled, as Megatron-LM does it. For
a linear layer the gradient of the inputs is the sum over the processes. A process whose call fails before its turn in
an exchange says so there, and the others fail too: else they would wait for it.
"""

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed

from zlpr_core._checks import class_axes
from zlpr_core._options import Options

from . import _torch_internals
from ._chunks import Sums, gradient_of, kernel_of, merged, write_sums
from ._layer import Chunk
from ._layout import Shape, layout_of
from ._namespace import xp
from ._reduction import Reduction, number_of, reduce


class Part(NamedTuple):
    """The classes of one process."""

    first: int
    classes: int
    total: int  # of all processes
    told: bool  # by the user: to be compared with what the others were told


class _Turn(threading.local):
    """Of the call that this thread is in: its arguments by name, and what the other processes are to get next."""

    given: Mapping[str, Any] | None = None
    exchange: Literal["sizes", "sums"] | None = None


_turn = _Turn()
FAILED = -1
"""In an exchange instead of a size or a sum, which are never negative."""


def is_together() -> bool:
    """True if this thread is in ``together``."""
    return _turn.given is not None


@_torch_internals.untraced
def together(function: Callable[..., Tensor], **given: Any) -> Tensor:
    """A loss with ``group=``, by its ``locals()``. Compiled code breaks its graph here."""
    is_asked = "indices" in given and given["class_range"] is None
    _turn.given, _turn.exchange = given, "sizes" if is_asked else "sums"
    try:
        return function(**given)
    except Exception:
        with suppress(Exception):  # of arguments that do not even say how many rows there are
            _say_that_it_failed(given)
        raise
    finally:
        _turn.given = _turn.exchange = None


def _say_that_it_failed(given: Mapping[str, Any]) -> None:
    """By what the other processes wait for, in its shape and dtype."""
    input, group = given["input"], given["group"]
    if _turn.exchange == "sizes":
        _gather(torch.tensor([FAILED], device=input.device), group)
    elif _turn.exchange == "sums":
        is_double = torch.float64 in (input.dtype, getattr(given.get("linear_weight"), "dtype", None))
        sums = input.new_full(_shape_of_sums(given), FAILED, dtype=torch.float64 if is_double else torch.float32)
        sums[:4:2] = torch.nan  # the shifts: on a GPU, where nobody looks, all losses become NaN
        _gather(sums, group)


def _shape_of_sums(given: Mapping[str, Any]) -> tuple[int, int]:
    """As ``whole_rows`` exchanges them."""
    input, told = given["input"], given.get("class_range")
    axes = (input.dim() - 1,) if "linear_weight" in given else class_axes(input, given["dim"], xp=xp, empty=True)
    rows = prod(size for axis, size in enumerate(input.shape) if axis not in axes)
    is_masked = given["mask"] is not None or given.get("ignore_index") is not None
    is_checked = told is not None and not isinstance(told, Part) and input.is_cpu
    return 4 + is_masked, rows + DIGITS * is_checked


def _gather(mine: Tensor, group: Any) -> list[Tensor]:
    """That of every process."""
    _turn.exchange = None  # also if this fails: then the others wait for nothing more
    gathered = [torch.empty_like(mine) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, mine, group=group)
    return gathered


def _check_that_none_failed(found: Sequence[int]) -> None:
    if FAILED in found:
        failed = ", ".join(str(rank) for rank, number in enumerate(found) if number == FAILED)
        msg = f"Of the processes of `group`, that of rank {failed} failed before it had sums: its own error says why."
        raise RuntimeError(msg)


def whole_rows(own: Sums, dtype: torch.dtype, group: Any, part: Part | None = None) -> Sums:
    """The sums of whole rows from those of each process, by one exchange; with a mask it carries one number more."""
    mine = own.parts.to(dtype).t().contiguous()
    if own.labelled is not None:
        mine = torch.cat([mine, own.labelled.to(dtype).unsqueeze(0)])
    checked = part is not None and part.told and mine.is_cpu  # elsewhere a look at it would halt everything
    if checked:
        mine = torch.cat([mine, _written(part, mine)], 1)
    gathered = _gather(mine, group)
    if mine.is_cpu:
        _check_that_none_failed([FAILED if (each[1] == FAILED).any() else 0 for each in gathered])
    if checked:
        _check_parts([_read(each[:, -DIGITS:]) for each in gathered])
        gathered = [each[:, :-DIGITS] for each in gathered]
    parts = torch.stack(gathered)  # processes, numbers, rows
    labelled = None if own.labelled is None else parts[:, 4].any(0)
    return Sums(merged(parts[:, :4].transpose(1, 2)), labelled)


BASE, DIGITS = 2**20, 3
"""How a number of classes is written in columns of float32, which holds whole numbers up to 2^24."""


def _written(part: Any, like: Tensor) -> Tensor:
    """``first``, ``classes`` and ``total`` as columns beside the sums."""
    digits = [[number // BASE**k % BASE for k in range(DIGITS)] for number in part[:3]]
    return like.new_tensor([*digits, *[[0] * DIGITS] * (len(like) - 3)])


def _read(written: Tensor) -> list[int]:
    return [sum(int(digit) * BASE**k for k, digit in enumerate(row)) for row in written[:3].tolist()]


def _check_parts(parts: list[list[int]]) -> None:
    """Every process sees the same, so all raise, or none does and none waits for another."""
    end = 0
    for first, classes, _ in sorted(parts):
        end = end + classes if first == end else -1
    if {end} != {total for *_, total in parts}:
        ranges = ", ".join(f"({first}, {total}) with {classes}" for first, classes, total in parts)
        msg = (
            "`class_range` must be (first class of the process, classes in all), and the processes must have every "
            f"class once. Received: {ranges}."
        )
        raise ValueError(msg)


def part_of(classes: int, group: Any, class_range: tuple[int, int] | Part | None, device: torch.device) -> Part:
    """What was told, by DTensors as a Part; else by an exchange of the numbers of classes."""
    if isinstance(class_range, Part):
        return class_range
    if class_range is not None:
        first, total = class_range
        return Part(first, classes, total, told=True)
    numbers = [int(size) for size in _gather(torch.tensor([classes], device=device), group)]
    _check_that_none_failed(numbers)
    _turn.exchange = "sums"
    return Part(sum(numbers[: distributed.get_rank(group)]), classes, sum(numbers), told=False)


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
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    rows = layout.rows(target), layout.options(options, input.shape)
    return Chunk(0, logits.shape[1], logits, logits.to(wide), *rows)
