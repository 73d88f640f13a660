"""The divergences and their gradients on a CPU, a block of rows at a time.

As in ``_cpu``, forward computes the gradients for the upstream gradient that it expects, and everything between the
logits and these is as small as a block. The arithmetic of a block is in ``_cpu_pairs``. A row whose value is not finite
there is computed anew by the core.
"""

from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import Options
from zlpr_core._pairs import read_pair

from ._cpu import WIDE, expected_upstream, keeps_gradient, number_tensor
from ._cpu_pairs import BLOCKS, Block, Memory
from ._formula import DivergenceCall
from ._layout import Layout, layout_of, some_rows
from ._namespace import xp
from ._reduction import labelled_examples, reduce

CELLS = 2**16
"""In a block: a dozen arrays of them stay in the cache."""

Gradients = tuple[Tensor | None, Tensor | None]


def forward(
    call: DivergenceCall, p: Tensor, q: Tensor, where: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients | None]:
    """The reduced divergence, and for ``backward`` the ``wanted`` gradients for the expected upstream gradient."""
    layout = layout_of(p.dim(), call.axes)
    labelled = labelled_examples(where, p.shape, call.axes)
    kept = any(wanted) and keeps_gradient(p, call.reduction) and keeps_gradient(q, call.reduction)
    upstream = expected_upstream(call.reduction, labelled, layout, p.shape) if kept else None
    values, gradients = _sweep(call, layout, p, q, where, upstream, wanted)
    # cloned, because autograd refuses to modify in place what a Function returned as a view
    values = layout.examples(values, p.shape).clone() if call.reduction == "none" else values
    return reduce(values, call.reduction, labelled), gradients if kept else None


def backward(
    call: DivergenceCall, upstream: Tensor, residuals: Gradients | None, p: Tensor, q: Tensor, where: Tensor | None,
    wanted: tuple[bool, bool],
) -> Gradients:  # fmt: skip
    """The gradients, in the memory of ``residuals``. Without any, or in half precision, they are computed anew."""
    layout = layout_of(p.dim(), call.axes)
    if residuals is not None and upstream.numel() == 1 and upstream.item() == 1:
        return residuals
    if residuals is not None and p.dtype in WIDE and q.dtype in WIDE:
        each = layout.beside_cells(upstream)
        in_p, in_q = (None if gradient is None else gradient.mul_(each) for gradient in residuals)
        return in_p, in_q
    labelled = labelled_examples(where, p.shape, call.axes)
    each = upstream.reshape(-1, 1) * expected_upstream(call.reduction, labelled, layout, p.shape)
    return _sweep(call, layout, p, q, where, each.expand(layout.number_of_rows(p.shape), 1), wanted)[1]


def _sweep(
    call: DivergenceCall,
    layout: Layout,
    p: Tensor,
    q: Tensor,
    where: Tensor | None,
    upstream: Any,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Gradients]:
    rows = None if where is None else layout.rows(where.expand(p.shape))
    sweep = _Sweep(call, layout.rows(p), layout.rows(q), rows, upstream, wanted)
    in_p, in_q = (None if gradient is None else layout.cells(gradient, p.shape) for gradient in sweep.gradients)
    return sweep.values, (in_p, in_q)


class _Sweep:
    """One call, computed at once: ``values`` of the rows in a column, and the ``gradients`` that are wanted."""

    def __init__(
        self, call: DivergenceCall, p: Tensor, q: Tensor, where: Tensor | None, upstream: Any, wanted: tuple[bool, bool]
    ) -> None:
        self.call, self.p, self.q, self.where, self.upstream = call, p, q, where, upstream
        self.dtype = torch.float64 if torch.float64 in (p.dtype, q.dtype) else torch.float32
        self.wanted = wanted if upstream is not None else (False, False)
        self.gradients = [x.new_empty(x.shape) if w else None for x, w in zip((p, q), self.wanted, strict=True)]
        count, classes = p.shape
        step = max(1, min(CELLS // classes, count))
        self.memory = Memory((step, classes), self.dtype) if step < count else Memory()
        self.values = p.new_empty((count, 1), dtype=self.dtype)
        for start in range(0, count, step):
            self.block(slice(start, start + step))
        if count and not self.values.sum().isfinite():
            self.recompute((~self.values[:, 0].isfinite()).nonzero()[:, 0])

    def block(self, rows: slice) -> None:
        """The values of some rows, and their gradients."""
        block = self.read(rows)
        self.values[rows], gradients = BLOCKS[self.call.divergence](block, self.wanted)
        for whole, gradient in zip(self.gradients, gradients, strict=True):
            if whole is not None:
                each = some_rows(self.upstream, rows) * self.call.scale
                torch.mul(gradient, each, out=whole[rows])

    def read(self, rows: slice) -> Block:
        """Some rows in the dtype that computes, scaled, and 0 where masked."""
        memory, scale = self.memory.of_rows(len(self.values[rows])), self.call.scale
        where = None if self.where is None else self.where[rows]
        p, q = (self.wide(x[rows], where, memory[name]) for x, name in ((self.p, "x"), (self.q, "y")))
        gap = torch.sub(p, q, out=memory["gap"])
        if scale != 1:
            gap.mul_(scale)
            p, q = torch.mul(p, scale, out=memory["x"]), torch.mul(q, scale, out=memory["y"])
        return Block(p, q, gap, where, memory)

    def wide(self, logits: Tensor, where: Tensor | None, memory: Tensor | None) -> Tensor:
        """The logits in the dtype that computes, 0 where masked."""
        if logits.dtype != self.dtype:
            logits = logits.to(self.dtype) if memory is None else memory.copy_(logits)
        return logits if where is None else torch.where(where, logits, number_tensor(0.0, self.dtype))

    def recompute(self, rows: Tensor) -> None:
        """Some rows by the core."""
        where = None if self.where is None else self.where[rows]
        p, q = self.p[rows].to(self.dtype), self.q[rows].to(self.dtype)
        pair = read_pair(p, q, -1, Options(where), self.call.scale, ("p_logits", "q_logits"), xp=xp)
        self.values[rows, 0] = self.call.divergence.value(pair, xp=xp)
        if any(self.wanted):
            for whole, gradient in zip(self.gradients, self.call.divergence.gradients(pair, xp=xp), strict=True):
                if whole is not None:
                    whole[rows] = (gradient * some_rows(self.upstream, rows)).to(whole.dtype)
