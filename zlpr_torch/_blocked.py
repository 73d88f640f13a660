"""ZLPR and its gradient on a CPU, a block of rows at a time.

A block is so small that every pass after the first finds it in the cache, and nothing but the gradient is as large as
the logits. The sums are taken without a shift, by arithmetic and one exponential a logit. Rows for which that is not
exact (a sum near the end of the dtype's range, a target that is not legal) are computed again by the core.
"""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import zlpr_core

from ._namespace import xp
from ._rows import Options

CELLS = 2**19
"""In a block: more of them leave the cache, fewer cost more calls than arithmetic."""

_thread = threading.local()

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
    if logits.dtype not in (torch.float32, torch.float64):
        return _Sweep(logits, targets, (upstream * expected).expand(len(logits))).run(options)[0]
    gradient = (state or _Sweep(logits, targets, expected).run(options)).pop()
    done = upstream.numel() == 1 and upstream.item() == 1
    return gradient if done else gradient.mul_(upstream.unsqueeze(1))


class _Sweep:
    """The rows of one call, and what is found for them."""

    def __init__(self, logits: Tensor, targets: Tensor, upstream: Tensor | float | None) -> None:
        self.logits, self.targets, self.upstream = logits, targets, upstream
        self.wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.step = max(1, CELLS // logits.shape[1])
        self.losses = self.new(len(logits))
        self.gradient = None if upstream is None else torch.empty(logits.shape, dtype=logits.dtype, device="cpu")
        self.ends = None if targets.dtype == torch.bool else _ends(targets, self.wide)

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.wide, device="cpu")

    def run(self, options: Options) -> State:
        left = self.quickly() if options.absent() else torch.arange(len(self.logits), device="cpu")
        for rows in () if left is None else torch.split(left, self.step):
            self.by_core(rows, {k: v[rows] if isinstance(v, Tensor) else v for k, v in options._asdict().items()})
        return [] if self.gradient is None else [self.gradient]

    def weighted(self, rows: Any) -> Any:
        """``upstream`` of some rows, as a column."""
        return self.upstream[rows].unsqueeze(1) if isinstance(self.upstream, Tensor) else self.upstream

    def quickly(self) -> Tensor | None:
        """Every row; returns those that have to be computed again, if any."""
        sums = self.new(2, len(self.logits), 1)
        for rows, negative, positive, spare in self.blocks():
            self.exponentials(rows, negative, positive, spare)
            torch.sum(positive, dim=1, keepdim=True, out=sums[0, rows])
            torch.sum(negative, dim=1, keepdim=True, out=sums[1, rows])
            if self.gradient is not None:
                pull, push = self.weighted(rows) / (1 + sums[:, rows])
                negative.mul_(push).addcmul_(positive, pull, value=-1)
                if self.gradient.dtype != self.wide:
                    self.gradient[rows] = negative
        torch.sum(torch.log1p(sums.squeeze(2)), dim=0, out=self.losses)
        return self.inexact(sums)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Slices of the rows, each with room for three arrays: in the gradient itself, where it has the dtype."""
        rows, classes = self.logits.shape
        in_place = self.logits.dtype == self.wide
        room = _room(min(self.step, rows) * classes, self.wide).view(3, -1, classes)
        for start in range(0, rows, self.step):
            block = slice(start, min(start + self.step, rows))
            positive, spare, one = room[:, : block.stop - start]
            yield block, self.gradient[block] if in_place and self.gradient is not None else one, positive, spare

    def exponentials(self, rows: slice, negative: Tensor, positive: Tensor, spare: Tensor) -> None:
        """``(1 - t) e^s`` into ``negative`` and ``t e^-s`` into ``positive``."""
        targets = self.targets[rows]
        if targets.is_floating_point():
            self.note_ends(rows, targets)
            share = targets if targets.dtype == self.wide else spare.copy_(targets)
            _soft(self.logits[rows], torch.clamp(share, 0, 1, out=spare), negative, positive)
        else:
            positive.copy_(targets.view(torch.uint8) if self.ends is None else targets)
            self.note_ends(rows, positive)
            _hard(self.logits[rows], negative, positive, spare)

    def note_ends(self, rows: slice, targets: Tensor) -> None:
        if self.ends is not None:
            torch.amin(targets, dim=1, out=self.ends[0, rows])
            torch.amax(targets, dim=1, out=self.ends[1, rows])

    def inexact(self, sums: Tensor) -> Tensor | None:
        """Rows with a sum or a target that is out of range."""
        # below the square root of the largest number, the reciprocals above and their products are normal numbers
        limit = torch.finfo(self.wide).max ** 0.5
        slack = 8 * torch.finfo(self.targets.dtype).eps if self.targets.is_floating_point() else 0.0
        if not sums.numel() or (sums.max() < limit and self.within(slack)):
            return None
        exact: Tensor = (sums < limit).all(dim=0).squeeze(1)
        if self.ends is not None:
            exact &= (self.ends[0] >= -slack) & (self.ends[1] <= 1 + slack)
        return (~exact).nonzero().squeeze(1)

    def within(self, slack: float) -> bool:
        """Whether no target is further than ``slack`` outside of [0, 1]."""
        return self.ends is None or bool(self.ends[0].min() >= -slack and self.ends[1].max() <= 1 + slack)

    def by_core(self, rows: Tensor, options: dict[str, Any]) -> None:
        """Some rows, whatever they hold."""
        logits, targets = self.logits[rows].to(self.wide), self.targets[rows]
        self.losses[rows] = zlpr_core.zlpr(logits, targets, **options, xp=xp)
        if self.gradient is not None:
            share = zlpr_core.zlpr_grad(logits, targets, **options, xp=xp)
            self.gradient[rows] = (self.weighted(rows) * share).to(self.gradient.dtype)


def _ends(targets: Tensor, wide: torch.dtype) -> Tensor:
    """Room for each row's least and greatest target: floating ones are judged in their own dtype."""
    kind = targets.dtype if targets.is_floating_point() else wide
    return torch.empty((2, len(targets)), dtype=kind, device="cpu")


def _room(cells: int, dtype: torch.dtype) -> Tensor:
    """Three arrays, which stay with the thread: for small ones the system takes longer than the arithmetic."""
    kept: Tensor | None = getattr(_thread, str(dtype), None)
    if kept is None or kept.numel() < 3 * cells:
        with torch.inference_mode(mode=False):  # for calls outside of it, too
            kept = torch.empty(3 * cells, dtype=dtype, device="cpu")
        if cells <= CELLS:
            setattr(_thread, str(dtype), kept)
    return kept[: 3 * cells]


def _soft(logits: Tensor, share: Tensor, negative: Tensor, positive: Tensor) -> None:
    """Uses up ``share``, the targets."""
    torch.exp(negative.copy_(logits) if logits.dtype != share.dtype else logits, out=negative)
    torch.div(share, negative, out=positive)
    negative.mul_(torch.sub(1, share, out=share))


def _hard(logits: Tensor, negative: Tensor, positive: Tensor, spare: Tensor) -> None:
    """In each cell one of the two, e^-s or e^s; ``positive`` holds the targets."""
    if logits.dtype != positive.dtype:
        logits = spare.copy_(logits)
    torch.addcmul(logits, logits, positive, value=-2, out=negative).exp_()  # NaN beside infinity: then the core's turn
    positive.mul_(negative)
    negative.sub_(positive)  # exact: a number from itself, or nothing from it
