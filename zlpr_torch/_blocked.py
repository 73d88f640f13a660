"""ZLPR and its gradient on a CPU, a block of rows at a time.

A block is so small that every pass after the first finds it in the cache, and nothing but the gradient is as large as
the logits. The sums are taken without a shift, by arithmetic and one exponential a logit. Rows for which that is not
exact (a sum near the end of the dtype's range, a target that is not legal) are computed again by the core.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._targets import read_targets

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
        self.doubtful = False  # whether a target may not be legal

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
        sums = self.new(2, len(self.logits))
        for rows, room in self.blocks():
            self.exponentials(rows, room)
            found = torch.sum(room.halves, dim=2, out=sums[:, rows])
            if self.gradient is not None:
                self.write_slopes(rows, room, found, self.gradient[rows])
        torch.sum(torch.log1p(sums), dim=0, out=self.losses)
        return self.inexact(sums)

    def blocks(self) -> Iterator[tuple[slice, "_Room"]]:
        """Slices of the rows, each with room to compute in."""
        count, classes = self.logits.shape
        room = _room(min(self.step, count), classes, self.wide)
        for start in range(0, count, self.step):
            rest = count - start
            yield slice(start, start + self.step), room if rest >= len(room.spare) else _views(room.flat, rest, classes)

    def write_slopes(self, rows: slice, room: "_Room", sums: Tensor, out: Tensor) -> None:
        """Uses up the halves."""
        upstream: Any = self.upstream[rows] if isinstance(self.upstream, Tensor) else self.upstream
        room.halves.mul_((1 + sums).reciprocal_().mul_(upstream).unsqueeze(2))
        torch.sub(room.negative, room.positive, out=out)

    def exponentials(self, rows: slice, room: "_Room") -> None:
        """``(1 - t) e^s`` and ``t e^-s`` into their halves."""
        targets, logits = self.targets[rows], self.logits[rows]
        if targets.is_floating_point():
            share = targets if targets.dtype == self.wide else room.spare.copy_(targets)
            _soft(logits, share if self.are_shares(targets) else torch.clamp(share, 0, 1, out=room.spare), room)
        elif targets.dtype == torch.bool:
            room.positive.copy_(targets.view(torch.uint8))
            _hard(logits, room)
        else:
            self.are_shares(room.positive.copy_(targets))
            _hard(logits, room)

    def are_shares(self, targets: Tensor) -> bool:
        """Whether all are in [0, 1]; NaN is not."""
        least, most = torch.aminmax(targets)
        inside: bool = least.item() >= 0 and most.item() <= 1
        self.doubtful |= not inside
        return inside

    def inexact(self, sums: Tensor) -> Tensor | None:
        """Rows with a sum or a target that is out of range."""
        # below the square root of the largest number, the reciprocals above and their products are normal numbers
        limit = torch.finfo(self.wide).max ** 0.5
        if not sums.numel() or (not self.doubtful and sums.max() < limit):
            return None
        exact: Tensor = (sums < limit).all(dim=0)
        if self.doubtful:
            exact &= read_targets(self.targets, self.wide, xp=xp)[1].all(dim=1)
        return (~exact).nonzero().squeeze(1)

    def by_core(self, rows: Tensor, options: dict[str, Any]) -> None:
        """Some rows, whatever they hold."""
        logits, targets = self.logits[rows].to(self.wide), self.targets[rows]
        self.losses[rows] = zlpr_core.zlpr(logits, targets, **options, xp=xp)
        if self.gradient is not None:
            share = zlpr_core.zlpr_grad(logits, targets, **options, xp=xp)
            self.gradient[rows] = (self.weighted(rows) * share).to(self.gradient.dtype)


class _Room(NamedTuple):
    """Three arrays, the first two of them together."""

    flat: Tensor
    halves: Tensor
    negative: Tensor
    positive: Tensor
    spare: Tensor


def _room(rows: int, classes: int, dtype: torch.dtype) -> _Room:
    """It stays with the thread: for small arrays the system takes longer than the arithmetic."""
    kept: _Room | None = getattr(_thread, str(dtype), None)
    if kept is not None and kept.spare.shape == (rows, classes):
        return kept
    with torch.inference_mode(mode=False):  # for calls outside of it, too
        enough = kept is not None and kept.flat.numel() >= 3 * rows * classes
        flat = kept.flat if kept is not None and enough else torch.empty(3 * rows * classes, dtype=dtype, device="cpu")
        room = _views(flat, rows, classes)
    if rows * classes <= CELLS:
        setattr(_thread, str(dtype), room)
    return room


def _views(flat: Tensor, rows: int, classes: int) -> _Room:
    three = flat[: 3 * rows * classes].view(3, rows, classes)
    return _Room(flat, three[:2], *three)


def _soft(logits: Tensor, share: Tensor, room: _Room) -> None:
    negative = room.negative
    torch.exp(negative.copy_(logits) if logits.dtype != share.dtype else logits, out=negative)
    torch.div(share, negative, out=room.positive)
    negative.mul_(torch.sub(1, share, out=room.spare))


def _hard(logits: Tensor, room: _Room) -> None:
    """In each cell one of the two, e^-s or e^s; ``positive`` holds the targets."""
    _, _, negative, positive, spare = room
    if logits.dtype != positive.dtype:
        logits = spare.copy_(logits)
    torch.addcmul(logits, logits, positive, value=-2, out=negative).exp_()  # NaN beside infinity: then the core's turn
    positive.mul_(negative)
    negative.sub_(positive)  # exact: a number from itself, or nothing from it
