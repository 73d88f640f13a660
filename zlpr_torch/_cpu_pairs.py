"""The arithmetic of the divergences for a block of rows on a CPU: the values, and the gradients of each in its logits.

The formulas are those of ``zlpr_core``, by the operations that cost least. ``torch.where`` takes ten times as long as
``torch.lerp``, and ``torch.tanh`` as ``torch.sigmoid``; results go into memory that is there already, because new pages
take longer than arithmetic.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._divergences import JEFFREYS, KL, REGRET, Divergence

from ._cpu_terms import number_tensor

NEAR = 1.5
"""KL of logits closer than this is made of tanh and atanh, that of others a difference of softplus, which then loses no
digits."""

TANH = {torch.float32: [0.25] * 4, torch.float64: [0.25] * 7}
"""For ``_fraction`` of t²: ``(t/2) / tanh(t/2) - 1``, for ``|t| < NEAR``."""

ATANH = {dtype: [1.0] + [-float(k * k) for k in range(2, most)] for dtype, most in zip(TANH, (7, 13), strict=True)}
"""For ``_fraction`` of t²: ``1 - t / atanh(t)``, for ``|t| < 0.47``."""

FARTHEST = 64.0
"""Beyond it ``tanh(gap / 2)`` is 1."""

FAR = {torch.float32: 20.0, torch.float64: 170.0}
"""Up to here the exponentials of the regret can be multiplied with each other without a shift."""

Both = tuple[Tensor | None, Tensor | None]
"""Something of each of the two logit vectors."""

Computed = tuple[Tensor, Both, Both]
"""The values, the gradients, and where a loss of the logits needs them ``e^x`` and ``e^y``."""


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
    with_exponentials: bool = False


class Sigmoids(NamedTuple):
    """``σ`` of both logits and of their negatives."""

    on_x: Tensor
    off_x: Tensor
    on_y: Tensor
    off_y: Tensor


def _jeffreys(block: Block, wanted: tuple[bool, bool]) -> Computed:
    at = _sigmoids(block)
    apart = _apart(block, at)
    values = torch.mul(apart, block.gap, out=block.memory["grown"]).sum(1, True)
    exponentials = _exponentials(block.memory, at) if block.with_exponentials else (None, None)
    in_p = at.on_x.mul_(at.off_x).mul_(block.gap).add_(apart) if wanted[0] else None
    in_q = at.on_y.mul_(at.off_y).mul_(block.gap).add_(apart).neg_() if wanted[1] else None
    return values, (in_p, in_q), exponentials


def _exponentials(memory: Memory, at: Sigmoids) -> Both:
    return torch.div(at.on_x, at.off_x, out=memory["exp_x"]), torch.div(at.on_y, at.off_y, out=memory["exp_y"])


def _kl(block: Block, wanted: tuple[bool, bool]) -> Computed:
    """With both logits mirrored where x > 0, so that ``σ(x)`` is at most a half: KL is the same, and cancels less."""
    memory, one = block.memory, number_tensor(1.0, block.x.dtype)
    side = torch.neg(block.x, out=memory["side"]).ge_(0).mul_(2).sub_(1)  # -1 where mirrored
    x, y = torch.mul(block.x, side, out=memory["on_x"]), torch.mul(block.y, side, out=memory["on_y"])
    rise = torch.sub(y, x, out=memory["rise"])
    off_y = torch.neg(y, out=memory["off_y"]).sigmoid_()
    on_x, on_y = x.sigmoid_(), y.sigmoid_()
    off_x = torch.sub(one, on_x, out=memory["off_x"])
    apart = on_y.sub_(on_x)
    near = _near_kl(rise, on_x, off_x, memory)
    # softplus(y) - softplus(x) - σ(x) (y - x), in which the difference of softplus is one logarithm
    far = torch.div(apart, off_y, out=off_y).log1p_().addcmul_(on_x, rise, value=-1)
    values = torch.lerp(far, near, rise.abs_().lt_(NEAR), out=far).sum(1, True)
    in_p = on_x.mul_(off_x).mul_(block.gap) if wanted[0] else None
    return values, (in_p, apart.mul_(side) if wanted[1] else None), (None, None)


def _near_kl(rise: Tensor, on: Tensor, off: Tensor, memory: Memory) -> Tensor:
    """``2 atanh(s) - 2 σ(x) atanh(t)`` for ``t = tanh(rise / 2)`` and ``s = σ(x) t / (1 - σ(-x) t)``.

    These are the same softplus terms. Their first order cancels before anything is rounded:
    ``s - σ(x) t = σ(-x) s t``, and the rest is of third order.
    """
    t = torch.clamp(rise, -NEAR, NEAR, out=memory["t"])
    spare = torch.square(t, out=memory["spare"])
    bend = _fraction(spare, TANH[t.dtype], memory["bend"])
    t.div_(torch.add(number_tensor(2.0, t.dtype), bend, alpha=2, out=spare))
    s = torch.mul(t, on, out=memory["s"])
    bend.mul_(s)  # σ(x) (atanh(t) - t)
    t.mul_(off)
    one = number_tensor(1.0, t.dtype)
    s.div_(torch.sub(one, t, out=spare))
    curve = _fraction(torch.square(s, out=spare), ATANH[t.dtype], memory["curve"])
    t.addcdiv_(curve, torch.sub(one, curve, out=spare))  # and (atanh(s) - s) / s
    return s.mul_(t).sub_(bend).mul_(2)


def _fraction(square: Tensor, factors: list[float], memory: Tensor | None) -> Tensor:
    """``f1 square / (3 + f2 square / (5 + …))``."""
    odd = 2 * len(factors) - 1
    total = torch.add(number_tensor(odd, square.dtype), square, alpha=factors[-1] / (odd + 2), out=memory)
    for factor in factors[-2:0:-1]:
        odd -= 2
        total = torch.addcdiv(number_tensor(odd, square.dtype), square, total, value=factor, out=total)
    return torch.div(square, total, out=total).mul_(factors[0])


def _sigmoids(block: Block) -> Sigmoids:
    x, y, memory = block.x, block.y, block.memory
    return Sigmoids(
        torch.sigmoid(x, out=memory["on_x"]),
        torch.neg(x, out=memory["off_x"]).sigmoid_(),
        torch.sigmoid(y, out=memory["on_y"]),
        torch.neg(y, out=memory["off_y"]).sigmoid_(),
    )


def _apart(block: Block, at: Sigmoids) -> Tensor:
    """``σ(x) - σ(y) = tanh(gap / 2) (σ(x) σ(-y) + σ(-x) σ(y))``, with tanh from ``e^gap - 1``."""
    grown = torch.clamp(block.gap, -FARTHEST, FARTHEST, out=block.memory["grown"]).expm1_()
    apart = torch.mul(at.on_x, at.off_y, out=block.memory["apart"]).addcmul_(at.off_x, at.on_y)
    return apart.mul_(grown).div_(grown.add_(2))


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
    return values, _regret_gradients(block, read, wanted) if any(wanted) else (None, None), (None, None)


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


def _regret_gradients(block: Block, read: _Regret, wanted: tuple[bool, bool]) -> Both:
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
