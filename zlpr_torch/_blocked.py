"""ZLPR and its gradient on a CPU, a block of rows at a time.

A block is so small that every pass after the first finds it in the cache, and nothing but the gradient is as large as
the logits. The sums are taken without a shift, by arithmetic and one exponential a logit. Rows for which that is not
exact (a sum near the end of the dtype's range, a target that is not legal) are computed again by the core.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import zlpr_core

from ._namespace import xp
from ._rows import Options

CELLS = 2**18
"""In a block: more of them leave the cache, fewer cost more calls than arithmetic."""

State = list[Tensor]
"""The gradient for the upstream that was expected, until a backward takes it; a second one computes it anew."""


def forward(logits: Tensor, targets: Tensor, options: Options, expected: float | None) -> tuple[Tensor, State]:
    """Losses of the rows; with the gradient of their sum times ``expected``, unless half precision would round it."""
    sweep = _Sweep(logits, targets, expected if logits.dtype in (torch.float32, torch.float64) else None)
    return sweep.losses, sweep.run(options)


def backward(
    logits: Tensor, targets: Tensor, options: Options, state: State, upstream: Tensor, expected: float
) -> Tensor:
    """The gradient for an ``upstream`` of one number or of one a row, each times ``expected``."""
    narrow = logits.dtype not in (torch.float32, torch.float64)
    if narrow or not state:
        state += _Sweep(logits, targets, (upstream * expected).expand(len(logits)) if narrow else expected).run(options)
    gradient = state.pop()
    done = narrow or (upstream.numel() == 1 and upstream.item() == 1)
    return gradient if done else gradient.mul_(upstream.unsqueeze(1))


class _Sweep:
    """The rows of one call, and what is found for them."""

    def __init__(self, logits: Tensor, targets: Tensor, upstream: Tensor | float | None) -> None:
        self.logits, self.targets, self.upstream = logits, targets, upstream
        self.wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.step = max(1, CELLS // logits.shape[1])
        self.losses = torch.empty(len(logits), dtype=self.wide)
        self.gradient = None if upstream is None else torch.empty(logits.shape, dtype=logits.dtype)

    def run(self, options: Options) -> State:
        left = self.quickly() if options.absent() else torch.arange(len(self.logits))
        for rows in torch.split(left, self.step):
            self.by_core(rows, {k: v[rows] if isinstance(v, Tensor) else v for k, v in options._asdict().items()})
        return [] if self.gradient is None else [self.gradient]

    def weighted(self, rows: Any) -> Any:
        """``upstream`` of some rows, as a column."""
        return self.upstream[rows].unsqueeze(1) if isinstance(self.upstream, Tensor) else self.upstream

    def quickly(self) -> Tensor:
        """Every row; returns those that have to be computed again."""
        sums = torch.empty((2, len(self.logits), 1), dtype=self.wide)
        exact = torch.ones(len(self.logits), dtype=torch.bool)
        for rows, negative, positive in self.blocks():
            _exponentials(self.logits[rows], self.targets[rows], negative, positive, exact[rows])
            torch.sum(positive, dim=1, keepdim=True, out=sums[0, rows])
            torch.sum(negative, dim=1, keepdim=True, out=sums[1, rows])
            if self.gradient is not None:
                pull, push = self.weighted(rows) / (1 + sums[:, rows])
                negative.mul_(push).addcmul_(positive, pull, value=-1)
                if self.gradient.dtype != self.wide:
                    self.gradient[rows] = negative
        torch.sum(torch.log1p(sums.squeeze(2)), dim=0, out=self.losses)
        # below the square root of the largest number, the reciprocals above and their products are normal numbers
        exact &= (sums < torch.finfo(self.wide).max ** 0.5).all(dim=0).squeeze(1)
        return _where_not(exact)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of the rows, each with room for two arrays: in the gradient itself, where it has the dtype."""
        rows, classes = self.logits.shape
        room = torch.empty((2, min(self.step, rows), classes), dtype=self.wide)
        gradient = self.gradient if self.logits.dtype == self.wide else None
        for start in range(0, rows, self.step):
            block = slice(start, min(start + self.step, rows))
            one, other = room[:, : block.stop - start]
            yield block, one if gradient is None else gradient[block], other

    def by_core(self, rows: Tensor, options: dict[str, Any]) -> None:
        """Some rows, whatever they hold."""
        logits, targets = self.logits[rows].to(self.wide), self.targets[rows]
        self.losses[rows] = zlpr_core.zlpr(logits, targets, **options, xp=xp)
        if self.gradient is not None:
            share = zlpr_core.zlpr_grad(logits, targets, **options, xp=xp)
            self.gradient[rows] = (self.weighted(rows) * share).to(self.gradient.dtype)


def _exponentials(logits: Tensor, targets: Tensor, negative: Tensor, positive: Tensor, exact: Tensor) -> None:
    """``(1 - t) e^s`` into ``negative`` and ``t e^-s`` into ``positive``."""
    if targets.is_floating_point():
        _soft(logits, targets, negative, positive)
        slack = 8 * torch.finfo(targets.dtype).eps
        torch.logical_and(targets.amin(dim=1) >= -slack, targets.amax(dim=1) <= 1 + slack, out=exact)
        return
    positive.copy_(targets.view(torch.uint8) if targets.dtype == torch.bool else targets)
    if targets.dtype != torch.bool:
        torch.logical_and(positive.amin(dim=1) >= 0, positive.amax(dim=1) <= 1, out=exact)
    _hard(logits, negative, positive)


def _hard(logits: Tensor, negative: Tensor, positive: Tensor) -> None:
    """In each cell one of the two, e^-s or e^s; ``positive`` holds the targets."""
    torch.sub(1, positive, alpha=2, out=negative)
    negative.mul_(logits).exp_()
    positive.mul_(negative)
    negative.sub_(positive)  # exact: a number from itself or nothing from it


def _soft(logits: Tensor, targets: Tensor, negative: Tensor, positive: Tensor) -> None:
    share = targets.to(negative.dtype).clamp(0, 1)
    torch.exp(logits.to(negative.dtype), out=negative)
    torch.reciprocal(negative, out=positive).mul_(share)
    negative.mul_(torch.sub(1, share, out=share))


def _where_not(condition: Tensor) -> Tensor:
    """Indices, found only when there are some."""
    return torch.empty(0, dtype=torch.long) if bool(condition.all()) else (~condition).nonzero().squeeze(1)
