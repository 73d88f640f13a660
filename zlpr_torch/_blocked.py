"""ZLPR and its gradient on a CPU, a block of rows at a time.

A block is so small that most passes after the first find it in the cache, and nothing but the gradient, which is worked
out in its own place, is as large as the logits. The sums are taken without a shift, by arithmetic and one exponential a
logit; a threshold is a factor beside the weights. Rows that then hold a NaN or a number near the end of the dtype's
range are computed again, with care for logits that are infinite or far on the right side, and what is left by the core.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import zlpr_core
from zlpr_core._targets import read_targets

from ._namespace import xp
from ._rows import Options

CELLS = 2**20
"""In a block: more of them leave the cache, fewer cost more calls than arithmetic."""

FULL = (torch.float32, torch.float64)

LIMIT = {dtype: torch.finfo(dtype).max ** 0.5 for dtype in FULL}
"""Below it a sum, the reciprocal of one, and the product of two are normal numbers."""

LARGEST = 2.0**26
"""Of the factors: beside one that is larger, an exponential that counts could be below the normal numbers."""

State = list[Tensor]
"""The gradient for the upstream that was expected, until a backward takes it; a second one computes it anew."""


def forward(logits: Tensor, targets: Tensor, options: Options, expected: float | None) -> tuple[Tensor, State]:
    """Losses of the rows; with the gradient of their sum times ``expected``, unless half precision would round it."""
    sweep = _Sweep(logits, targets, options, expected if logits.dtype in FULL else None)
    return sweep.losses, [] if sweep.gradient is None else [sweep.gradient]


def backward(
    logits: Tensor, targets: Tensor, options: Options, state: State, upstream: Tensor, expected: float
) -> Tensor:
    """The gradient for an ``upstream`` of one number or of one a row, each times ``expected``."""
    if logits.dtype not in FULL:
        each = (upstream * expected).expand(logits.shape[0]).unsqueeze(1)
        gradient: Tensor = _Sweep(logits, targets, options, each).gradient
        return gradient
    gradient = state.pop() if state else _Sweep(logits, targets, options, expected).gradient
    done = upstream.numel() == 1 and upstream.item() == 1
    return gradient if done else gradient.mul_(upstream.unsqueeze(1))


class _Sweep:
    """One call, worked out at once: ``losses`` of its rows, and their ``gradient`` if there is an ``upstream``."""

    def __init__(
        self, logits: Tensor, targets: Tensor, options: Options, upstream: Any, *, careful: bool = False
    ) -> None:
        self.logits, self.targets, self.options = logits, targets, options
        self.upstream = upstream  # a number, or a column of them
        self.careful = careful
        self.wide = logits.dtype if logits.dtype in FULL else torch.float32
        self.count, self.classes = logits.shape
        self.step = max(1, min(CELLS // self.classes, self.count))
        self.gradient: Any = None if upstream is None else logits.new_empty(logits.shape)
        self.rooms: dict[str, Tensor] = {}
        self.losses = self.run()

    def run(self) -> Tensor:
        """The losses; ``gradient`` is filled in passing."""
        if self.count == 0 or self.options.absent() or _are_factors(self.options):
            sums = self.logits.new_empty((2, self.count, 1), dtype=self.wide)
            self.quickly(sums)
            losses, left = torch.log1p(sums).sum((0, 2)), self.inexact(sums)
        else:
            losses, left = self.logits.new_empty(self.count, dtype=self.wide), torch.arange(self.count, device="cpu")
        if left is not None:
            for start in range(0, len(left), self.step):
                self.again(left[start : start + self.step], losses)
        return losses

    def quickly(self, sums: Tensor) -> None:
        """Block after block, whatever the rows hold."""
        if self.step == self.count:
            self.block(self.logits, self.targets, self.options, self.upstream, sums, self.gradient)
            return
        for start in range(0, self.count, self.step):
            rows = slice(start, start + self.step)
            arrays = self.logits[rows], self.targets[rows], self.options.of_rows(rows), _some(self.upstream, rows)
            self.block(*arrays, sums[:, rows], _some(self.gradient, rows))

    def block(
        self, logits: Tensor, targets: Tensor, options: Options, upstream: Any, sums: Tensor, gradient: Tensor | None
    ) -> None:
        """Some rows: the sums of their halves, and what either half has of the gradient."""
        in_place = gradient is not None and gradient.dtype == self.wide
        negative: Any = gradient if in_place else self.room("negative", logits)
        positive = self.room("positive", logits)
        illegal = self.exponentials(logits, targets, options.where, negative, positive)
        if not options.absent():
            self.weigh(options, negative, positive)
        falls, rises = sums.unbind(0)
        torch.sum(positive, 1, True, out=falls)
        torch.sum(negative, 1, True, out=rises)
        if gradient is not None:
            fall, rise = _shares(sums, upstream).unbind(0)
            negative.mul_(rise).addcmul_(positive, fall, value=-1)
            if not in_place:
                gradient.copy_(negative)
        if illegal is not None:
            rises.masked_fill_(illegal, torch.nan)

    def exponentials(
        self, logits: Tensor, targets: Tensor, where: Tensor | None, negative: Tensor, positive: Tensor
    ) -> Tensor | None:
        """``(1 - t) e^s`` and ``t e^-s``, or 1 and 0 where ``where`` is False; returns what ``_illegal`` does."""
        if logits.dtype != self.wide:
            logits = negative.copy_(logits)
        if where is not None:
            logits = torch.where(where, logits, _number(0.0, self.wide), out=negative)
        if targets.is_floating_point():
            targets = targets if where is None else torch.where(where, targets, 0.0)
            illegal = _illegal(targets, self.wide)
            if targets.dtype != self.wide or illegal is not None:
                targets = self.room("targets", targets).copy_(targets).clamp_(0, 1)
            (_with_care if self.careful else _soft)(logits, targets, negative, positive)
            return illegal
        positive.copy_(targets.view(torch.uint8) if targets.dtype == torch.bool else targets)
        if where is not None:
            positive.mul_(self.room("where", where).copy_(where.view(torch.uint8)))
        illegal = None if targets.dtype == torch.bool else _illegal(positive, self.wide)
        if self.careful:
            _with_care(logits, self.room("targets", targets).copy_(positive), negative, positive)
        else:
            _hard(logits, negative, positive)
        return illegal

    def weigh(self, options: Options, negative: Tensor, positive: Tensor) -> None:
        """What the options make of the halves."""
        if options.where is not None:
            negative.mul_(self.room("where", options.where).copy_(options.where.view(torch.uint8)))
        for half, factor in zip((negative, positive), _factors(options), strict=True):
            if isinstance(factor, Tensor) or factor != 1:
                half.mul_(factor.to(self.wide) if isinstance(factor, Tensor) else factor)

    def room(self, use: str, like: Tensor) -> Tensor:
        """An array for the cells of a block, the same for all blocks."""
        if use not in self.rooms:
            self.rooms[use] = self.logits.new_empty((self.step, self.classes), dtype=self.wide)
        return self.rooms[use] if like.shape[0] == self.step else self.rooms[use][: like.shape[0]]

    def inexact(self, sums: Tensor) -> Tensor | None:
        """Rows with a sum that is out of range or NaN."""
        limit = LIMIT[self.wide]
        if self.count == 0 or sums.max().item() < limit:
            return None
        left: Tensor = (~(sums < limit)).any(dim=0).nonzero()[:, 0]
        return left

    def again(self, rows: Tensor, losses: Tensor) -> None:
        """Some rows with care, or by the core, whatever they hold."""
        logits, targets, options = self.logits[rows], self.targets[rows], self.options.of_rows(rows)
        upstream = _some(self.upstream, rows)
        if self.careful:
            losses[rows], gradient = _by_core(logits.to(self.wide), targets, options, upstream)
        else:
            found = _Sweep(logits, targets, options, upstream, careful=True)
            losses[rows], gradient = found.losses, found.gradient
        if gradient is not None:
            self.gradient[rows] = gradient.to(self.gradient.dtype)


def _by_core(logits: Tensor, targets: Tensor, options: Options, upstream: Any) -> tuple[Tensor, Any]:
    arguments = options._asdict()
    losses = zlpr_core.zlpr(logits, targets, **arguments, xp=xp)
    return losses, None if upstream is None else upstream * zlpr_core.zlpr_grad(logits, targets, **arguments, xp=xp)


def _some(value: Any, rows: Any) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def _are_factors(options: Options) -> bool:
    """Whether the weights are legal, and factors of a fair size can stand for all."""
    (least, most), (least_positive, most_positive), (down, up) = map(_range, options[1:])
    farthest = math.exp(min(max(-down, up), 100.0))
    return least >= 0 and least_positive >= 0 and most * max(most_positive, 1.0) * farthest <= LARGEST


def _range(option: Tensor | float | None) -> tuple[float, float]:
    """Its ends, NaN where a cell is; 1 for an absent weight."""
    if isinstance(option, Tensor):
        slim = _slim(option)
        least, most = torch.aminmax(slim if slim.is_floating_point() else slim.double())
        return float(least), float(most)
    return (1.0, 1.0) if option is None else (float(option), float(option))


def _factors(options: Options) -> tuple[Any, Any]:
    """Of the negative half and of the positive; in float64, to be rounded once."""
    both, ours, threshold = (x.double() if isinstance(x, Tensor) else x for x in map(_slim, options[1:]))
    exp = torch.exp if isinstance(threshold, Tensor) else math.exp
    both = 1.0 if both is None else both
    return both * exp(-threshold), both * exp(threshold) * (1.0 if ours is None else ours)


def _slim(option: Any) -> Any:
    """With one cell where expansion repeats it."""
    if not isinstance(option, Tensor):
        return option
    return option[tuple(slice(None if stride else 1) for stride in option.stride())]


def _illegal(targets: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Of each row, in a column, whether a target is not legal; None where a look at the ends says that all are."""
    least, most = torch.aminmax(targets)
    if least.item() >= 0 and most.item() <= 1:
        return None
    illegal: Tensor = ~read_targets(targets, dtype, xp=xp)[1].all(dim=1, keepdim=True)
    return illegal


def _soft(logits: Tensor, share: Tensor, negative: Tensor, positive: Tensor) -> None:
    torch.exp(logits, out=negative)
    torch.threshold(negative, torch.finfo(share.dtype).tiny, 0.0, out=positive)  # below it a number has lost digits
    torch.div(share, positive, out=positive)
    torch.lerp(negative, _number(0.0, share.dtype), share, out=negative)  # above a half by 1 - t, which is exact


def _with_care(logits: Tensor, share: Tensor, negative: Tensor, positive: Tensor) -> None:
    """As ``_soft``, by two exponentials, and without ``0 * inf``."""
    torch.neg(logits, out=positive).exp_().mul_(share).masked_fill_(share == 0, 0)
    torch.exp(logits, out=negative).mul_(1 - share).masked_fill_(share == 1, 0)


def _hard(logits: Tensor, negative: Tensor, positive: Tensor) -> None:
    """In each cell one of the two, e^-s or e^s; ``positive`` holds the targets."""
    torch.addcmul(logits, logits, positive, value=-2, out=negative).exp_()  # NaN where a logit is infinite
    positive.mul_(negative)
    negative.sub_(positive)  # exact: a number from itself, or nothing from it


def _shares(sums: Tensor, upstream: Tensor | float) -> Tensor:
    """By what a term of either half changes the loss, times ``upstream``."""
    each = upstream if isinstance(upstream, Tensor) else _number(upstream, sums.dtype)
    return each / (sums + _number(1.0, sums.dtype))


@lru_cache(maxsize=64)
def _number(value: float, dtype: torch.dtype) -> Tensor:
    """As a tensor, which PyTorch would make of it at each call."""
    with torch.inference_mode(mode=False):
        return torch.tensor(value, dtype=dtype, device="cpu")
