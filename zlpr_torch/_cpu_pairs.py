"""The arithmetic of the divergences for a block of rows on a CPU: the values, and the gradients of each in its logits.

The formulas are those of ``zlpr_core``, by the operations that cost least. ``torch.where`` takes ten times as long as
``torch.lerp``, and ``torch.tanh`` as ``torch.sigmoid``; results go into memory that is there already, because new pages
take longer than arithmetic.
"""

from collections.abc import Callable
from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._divergences import JEFFREYS, KL, REGRET, Divergence

from ._cpu import number_tensor

NEAR = 1.5
"""KL of logits closer than this is a series, that of others a difference of softplus, which then loses no digits."""

SERIES = {torch.float32: 11, torch.float64: 19}
"""Terms of ``(e^t - 1 - t) / t²`` for ``|t| < NEAR``."""

FAR = {torch.float32: 20.0, torch.float64: 170.0}
"""Up to here the exponentials of the regret can be multiplied with each other without a shift."""

Computed = tuple[Tensor, tuple[Tensor | None, Tensor | None]]


class Memory:
    """Arrays of a block's size by name, the same for every block; None for each where one block is all there is."""

    def __init__(self, shape: tuple[int, int] = (0, 0), dtype: torch.dtype | None = None) -> None:
        self.shape, self.dtype, self.rows = shape, dtype, shape[0]
        self.arrays: dict[str, Tensor] = {}

    def of_rows(self, rows: int) -> "Memory":
        """For a block of so many rows."""
        self.rows = rows
        return self

    def __getitem__(self, name: str) -> Tensor | None:
        if self.dtype is None:
            return None
        if name not in self.arrays:
            self.arrays[name] = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        return self.arrays[name] if self.rows == self.shape[0] else self.arrays[name][: self.rows]


class Block(NamedTuple):
    """Some rows of two logit vectors, scaled, and 0 where masked."""

    x: Tensor
    y: Tensor
    gap: Tensor  # x - y
    where: Tensor | None
    memory: Memory


class Sigmoids(NamedTuple):
    """``σ`` of both logits and of their negatives."""

    on_x: Tensor
    off_x: Tensor
    on_y: Tensor
    off_y: Tensor


def _jeffreys(block: Block, wanted: tuple[bool, bool]) -> Computed:
    at = _sigmoids(block)
    apart = _apart(block, at)
    values = torch.mul(apart, block.gap, out=block.memory["fallen"]).sum(1, True)
    in_p = at.on_x.mul_(at.off_x).mul_(block.gap).add_(apart) if wanted[0] else None
    in_q = at.on_y.mul_(at.off_y).mul_(block.gap).add_(apart).neg_() if wanted[1] else None
    return values, (in_p, in_q)


def _kl(block: Block, wanted: tuple[bool, bool]) -> Computed:
    at = _sigmoids(block)
    apart = _apart(block, at)
    is_near = torch.abs(block.gap, out=block.memory["is_near"]).lt_(NEAR)
    near, far = _near_kl(block, at), _far_kl(block, at, apart)
    values = torch.lerp(far, near, is_near, out=far).sum(1, True)
    in_p = at.on_x.mul_(at.off_x).mul_(block.gap) if wanted[0] else None
    return values, (in_p, apart.neg_() if wanted[1] else None)


def _sigmoids(block: Block) -> Sigmoids:
    x, y, _, _, memory = block
    return Sigmoids(
        torch.sigmoid(x, out=memory["on_x"]),
        torch.neg(x, out=memory["off_x"]).sigmoid_(),
        torch.sigmoid(y, out=memory["on_y"]),
        torch.neg(y, out=memory["off_y"]).sigmoid_(),
    )


def _apart(block: Block, at: Sigmoids) -> Tensor:
    """``σ(x) - σ(y) = tanh(gap / 2) (σ(x) σ(-y) + σ(-x) σ(y))``, with tanh from ``e^-|gap| - 1``."""
    fallen = torch.abs(block.gap, out=block.memory["fallen"]).neg_().expm1_()
    apart = torch.mul(at.on_x, at.off_y, out=block.memory["apart"]).addcmul_(at.off_x, at.on_y)
    apart.mul_(fallen).div_(fallen.add_(2)).mul_(torch.sign(block.gap, out=fallen))
    return apart.neg_()


def _near_kl(block: Block, at: Sigmoids) -> Tensor:
    """``log E[e^(R - E[R])]`` for R = y - x where the label is on and 0 where it is off, if these are near.

    With ``φ(t) = (e^t - 1 - t) / t²`` and r = y - x, the expectation is 1 and
    ``r² σ(x) σ(-x) (σ(-x) φ(r σ(-x)) + σ(x) φ(-r σ(x)))``.
    """
    memory = block.memory
    fall = torch.clamp(block.gap, -NEAR, NEAR, out=memory["fall"])
    up = torch.mul(fall, at.off_x, out=memory["up"]).neg_()
    down = torch.mul(fall, at.on_x, out=memory["down"])
    bends = _series(up, memory["series"]).mul_(at.off_x).addcmul_(_series(down, fall), at.on_x)
    return bends.mul_(up).mul_(down).neg_().log1p_()


def _series(t: Tensor, memory: Tensor | None) -> Tensor:
    """``(e^t - 1 - t) / t²`` by Horner's rule."""
    terms = SERIES[t.dtype]
    total = torch.mul(t, 1 / factorial(terms + 1), out=memory).add_(1 / factorial(terms))
    for k in range(terms - 1, 1, -1):
        total = torch.addcmul(number_tensor(1 / factorial(k), t.dtype), total, t, out=total)
    return total


def _far_kl(block: Block, at: Sigmoids, apart: Tensor) -> Tensor:
    """``softplus(y) - softplus(x) - σ(x) (y - x)``, or the same of -x and -y, whichever cancels less.

    The difference of softplus is ``log1p((σ(y) - σ(x)) / σ(-y))``.
    """
    memory = block.memory
    side = torch.sign(block.gap, out=memory["side"]).neg_().add_(block.x).lt_(0)  # 1, or 0 for -x and -y
    on = torch.lerp(at.off_x, at.on_x, side, out=memory["up"])
    off = torch.lerp(at.on_y, at.off_y, side, out=memory["down"])
    sign = side.mul_(-2).add_(1)
    growth = torch.mul(sign, apart, out=memory["far"]).div_(off).log1p_()
    return growth.addcmul_(on, sign.mul_(block.gap), value=-1)


def _regret(block: Block, wanted: tuple[bool, bool]) -> Computed:
    """With ``w = 1 / (2 cosh x)`` and everything centred at the mean gap under w and the 1 beside it."""
    far = FAR[block.x.dtype]
    x, y = block.x, block.y
    too_far = _rows_beyond(far, x, y)
    if too_far is not None:
        x, y = torch.clamp(x, -far, far), torch.clamp(y, -far, far)
        block = block._replace(x=x, y=y, gap=x - y)
    read = _read_regret(block)
    values = torch.log1p(_centred(block, read))
    if too_far is not None:
        values.masked_fill_(too_far, torch.nan)
    return values, _regret_gradients(block, read, wanted) if any(wanted) else (None, None)


def _rows_beyond(far: float, *logits: Tensor) -> Tensor | None:
    """A column, True for rows with a logit beyond ``far``, or NaN; None if there is none."""
    ends = [float(end) for x in logits for end in torch.aminmax(x)]
    if all(-far <= end <= far for end in ends):
        return None
    return ~torch.stack([(x.abs().amax(1, True) <= far) for x in logits]).all(0)


class _Regret(NamedTuple):
    """What the value and the gradients of a regret share."""

    on: Tensor  # σ(2x)
    off: Tensor  # σ(-2x)
    weight: Tensor  # w
    ratio: Tensor  # e^gap
    total: Tensor  # 1 + Σ w


def _read_regret(block: Block) -> _Regret:
    memory = block.memory
    exp_x = torch.exp(block.x, out=memory["exp_x"])
    off = torch.addcmul(number_tensor(1.0, exp_x.dtype), exp_x, exp_x, out=memory["off"]).reciprocal_()
    weight = torch.mul(exp_x, off, out=memory["weight"])
    on = torch.mul(exp_x, weight, out=memory["on"])
    if block.where is not None:
        weight.mul_(block.where)
    ratio = torch.div(exp_x, torch.exp(block.y, out=memory["ratio"]), out=exp_x)
    return _Regret(on, off, weight, ratio, weight.sum(1, True).add_(1))


def _centred(block: Block, read: _Regret) -> Tensor:
    """``E[e^d] E[e^-d] - 1`` for ``d = gap - mean``, as ``zlpr_core._regret`` has it."""
    memory, weight, total = block.memory, read.weight, read.total
    mean = torch.mul(weight, block.gap, out=memory["grown"]).sum(1, True).div_(total)
    centred = torch.sub(block.gap, mean, out=memory["centred"])
    is_small = torch.abs(centred, out=memory["is_small"]).lt_(1)
    moved = torch.mul(read.ratio, torch.exp(-mean), out=memory["moved"])
    grown = torch.sub(moved, 1, out=memory["grown"])
    grown = torch.lerp(grown, centred.clamp_(-1, 1).expm1_(), is_small, out=grown)  # e^d - 1
    shrunk = torch.div(grown, moved, out=moved)  # 1 - e^-d
    up, down = torch.expm1(-mean), torch.expm1(mean)  # the 1, moved
    fall = torch.mul(weight, shrunk, out=memory["centred"]).sum(1, True).sub_(down)
    both = grown.mul_(weight).sum(1, True), grown.mul_(shrunk).sum(1, True)
    return (both[1] - up * down) / total - ((both[0] + up) / total) * (fall / total)


def _regret_gradients(block: Block, read: _Regret, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """By the softmax weights P, N and W of the two halves and of the floor."""
    memory, (on, off, weight, ratio, total) = block.memory, read
    positive = torch.mul(weight, ratio, out=memory["grown"])
    positive.div_(positive.sum(1, True).add_(1))
    negative = torch.div(weight, ratio, out=ratio)
    negative.div_(negative.sum(1, True).add_(1))
    in_q = torch.sub(negative, positive, out=memory["centred"]) if wanted[1] else None
    if not wanted[0]:
        return None, in_q
    floor = weight.div_(total)
    in_p = positive.sub_(floor).mul_(off).sub_(negative.sub_(floor).mul_(on)).mul_(2)
    return in_p, in_q


BLOCKS: dict[Divergence, Callable[[Block, tuple[bool, bool]], Computed]] = {
    JEFFREYS: _jeffreys,
    KL: _kl,
    REGRET: _regret,
}
