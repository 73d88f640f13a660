"""The loss in a graph of ``torch.compile`` on a CPU, with its derivative in the logits told to it.

There a maximum is a pass of its own, so the sums are taken without a shift at first, and a batch for which that is not
exact is computed again. The closed form of the derivative keeps four numbers a row.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.symbolic_convert import InstructionTranslator

from zlpr_core._losses import read_sides
from zlpr_core._quick import Halves, quick_slopes, quick_totals
from zlpr_core._reduce import Total, log_of, total_of
from zlpr_core._targets import compute_dtype, read_targets

from ._namespace import xp


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def by_inductor() -> bool:
    """Other backends need not refuse a second derivative, of which a graph that was told the first has none."""
    backend = InstructionTranslator.current_tx().output.compiler_fn
    return getattr(backend, "__name__", None) == "inductor"


def losses(input: Tensor, target: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``zlpr_core.zlpr`` without options."""
    given = target if target.is_floating_point() else torch.ops.zlpr.bytes(target)
    told: Tensor = _Told.apply(input, given, target.dtype == torch.bool, axes)  # type: ignore[no-untyped-call]
    return told


_library = torch.library.Library("zlpr", "DEF")  # type: ignore[no-untyped-call]
_library.define("bytes(Tensor target) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_library, "bytes", "CPU")
def _bytes(target: Tensor) -> Tensor:
    """Hard targets, and 2 for what is not legal: Inductor reads masks one by one, with a branch at each."""
    if target.dtype == torch.bool:
        return target.view(torch.uint8).clone()
    return torch.where((target == 0) | (target == 1), target, 2).to(torch.uint8)


@torch.library.register_fake("zlpr::bytes")  # type: ignore[untyped-decorator]
def _(target: Tensor) -> Tensor:
    return torch.empty_like(target, dtype=torch.uint8)


class _Told(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, mask: bool, axes: tuple[int, ...]) -> Tensor:
        ctx.mask, ctx.axes = mask, axes
        quick, fits = quick_totals(_terms(input, _read(target, mask)), axis=axes, xp=xp)
        fit = (fits if mask else fits & _are_legal(target, axes)).all()

        def again() -> Tensor:
            return _packed(total_of(side, axis=axes, xp=xp) for side in read_sides(input, _read(target, mask), xp=xp))

        columns = torch.cond(fit, lambda: _packed(quick), again)
        ctx.save_for_backward(input, target, columns)
        positive, negative = (log_of(total, axis=axes, xp=xp) for total in _unpacked(columns))
        losses: Tensor = positive + negative
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Without ``torch.cond``, of which Inductor writes a large result over an input."""
        input, target, columns = ctx.saved_tensors
        for axis in sorted(ctx.axes):
            upstream = upstream.unsqueeze(axis)
        # made to depend on `upstream`: else the slopes are left in forward, and multiplied in a pass of its own here
        columns = torch.where(upstream == upstream, columns, columns)
        slopes = quick_slopes(input, _read(target, ctx.mask), _unpacked(columns), xp=xp)
        return (slopes * upstream).to(input.dtype), None, None, None


def _read(target: Tensor, mask: bool) -> Tensor:
    """What ``_bytes`` was given, as bool or int32, or the soft targets as they are."""
    if target.is_floating_point():
        return target
    return target.to(torch.float32) > 0 if mask else target.to(torch.int32)


def _packed(totals: Iterable[Total]) -> Tensor:
    return torch.stack([column for total in totals for column in total])


def _unpacked(columns: Tensor) -> Halves:
    return Total(columns[0], columns[1]), Total(columns[2], columns[3])


def _terms(logits: Tensor, targets: Tensor) -> Halves:
    """By two exponentials: one that is used twice would be stored."""
    z = logits.to(compute_dtype(logits.dtype, xp=xp))
    if targets.is_floating_point():
        t = targets.to(z.dtype)
        return t * torch.exp(-z), (1 - t) * torch.exp(z)
    hard, _ = read_targets(targets, z.dtype, xp=xp)
    return torch.where(hard, torch.exp(-z), 0.0), torch.where(hard, 0.0, torch.exp(z))


def _are_legal(targets: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Whether those of each row are, by an extreme: a look at each takes as long as the sums."""
    if targets.is_floating_point():
        return (targets * (1 - targets)).amin(axes, keepdim=True) >= 0
    return targets.amax(axes, keepdim=True) <= 1
