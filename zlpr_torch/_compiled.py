"""The loss in a graph of ``torch.compile`` on a CPU, with its derivative in the logits told to it.

There a maximum is a pass of its own, so the sums are taken without a shift at first, and a batch for which that is not
exact is computed again. The closed form of the derivative keeps four numbers a row.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.symbolic_convert import InstructionTranslator
from zlpr_core._quick import Halves, Scale, quick_slopes, quick_totals, scales_of

from zlpr_core._losses import read_sides
from zlpr_core._reduce import Total, log_of, total_of
from zlpr_core._targets import compute_dtype

from ._namespace import xp


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def by_inductor() -> bool:
    """Other backends need not refuse a second derivative, of which a graph that was told the first has none."""
    backend = InstructionTranslator.current_tx().output.compiler_fn
    return getattr(backend, "__name__", None) == "inductor"


def losses(input: Tensor, target: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``zlpr_core.zlpr`` without options."""
    hard = not target.is_floating_point()
    given = torch.ops.zlpr.numbers(target, input.dtype) if hard else target
    told: Tensor = _Told.apply(input, given, hard, axes)  # type: ignore[no-untyped-call]
    return told


_library = torch.library.Library("zlpr", "DEF")  # type: ignore[no-untyped-call]
_library.define("numbers(Tensor target, ScalarType dtype) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_library, "numbers", "CPU")
def _numbers(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Hard targets, and 2 for what is not legal: Inductor reads masks, and bytes, cell by cell."""
    if target.dtype != torch.bool:
        target = torch.where((target == 0) | (target == 1), target, 2)
    return target.to(dtype)


@torch.library.register_fake("zlpr::numbers")  # type: ignore[untyped-decorator]
def _(target: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(target, dtype=dtype)


class _Told(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, hard: bool, axes: tuple[int, ...]) -> Tensor:
        ctx.hard, ctx.axes = hard, axes
        quick, fits = quick_totals(_terms(input, target, hard), axis=axes, xp=xp)
        fit = (fits & _are_legal(target, hard, axes)).all()

        def again() -> Tensor:
            sides = read_sides(input, target.to(torch.int32) if hard else target, xp=xp)
            return _packed(total_of(side, axis=axes, xp=xp) for side in sides)

        totals = _unpacked(torch.cond(fit, lambda: _packed(quick), again), Total)
        ctx.save_for_backward(input, target, _packed(scales_of(totals, xp=xp)))
        positive, negative = (log_of(total, axis=axes, xp=xp) for total in totals)
        losses: Tensor = positive + negative
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Without ``torch.cond``, of which Inductor writes a large result over an input."""
        input, target, columns = ctx.saved_tensors
        for axis in sorted(ctx.axes):
            upstream = upstream.unsqueeze(axis)
        fall, rise = (Scale(shift, _stored(share * upstream)) for shift, share in _unpacked(columns, Scale))
        if ctx.hard:
            # made to depend on `upstream`: else forward works out the mask and stores it, cell by cell
            target = target > _stored(torch.where(upstream == upstream, 0.0, torch.zeros_like(upstream)))
        slopes = quick_slopes(input, target, (fall, rise), xp=xp)
        return slopes.to(input.dtype), None, None, None


def _stored(column: Tensor) -> Tensor:
    """The same, worked out once a row: Inductor would do it at each cell."""
    return column.as_strided(column.shape, column.stride())


def _packed(halves: Iterable[Any]) -> Tensor:
    return torch.stack([column for half in halves for column in half])


def _unpacked(columns: Tensor, kind: Any) -> Halves:
    return kind(columns[0], columns[1]), kind(columns[2], columns[3])


def _terms(logits: Tensor, targets: Tensor, hard: bool) -> Halves:
    """NaN or far too large where a term is out of range."""
    z = logits.to(compute_dtype(logits.dtype, xp=xp))
    t = targets.to(z.dtype)
    if hard:
        up, again, _ = _exps(z * (1 - 2 * t))
        return t * up, (1 - t) * again
    up, again, once_more = _exps(z)
    precise = torch.where(up >= torch.finfo(z.dtype).tiny, again, 0.0)  # below it a number has lost digits
    return t / precise, (1 - t) * once_more


def _exps(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three times the same, by different ways: Inductor would store one that is used twice, and merges these."""
    return torch.exp(z), torch.exp(z.unsqueeze(0)).squeeze(0), torch.exp(z.unsqueeze(-1)).squeeze(-1)


def _are_legal(targets: Tensor, hard: bool, axes: tuple[int, ...]) -> Tensor:
    """Whether those of each row are, by an extreme: a look at each takes as long as the sums."""
    if hard:
        return targets.amax(axes, keepdim=True) <= 1
    return (targets * (1 - targets)).amin(axes, keepdim=True) >= 0
