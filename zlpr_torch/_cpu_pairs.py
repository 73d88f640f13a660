"""The arithmetic of the divergences for a block of rows on a CPU: the values, and the gradients of each in its logits.

The formulas are those of ``zlpr_core``, by the operations that cost least. ``torch.where`` takes ten times as long as
``torch.lerp``, and ``torch.tanh`` as ``torch.sigmoid``; results go into memory that is there already, because new pages
take longer than arithmetic.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._divergences import JEFFREYS, KL, REGRET, Divergence
from zlpr_core._logistic import exp_minus_one, tanh_half

from ._cpu_terms import number_tensor, row_sums

NEAR = 1.5
"""KL of logits closer than this is made of tanh and atanh, that of others a difference of softplus, which then loses no
digits."""


def _quotient(factors: list[float]) -> tuple[list[float], list[float]]:
    """``f1 / (3 + f2 x / (5 + f3 x / …))`` as two polynomials in x, of which the second is divided by."""
    top, bottom = [1.0], [2.0 * len(factors) + 1]
    for odd, factor in zip(range(2 * len(factors) - 1, 1, -2), factors[:0:-1], strict=True):
        longer = [odd * b + factor * t for b, t in zip_longest(bottom, [0.0, *top], fillvalue=0.0)]
        top, bottom = bottom, longer
    return [factors[0] * t for t in top], bottom


HALF = {torch.float32: _quotient([0.25] * 4), torch.float64: _quotient([0.25] * 7)}
"""In t²: ``((t/2) / tanh(t/2) - 1) / t²``, for ``|t| < NEAR``."""


def _atanh(terms: int) -> tuple[list[float], list[float]]:
    """In t²: ``(atanh(t) / t - 1) / t²``, from the continued fraction of ``t / atanh(t)``."""
    top, bottom = _quotient([1.0] + [-float(k * k) for k in range(2, terms)])
    return top, [b - t for b, t in zip_longest(bottom, [0.0, *top], fillvalue=0.0)]


ATANH = {torch.float32: _atanh(7), torch.float64: _atanh(13)}
"""For ``|t| < 0.47``."""

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
    memory = block.memory
    on_x, off_x = _sigmoids(block.x, memory["on_x"], memory["off_x"])
    on_y, off_y = _sigmoids(block.y, memory["on_y"], memory["off_y"])
    at = Sigmoids(on_x, off_x, on_y, off_y)
    apart = _apart(block, at)
    values = row_sums(torch.mul(apart, block.gap, out=memory["grown"]))
    exponentials = _exponentials(block, at) if block.with_exponentials else (None, None)
    in_p = at.on_x.mul_(at.off_x).mul_(block.gap).add_(apart) if wanted[0] else None
    in_q = at.on_y.mul_(at.off_y).mul_(block.gap).add_(apart).neg_() if wanted[1] else None
    return values, (in_p, in_q), exponentials


def _exponentials(block: Block, at: Sigmoids) -> Both:
    memory = block.memory
    if torch.compiler.is_compiling():
        return torch.exp(block.x), torch.exp(block.y)  # which are there
    return torch.div(at.on_x, at.off_x, out=memory["exp_x"]), torch.div(at.on_y, at.off_y, out=memory["exp_y"])


def _kl(block: Block, wanted: tuple[bool, bool]) -> Computed:
    """With both logits mirrored where x > 0, so that ``σ(x)`` is at most a half: KL is the same, and cancels less."""
    memory, one = block.memory, number_tensor(1.0, block.x.dtype)
    side = torch.neg(block.x, out=memory["side"]).ge_(0)
    side = torch.add(number_tensor(-1.0, side.dtype), side, alpha=2, out=side)  # -1 where mirrored
    x, y = torch.mul(block.x, side, out=memory["on_x"]), torch.mul(block.y, side, out=memory["on_y"])
    rise = torch.sub(y, x, out=memory["rise"])
    on_y, off_y = _sigmoids(y, y, memory["off_y"])
    on = x.sigmoid_()
    off = torch.sub(one, on, out=memory["off_x"])
    is_near = torch.abs(rise, out=memory["is_near"]).lt_(NEAR)
    r, line = _exp_minus_line(rise, memory)
    # σ(x) (e^rise - 1), by which 1 + e^y is larger than 1 + e^x
    grown = _either(is_near, r.add_(line).mul_(on), on_y.sub_(on).div_(off_y), on_y)
    near = line.mul_(on).addcmul_(*_line_minus_log(grown, memory), value=-1)
    # softplus(y) - softplus(x) - σ(x) (y - x), in which the difference of softplus is one logarithm
    far = torch.log1p(grown, out=off_y).addcmul_(on, rise, value=-1)
    values = row_sums(_either(is_near, near, far, far))
    in_q = torch.mul(grown, off, out=memory["t"]).div_(grown.add_(one)).mul_(side) if wanted[1] else None
    return values, (on.mul_(off).mul_(block.gap) if wanted[0] else None, in_q), (None, None)


def _exp_minus_line(rise: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """``r`` and ``e^r - 1 - r`` for r = rise where it is near 0."""
    top, bottom = HALF[rise.dtype]
    r = torch.clamp(rise, -NEAR, NEAR, out=memory["t"])
    square = torch.square(r, out=memory["spare"])
    odd, even = _polynomial(square, top, memory["odd"]), _polynomial(square, bottom, memory["even"])
    odd = torch.addcmul(even, odd, r, value=-2, out=odd)
    return r, square.mul_(odd).div_(even.addcmul_(odd, r, value=-0.5)).mul_(0.5)


def _line_minus_log(v: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """Two factors of ``v - log(1 + v)``: ``w = v / (2 + v)`` and what is left, by ``log(1 + v) = 2 atanh(w)``."""
    top, bottom = ATANH[v.dtype]
    w = torch.div(v, torch.add(v, 2, out=memory["t"]), out=memory["w"])
    square = torch.square(w, out=memory["t"])
    odd, even = _polynomial(square, top, memory["odd"]), _polynomial(square, bottom, memory["even"])
    return w, torch.addcdiv(v, odd.mul_(square), even, value=-2, out=odd)


def _polynomial(x: Tensor, factors: list[float], memory: Tensor | None) -> Tensor:
    """From the constant on."""
    *rest, last, highest = factors
    total = torch.add(number_tensor(last, x.dtype), x, alpha=highest, out=memory)
    for factor in rest[::-1]:
        total = torch.addcmul(number_tensor(factor, x.dtype), x, total, out=total)
    return total


def _sigmoids(x: Tensor, on: Tensor | None, off: Tensor | None) -> tuple[Tensor, Tensor]:
    """``σ(x)`` and ``σ(-x)``, in the given memory: ``on`` may be x.

    PyTorch's exp takes three times as long as its sigmoid. Inductor's take the same, and one exponential less there.
    """
    if torch.compiler.is_compiling():
        exp = torch.exp(x)
        other = 1 / (1 + exp)
        return exp * other, other
    other = torch.neg(x, out=off).sigmoid_()
    return torch.sigmoid(x, out=on), other


def _either(flags: Tensor, yes: Tensor, no: Tensor, memory: Tensor) -> Tensor:
    """``yes`` where ``flags`` are 1 and not 0: by a select where Inductor makes one, which in eager code takes long."""
    if torch.compiler.is_compiling():
        return torch.where(flags > 0, yes, no)
    return torch.lerp(no, yes, flags, out=memory)


def _apart(block: Block, at: Sigmoids) -> Tensor:
    """``σ(x) - σ(y) = tanh(gap / 2) (σ(x) σ(-y) + σ(-x) σ(y))``, with tanh from ``e^gap - 1``."""
    if torch.compiler.is_compiling():
        return _apart_in_a_graph(block.gap, at)
    grown = torch.clamp(block.gap, -FARTHEST, FARTHEST, out=block.memory["grown"]).expm1_()
    apart = torch.mul(at.on_x, at.off_y, out=block.memory["apart"]).addcmul_(at.off_x, at.on_y)
    return apart.mul_(grown).div_(grown.add_(2))


def _apart_in_a_graph(gap: Tensor, at: Sigmoids) -> Tensor:
    """The same without ``expm1``, which Inductor takes for ``e^x - 1`` (torch 2.13): far apart, a difference."""
    more, less = at.on_x * at.off_y, at.off_x * at.on_y
    return torch.where(gap.abs() < 1, (more + less) * tanh_half(gap.clamp(-1, 1)), more - less)


def _expm1(x: Tensor) -> Tensor:
    """``e^x - 1``, over x if this is eager."""
    if torch.compiler.is_compiling():
        return torch.where(x.abs() < 1, exp_minus_one(x.clamp(-1, 1)), torch.exp(x) - 1)
    return x.expm1_()


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
    """A column, True for rows with a logit beyond ``far``, or NaN; None if it is seen that there is none."""
    if torch.compiler.is_compiling():
        return ~((logits[0].abs() <= far) & (logits[1].abs() <= far)).all(1, True)
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
    return _Regret(on, off, weight, ratio, row_sums(weight).add_(1))


def _centred(block: Block, read: _Regret) -> Tensor:
    """``E[e^d] E[e^-d] - 1`` for ``d = gap - mean``, as ``zlpr_core._regret`` has it."""
    memory, weight, total = block.memory, read.weight, read.total
    mean = row_sums(torch.mul(weight, block.gap, out=memory["grown"])).div_(total)
    centred = torch.sub(block.gap, mean, out=memory["centred"])
    is_small = torch.abs(centred, out=memory["is_small"]).lt_(1)
    moved = torch.mul(read.ratio, torch.exp(-mean), out=memory["moved"])
    grown = torch.sub(moved, 1, out=memory["grown"])
    grown = _either(is_small, _expm1(centred.clamp_(-1, 1)), grown, grown)  # e^d - 1
    shrunk = torch.div(grown, moved, out=moved)  # 1 - e^-d
    up, down = _expm1(-mean), _expm1(mean.clone())  # the 1, moved
    fall = row_sums(torch.mul(weight, shrunk, out=memory["centred"])).sub_(down)
    both = row_sums(grown.mul_(weight)), row_sums(grown.mul_(shrunk))
    return (both[1] - up * down) / total - ((both[0] + up) / total) * (fall / total)


def _regret_gradients(block: Block, read: _Regret, wanted: tuple[bool, bool]) -> Both:
    """By the softmax weights P, N and W of the two halves and of the floor."""
    memory, (on, off, weight, ratio, total) = block.memory, read
    positive = torch.mul(weight, ratio, out=memory["grown"])
    positive.div_(row_sums(positive).add_(1))
    negative = torch.div(weight, ratio, out=ratio)
    negative.div_(row_sums(negative).add_(1))
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
