"""The divergences, R-Drop and their gradients on a CPU, a block of rows at a time.

As in ``_cpu``, forward computes the gradients for the upstream gradient that it expects, and everything between the
logits and these is as small as a block. The arithmetic of a block is in ``_cpu_pairs``, and for R-Drop in ``_cpu`` too,
while the block is in the cache. A row whose value is not finite there is computed anew by the core.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._cpu import LIMIT, average, divisor, keeps_gradient, options_of, swept
from ._cpu_memory import AnyMemory, Memory, NewMemory, kept_memory
from ._cpu_pairs import BLOCKS, Block
from ._cpu_terms import FEW, WIDE, in_graph, number_tensor
from ._formula import Inputs, PairCall, pair_gradients, plain_pair
from ._layout import layout_of, some_rows
from ._namespace import computing_dtype

CELLS = 2**18
"""Of a block. With fewer, calls cost more than arithmetic; with more, its dozen arrays leave the cache."""

Wanted = tuple[bool, bool]
"""Whether the gradient in the first logit tensor is wanted, and in the second."""


def forward(call: PairCall, inputs: Inputs, wanted: Wanted) -> tuple[Tensor, list[Any] | None]:
    """The reduced value, and for ``backward`` the ``wanted`` gradients for the expected upstream gradient."""
    p, q, _, options = inputs
    layout = layout_of(p.dim(), call.axes)
    examples = divisor(call.reduction, options.where, layout, p.shape)
    kept = any(wanted) and keeps_gradient(p, call.reduction) and keeps_gradient(q, call.reduction)
    values, gradients = _sweep(call, inputs, 1 / (examples or 1) if kept else None, wanted)
    if call.reduction != "none":
        return average(values, examples), gradients if kept else None
    # cloned, because autograd refuses to modify in place what a Function returned as a view
    return layout.examples(values, p.shape).clone(), gradients if kept else None


def backward(
    call: PairCall, upstream: Tensor, residuals: list[Any] | None, inputs: Inputs, wanted: Wanted
) -> list[Any]:
    """The gradients, in the memory of ``residuals``. Without any, or in half precision, they are computed anew."""
    p, q, _, options = inputs
    layout = layout_of(p.dim(), call.axes)
    if residuals is not None and upstream.numel() == 1 and upstream.item() == 1:
        return residuals
    if residuals is not None and p.dtype in WIDE and q.dtype in WIDE:
        each = layout.beside_cells(upstream)
        return [None if gradient is None else gradient.mul_(each) for gradient in residuals]
    each = upstream.reshape(-1, 1) / (divisor(call.reduction, options.where, layout, p.shape) or 1)
    return _sweep(call, inputs, each.expand(layout.number_of_rows(p.shape), 1), wanted)[1]


def _sweep(call: PairCall, inputs: Inputs, upstream: Any, wanted: Wanted) -> tuple[Tensor, list[Any]]:
    layout, shape = layout_of(inputs.p.dim(), call.axes), inputs.p.shape
    target = None if inputs.target is None else layout.rows(inputs.target)
    rows = Inputs(layout.rows(inputs.p), layout.rows(inputs.q), target, layout.options(inputs.options, shape))
    sweep = _Sweep(call._replace(axes=(1,), reduction="none"), rows, upstream, wanted)
    return sweep.values, [None if gradient is None else layout.cells(gradient, shape) for gradient in sweep.gradients]


class _Side(NamedTuple):
    """One of the two logits."""

    logits: Tensor
    whole: Tensor | None  # where its gradient goes
    gradient: Tensor | None  # of the divergence, if it is wanted
    exponentials: Tensor | None


class Rows:
    """The arithmetic of a block of rows. Dynamo traces it for ``_pair_ops``."""

    def __init__(self, call: PairCall, inputs: Inputs, wanted: Wanted, memory: Memory | NewMemory) -> None:
        self.call, self.wanted, self.memory = call, wanted, memory
        self.dtype = computing_dtype(inputs.p, inputs.q)
        self.factor = call.scale * call.coefficient  # turns a gradient in the scaled logits into one in the logits

    def block(self, inputs: Inputs, each: Any, wholes: list[Any]) -> tuple[Tensor, list[Any]]:
        """The values of some rows, and their gradients, which are written to ``wholes`` if these are given."""
        # lent, as `joined` writes to them when nobody reads the gap of the logits and of their probabilities any more
        memory = self.memory.of_rows(len(inputs.p), gap=wholes[0], apart=wholes[1])
        values, gradients, exponentials = BLOCKS[self.call.divergence](self.read(inputs, memory), self.wanted)
        if self.call.coefficient != 1:
            values.mul_(self.call.coefficient)
        made = []
        for sign, *parts in zip((1, -1), inputs[:2], wholes, gradients, exponentials, strict=True):
            side, of_loss = _Side(*parts), None
            if inputs.target is not None:
                losses, of_loss = self.loss(side, inputs, None if side.gradient is None else 0.5 * each, memory)
                values.add_(losses, alpha=0.5)
            made.append(self.joined(side, sign, each, of_loss))
        return values, made

    def joined(self, side: _Side, sign: int, each: Any, of_loss: Tensor | None) -> Tensor | None:
        """The gradient of the divergence and that of the loss together, rounded once, in ``whole`` if that is given."""
        gradient, whole = side.gradient, side.whole
        if gradient is None:
            return None
        in_place = whole is not None and whole.dtype == self.dtype
        both = torch.mul(gradient, each * (sign * self.factor), out=whole if in_place else gradient)
        if of_loss is not None:
            both.add_(of_loss)
        if in_place:
            return both
        return both.to(side.logits.dtype) if whole is None else whole.copy_(both)

    def loss(self, side: _Side, inputs: Inputs, upstream: Any, memory: AnyMemory) -> tuple[Tensor, Any]:
        """Losses and gradient of one side, in a graph without options."""
        logits, known = side.logits.to(self.dtype), side.exponentials
        target: Any = inputs.target
        if torch.compiler.is_compiling():
            losses, gradient = in_graph(logits, target, upstream, known)
            return torch.where(losses < LIMIT[self.dtype], losses, torch.nan), gradient
        into = None if upstream is None else memory["spare"]
        lent = memory.lend(positive=side.whole)
        halves, gradient = swept(logits, target, inputs.options, upstream, into, exponentials=known, memory=lent)
        return halves.sum(0), gradient

    def read(self, inputs: Inputs, memory: AnyMemory) -> Block:
        """In the dtype that computes, scaled, and 0 where masked."""
        scale, where = self.call.scale, inputs.options.where
        p, q = self.wide(inputs.p, where, memory, "x"), self.wide(inputs.q, where, memory, "y")
        gap = torch.sub(p, q, out=memory["gap"])
        if scale != 1:
            gap.mul_(scale)
            p, q = torch.mul(p, scale, out=memory["x"]), torch.mul(q, scale, out=memory["y"])
        with_loss = inputs.target is not None and scale == 1 and inputs.options.are_default
        # an eager loss of few cells computes its own; in a graph their number is not to be asked for
        with_loss = with_loss and (torch.compiler.is_compiling() or p.numel() > FEW)
        return Block(p, q, gap, where, memory, with_loss)

    def wide(self, logits: Tensor, where: Tensor | None, memory: AnyMemory, name: str) -> Tensor:
        """The logits in the dtype that computes, 0 where masked. They may be those that came."""
        if logits.dtype != self.dtype:
            into = memory[name]
            logits = logits.to(self.dtype) if into is None else into.copy_(logits)
        return logits if where is None else torch.where(where, logits, number_tensor(0.0, self.dtype))


class _Sweep(Rows):
    """One call, computed at once: ``values`` of the rows in a column, and the ``gradients`` that are wanted."""

    def __init__(self, call: PairCall, inputs: Inputs, upstream: Any, wanted: Wanted) -> None:
        self.inputs, self.upstream = inputs, upstream
        self.count, classes = inputs.p.shape
        self.step = max(1, min(CELLS // classes, self.count))
        is_small = 0 < inputs.p.numel() <= FEW
        shape, dtype = (self.step, classes), computing_dtype(inputs.p, inputs.q)
        memory: Memory | NewMemory = NewMemory() if is_small else kept_memory("pair", shape, dtype)
        super().__init__(call, inputs, wanted if upstream is not None else (False, False), memory)
        self.values, self.gradients = self.block(inputs, upstream, [None, None]) if is_small else self.blocks()
        if self.count and not self.values.sum().isfinite():
            repair(self.call, inputs, self.values, self.gradients, upstream)

    def blocks(self) -> tuple[Tensor, list[Any]]:
        """The values and the gradients, block after block."""
        gradients = [x.new_empty(x.shape) if w else None for x, w in zip(self.inputs[:2], self.wanted, strict=True)]
        if self.step == self.count:
            return self.block(self.inputs, self.upstream, gradients)
        values = self.inputs.p.new_empty((self.count, 1), dtype=self.dtype)
        for start in range(0, self.count, self.step):
            rows = slice(start, start + self.step)
            wholes = [some_rows(gradient, rows) for gradient in gradients]
            values[rows], _ = self.block(_some(self.inputs, rows), some_rows(self.upstream, rows), wholes)
        return values, gradients


def repair(call: PairCall, inputs: Inputs, values: Tensor, gradients: Any, upstream: Any) -> None:
    """By the core the rows whose ``values`` are not finite: these, and of the ``gradients`` those that are there."""
    rows = (~values[:, 0].isfinite()).nonzero()[:, 0]
    some = _some(inputs, rows)
    some = some._replace(p=some.p.to(values.dtype), q=some.q.to(values.dtype))
    values[rows, 0] = plain_pair(call, some)
    if all(gradient is None for gradient in gradients):
        return
    each = some_rows(upstream, rows)
    each = each[:, 0] if isinstance(each, Tensor) else values.new_full((len(rows),), each)
    for whole, gradient in zip(gradients, pair_gradients(call, each, some), strict=True):
        if whole is not None:
            whole[rows] = gradient.to(whole.dtype)


def _some(inputs: Inputs, rows: Any) -> Inputs:
    target = some_rows(inputs.target, rows)
    return Inputs(inputs.p[rows], inputs.q[rows], target, options_of(inputs.options, rows))
