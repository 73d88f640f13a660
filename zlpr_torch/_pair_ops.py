"""Divergences and R-Drop in compiled code on a CPU.

The arithmetic of the kernel's blocks is traced, and Inductor makes a loop or two of it. What a loop cannot do, the rows
that are to be computed anew, stands behind two ops: ``zlpr::pair_values`` and ``zlpr::pair_gradients``.
"""

from typing import Any

import torch
from torch import Tensor

from zlpr_core._divergences import JEFFREYS, KL, REGRET
from zlpr_core._options import Options

from ._cpu_divergences import Rows, Wanted, repair
from ._cpu_memory import NewMemory
from ._formula import Inputs, PairCall, number_of_examples
from ._layout import Layout
from ._reduction import labelled_examples, reduce

KINDS = {"kl": KL, "jeffreys": JEFFREYS, "regret": REGRET}
_CALL = "Tensor p, Tensor q, Tensor? target, Tensor? mask, str divergence, float scale, float coefficient"
_TAGS = (torch.Tag.pt2_compliant_tag,)
torch.library.define("zlpr::pair_values", f"(Tensor values, {_CALL}) -> Tensor", tags=_TAGS)
torch.library.define(
    "zlpr::pair_gradients",
    f"(Tensor(a!)? in_p, Tensor(b!)? in_q, Tensor values, Tensor upstream, {_CALL}) -> ()",
    tags=_TAGS,
)


class FusedPair(torch.autograd.Function):
    """As ``_autograd.ClosedPair``, for Dynamo to trace. It keeps a value a row beyond the inputs.

    Of a Function that is traced, PyTorch has no second derivative.
    """

    @staticmethod
    def forward(ctx: Any, call: PairCall, mask: Tensor | None, target: Tensor | None, p: Tensor, q: Tensor) -> Tensor:
        inputs = Inputs(p, q, target, Options(mask))
        made, value = _forward(call, inputs)
        ctx.call = call
        ctx.save_for_backward(p, q, target, mask, made)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        p, q, target, mask, made = ctx.saved_tensors
        wanted: Wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        return None, None, None, *_backward(ctx.call, upstream, Inputs(p, q, target, Options(mask)), made, wanted)


def value(call: PairCall, inputs: Inputs) -> Tensor:
    """The reduced value. Dynamo traces this."""
    if torch.is_grad_enabled() and (inputs.p.requires_grad or inputs.q.requires_grad):
        where, target = inputs.options.where, inputs.target
        return FusedPair.apply(call, where, target, inputs.p, inputs.q)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(call, inputs)[1]


def _forward(call: PairCall, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The values of the rows as the loop makes them, and the reduced value."""
    rows, others = _rows(call, inputs)
    made, _ = _block(call, rows, None, (False, False))
    values: Tensor = torch.ops.zlpr.pair_values(made, rows.p, rows.q, rows.target, rows.options.where, *others)
    shape, where = inputs.p.shape, inputs.options.where
    values = Layout(inputs.p.dim(), call.axes).examples(values, shape)
    return made, reduce(values, call.reduction, labelled_examples(where, shape, call.axes))


def _backward(call: PairCall, upstream: Tensor, inputs: Inputs, made: Tensor, wanted: Wanted) -> list[Tensor | None]:
    layout, shape = Layout(inputs.p.dim(), call.axes), inputs.p.shape
    rows, others = _rows(call, inputs)
    if call.reduction == "mean":
        upstream = upstream / number_of_examples(layout, shape, inputs.options.where)
    each = upstream.reshape(-1, 1).expand(made.shape)
    _, gradients = _block(call, rows, each, wanted)
    torch.ops.zlpr.pair_gradients(*gradients, made, each, rows.p, rows.q, rows.target, rows.options.where, *others)
    return [None if gradient is None else layout.cells(gradient, shape) for gradient in gradients]


def _rows(call: PairCall, inputs: Inputs) -> tuple[Inputs, tuple[str, float, float]]:
    """The inputs as rows, and what else both ops take."""
    layout, shape = Layout(inputs.p.dim(), call.axes), inputs.p.shape
    target = None if inputs.target is None else layout.rows(inputs.target)
    where = inputs.options.where
    where = None if where is None else layout.rows(where.expand(shape)).contiguous()
    # contiguous, because Dynamo takes no other array for `out=` (torch 2.13)
    p, q = layout.rows(inputs.p).contiguous(), layout.rows(inputs.q).contiguous()
    names = [name for name, kind in KINDS.items() if kind.value is call.divergence.value]
    return Inputs(p, q, target, Options(where)), (names[0], call.scale, call.coefficient)


def _block(call: PairCall, rows: Inputs, each: Tensor | None, wanted: Wanted) -> tuple[Tensor, list[Any]]:
    return Rows(call, rows, wanted, NewMemory()).block(rows, each, [None, None])


def _call_of(divergence: str, scale: float, coefficient: float) -> PairCall:
    return PairCall(KINDS[divergence], scale, (1,), "none", coefficient)


@torch.library.impl("zlpr::pair_values", "cpu")
def _values(values: Tensor, p: Tensor, q: Tensor, target: Any, mask: Any, *call: Any) -> Tensor:
    """A copy, with the rows that are not finite computed by the core."""
    values = values.clone()
    if not values.sum().isfinite():
        repair(_call_of(*call), Inputs(p, q, target, Options(mask)), values, (None, None), None)
    return values


@torch.library.impl("zlpr::pair_gradients", "cpu")
def _gradients(
    in_p: Any, in_q: Any, values: Tensor, upstream: Tensor, p: Tensor, q: Tensor, target: Any, mask: Any, *call: Any
) -> None:
    """Writes the gradients of the same rows."""
    if not values.sum().isfinite():
        repair(_call_of(*call), Inputs(p, q, target, Options(mask)), values.clone(), (in_p, in_q), upstream)


@torch.library.register_fake("zlpr::pair_values")  # type: ignore[untyped-decorator]
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values)


@torch.library.register_fake("zlpr::pair_gradients")  # type: ignore[untyped-decorator]
def _(*_: Any) -> None:
    return None
