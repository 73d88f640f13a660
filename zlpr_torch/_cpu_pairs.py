"""The arithmetic of the divergences for a block of rows on a CPU: the values, and the gradients of each in its logits.

The formulas are those of ``zlpr_core``, by the operations that cost least. ``torch.where`` takes ten times as long as
``torch.lerp``, and ``torch.tanh`` as ``torch.sigmoid``; results go into memory that is there already, because new pages
take longer than arithmetic.
"""

from collections.abc import Callable
from itertools import zip_longest
from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._divergences import JEFFREYS, KL, REGRET, Divergence
from zlpr_core._logistic import NEAR, tanh_half

from ._cpu_memory import AnyMemory, NewMemory
from ._cpu_terms import number_tensor, row_sums

Quotient = tuple[list[float], list[float]]
"""The coefficients of numerator and denominator, lowest power first."""


def _coth(terms: int) -> Quotient:
    """In x²: ``(y coth y - 1) / x²`` for y = x / 2, from the fraction ``y coth y = 1 + y²/(3 + y²/(5 + …))``."""
    top, bottom = [1.0], [2.0 * terms + 1]
    for odd in range(2 * terms - 1, 1, -2):
        longer = [odd * b + 0.25 * t for b, t in zip_longest(bottom, [0.0, *top], fillvalue=0.0)]
        top, bottom = bottom, longer
    return [0.25 * t for t in top], bottom


COTH = {torch.float32: _coth(5), torch.float64: _coth(8)}
"""For ``|x| < NEAR``."""

COSH = {
    dtype: [2 / factorial(power) for power in range(2, last, 2)]
    for dtype, last in ((torch.float32, 12), (torch.float64, 20))
}
"""In d²: ``(e^(d/2) - e^(-d/2))² / d²``, for ``|d| < 1``."""

FARTHEST = 64.0
"""Beyond it ``tanh(gap / 2)`` is 1."""

LARGEST_LOGIT = {torch.float32: 20.0, torch.float64: 170.0}
"""The largest logit for which products of the regret's exponentials stay in range without a shift."""

Both = tuple[Tensor | None, Tensor | None]
"""One tensor for x and one for y; None where it is not wanted."""

Computed = tuple[Tensor, Both, Both]
"""The values, the gradients in x and in -y, and ``e^x`` and ``e^y`` if the losses of R-Drop can use them.

In -y, as its formula is that of x then, and to change the sign would take a pass.
"""


class Block(NamedTuple):
    """Some rows of two logit vectors, scaled, and 0 where masked."""

    x: Tensor
    y: Tensor
    gap: Tensor  # x - y
    where: Tensor | None
    memory: AnyMemory
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
    apart = _apart(block, Sigmoids(on_x, off_x, on_y, off_y))
    values = row_sums(torch.mul(apart, block.gap, out=memory["spare"]))
    in_x, exp_x = _one_side(block, apart, block.x, on_x, off_x, wanted=wanted[0])
    in_y, exp_y = _one_side(block, apart, block.y, on_y, off_y, wanted=wanted[1])
    return values, (in_x, in_y), (exp_x, exp_y)


def _one_side(block: Block, apart: Tensor, x: Tensor, on: Tensor, off: Tensor, *, wanted: bool) -> Both:
    """``σ(x) σ(-x) gap + apart`` in the memory of ``on``, and ``e^x`` in that of ``off``."""
    slope, exp = torch.mul(on, off, out=block.memory["spare"]) if wanted else None, None
    if block.with_exponentials:  # Inductor merges an exponential with that of `_sigmoids`
        exp = torch.exp(x) if torch.compiler.is_compiling() else torch.div(on, off, out=off)
    return None if slope is None else torch.addcmul(apart, slope, block.gap, out=on), exp


class Mirrored(NamedTuple):
    """Both logits from the side on which x is negative, ``σ(x)`` at most a half: KL is the same, and cancels less."""

    side: Tensor  # 1 where mirrored, -1 elsewhere
    rise: Tensor  # y - x
    on_x: Tensor
    on_y: Tensor
    off_y: Tensor


def _mirrored(block: Block) -> Mirrored:
    memory, dtype = block.memory, block.x.dtype
    side = torch.copysign(number_tensor(1.0, dtype), block.x, out=memory["apart"])
    rise = torch.mul(block.gap, side, out=memory["rise"])
    off_y, on_y = _sigmoids(torch.mul(block.y, side, out=memory["off_y"]), memory["off_y"], memory["on_y"])
    on_x = torch.copysign(block.x, number_tensor(-1.0, dtype), out=memory["on_x"]).sigmoid_()
    return Mirrored(side, rise, on_x, on_y, off_y)


def _kl(block: Block, wanted: tuple[bool, bool]) -> Computed:
    """Where ``|σ(-x) (y - x)| < NEAR``, ``log E[e^(R - E[R])]``, as in the core, of an R that is 0 in all other cells.

    There ``softplus(y) - softplus(x) - σ(x) (y - x)``, in which the difference of softplus is one logarithm.
    """
    side, rise, on, on_y, off_y = _mirrored(block)
    memory = block.memory
    above = torch.addcmul(rise, rise, on, value=-1, out=memory["above"])
    is_near = torch.abs(above, out=memory["is_near"]).lt_(NEAR)
    r = torch.mul(rise, is_near, out=memory["x"])  # the logits are not needed any more
    mean = torch.mul(r, on, out=memory["y"])
    above, below = _exp_minus_line(above.mul_(is_near), 1, memory), _exp_minus_line(mean, -1, memory)
    close = torch.lerp(below, above, on, out=memory["square"])
    apart = on_y.sub_(on)
    far = torch.div(apart, off_y, out=memory["odd"])
    cells = _either(is_near, close, far, far).log1p_()
    values = row_sums(cells.addcmul_(torch.sub(rise, r, out=rise), on, value=-1))
    slope = torch.addcmul(on, on, on, value=-1, out=on)
    if wanted[1]:
        near = above.sub_(below).add_(r).mul_(slope).div_(close.add_(1))
        apart = _either(is_near, near, apart, apart)
        apart = apart.mul_(side)
    return values, (slope.mul_(block.gap) if wanted[0] else None, apart if wanted[1] else None), (None, None)


def _exp_minus_line(x: Tensor, sign: int, memory: AnyMemory) -> Tensor:
    """``e^x - 1 - x`` for ``|x| < NEAR``, or with a ``sign`` of -1 the same of ``-x``; in the memory of x."""
    top, bottom = COTH[x.dtype]
    square = torch.square(x, out=memory["square"])
    odd, even = _polynomial(square, top, memory["odd"]), _polynomial(square, bottom, memory["even"])
    odd = torch.addcmul(even, odd, x, value=-2 * sign, out=odd)
    even.addcmul_(odd, x, value=-0.5 * sign)
    return torch.addcdiv(number_tensor(0.0, x.dtype), square.mul_(odd), even, value=0.5, out=x)


def _polynomial(x: Tensor, factors: list[float], memory: Tensor | None) -> Tensor:
    """From the constant on."""
    *rest, last, highest = factors
    total = torch.add(number_tensor(last, x.dtype), x, alpha=highest, out=memory)
    for factor in rest[::-1]:
        total = torch.addcmul(number_tensor(factor, x.dtype), x, total, out=total)
    return total


def _sigmoids(x: Tensor, on: Tensor | None, off: Tensor | None) -> tuple[Tensor, Tensor]:
    """``σ(x)`` and ``σ(-x)``, in the given memory: ``on`` may be x.

    Eagerly by two sigmoids, because ``torch.exp`` takes three times as long (torch 2.13). In a graph both take the
    same, and one exponential serves both.
    """
    if torch.compiler.is_compiling():
        exp = torch.exp(x)
        other = 1 / (1 + exp)
        return exp * other, other
    other = torch.neg(x, out=off).sigmoid_()
    return torch.sigmoid(x, out=on), other


def _either(flags: Tensor, yes: Tensor, no: Tensor, memory: Tensor) -> Tensor:
    """``yes`` where ``flags`` are 1, ``no`` where they are 0.

    Eagerly by lerp, as ``torch.where`` takes ten times as long. An infinity that is not taken gives NaN then, and
    ``repair`` computes that row.
    """
    if torch.compiler.is_compiling():
        return torch.where(flags > 0, yes, no)
    return torch.lerp(no, yes, flags, out=memory)


def _apart(block: Block, at: Sigmoids) -> Tensor:
    """``σ(x) - σ(y) = tanh(gap / 2) (σ(x) σ(-y) + σ(-x) σ(y))``, with tanh from ``e^gap - 1``."""
    if torch.compiler.is_compiling():
        return _apart_in_a_graph(block.gap, at)
    grown = torch.clamp(block.gap, -FARTHEST, FARTHEST, out=block.memory["spare"]).expm1_()
    apart = torch.mul(at.on_x, at.off_y, out=block.memory["apart"]).addcmul_(at.off_x, at.on_y)
    return apart.mul_(grown).div_(grown.add_(2))


def _apart_in_a_graph(gap: Tensor, at: Sigmoids) -> Tensor:
    """The same without ``expm1``, which Inductor takes for ``e^x - 1`` (torch 2.13). From 1 apart on, a difference."""
    more, less = at.on_x * at.off_y, at.off_x * at.on_y
    return torch.where(gap.abs() < 1, (more + less) * tanh_half(gap.clamp(-1, 1)), more - less)


def _regret(block: Block, wanted: tuple[bool, bool]) -> Computed:
    """With ``w = 1 / (2 cosh x)`` and everything centred at the mean gap under w and the 1 beside it."""
    largest = LARGEST_LOGIT[block.x.dtype]
    x, y = block.x, block.y
    too_large = _rows_beyond(largest, x, y)
    if too_large is not None:
        x, y = torch.clamp(x, -largest, largest), torch.clamp(y, -largest, largest)
        block = block._replace(x=x, y=y, gap=x - y)
    read = _read_regret(block)
    values = torch.log1p(_centred(block, read))
    if too_large is not None:
        values.masked_fill_(too_large, torch.nan)
    return values, _regret_gradients(block, read, wanted) if any(wanted) else (None, None), (None, None)


def _rows_beyond(largest: float, *logits: Tensor) -> Tensor | None:
    """A column, True for rows with a logit beyond ``largest``, or NaN; None if values can be read and there is none."""
    if torch.compiler.is_compiling():
        return ~((logits[0].abs() <= largest) & (logits[1].abs() <= largest)).all(1, True)
    ends = [float(end) for x in logits for end in torch.aminmax(x)]
    if all(-largest <= end <= largest for end in ends):
        return None
    return ~torch.stack([(x.abs().amax(1, True) <= largest) for x in logits]).all(0)


class _Regret(NamedTuple):
    """What the value and the gradients of a regret share. Sums are columns."""

    on: Tensor  # σ(2x)
    off: Tensor  # σ(-2x)
    weight: Tensor  # w
    positive: Tensor  # w e^gap
    negative: Tensor  # w e^-gap
    total: Tensor  # 1 + Σ w
    positive_total: Tensor  # 1 + Σ w e^gap
    negative_total: Tensor


def _read_regret(block: Block) -> _Regret:
    memory = block.memory
    exp_x = torch.exp(block.x, out=memory["exp_x"])
    off = torch.addcmul(number_tensor(1.0, exp_x.dtype), exp_x, exp_x, out=memory["off"]).reciprocal_()
    weight = torch.mul(exp_x, off, out=memory["weight"])
    on = torch.mul(exp_x, weight, out=memory["on"])
    if block.where is not None:
        weight.mul_(block.where)
    ratio = torch.div(exp_x, torch.exp(block.y, out=memory["exp_y"]), out=exp_x)
    positive = torch.mul(weight, ratio, out=memory["positive"])
    negative = torch.div(weight, ratio, out=ratio)
    totals = [row_sums(terms).add_(1) for terms in (weight, positive, negative)]
    return _Regret(on, off, weight, positive, negative, *totals)


def _centred(block: Block, read: _Regret) -> Tensor:
    """``E[e^d] E[e^-d] - 1`` for ``d = gap - mean``: ``A + B C``.

    ``B = E[e^d] - 1`` and ``C = E[e^-d] - 1`` are at least 0, because E[d] is, and their sum A is an expectation of
    squares, in which nothing cancels. B and C are rounded to eps; kept within [0, A], they cannot spoil a small value.
    The gap is not needed after it, nor ``e^y``: their memory is used again.
    """
    memory, total = block.memory, read.total
    mean = row_sums(torch.mul(read.weight, block.gap, out=memory["exp_y"])).div_(total)
    exp, exp_of_negative = torch.exp(mean), torch.exp(-mean)
    centred = torch.sub(block.gap, mean, out=memory["gap"])
    by_exp = torch.mul(read.positive, exp_of_negative, out=memory["apart"])
    by_exp.addcmul_(read.negative, exp).sub_(read.weight, alpha=2)
    one = _squares(mean, exp + exp_of_negative - 2, number_tensor(1.0, mean.dtype), NewMemory())
    squares = row_sums(_squares(centred, by_exp, read.weight, memory)).add_(one).div_(total)
    high, low = read.positive_total * exp_of_negative / total - 1, read.negative_total * exp / total - 1
    return squares + torch.minimum(high.clamp_(0), squares) * torch.minimum(low.clamp_(0), squares)


def _squares(d: Tensor, by_exp: Tensor, weight: Tensor, memory: AnyMemory) -> Tensor:
    """``w (e^(d/2) - e^(-d/2))²`` in the memory of d; ``by_exp`` is the same by exponentials, taken from 1 on."""
    is_small = torch.abs(d, out=memory["is_small"]).lt_(1)
    square = d.square_()
    near = _polynomial(square, COSH[d.dtype], memory["exp_y"]).mul_(square).mul_(weight)
    return _either(is_small, near, by_exp, by_exp)


def _regret_gradients(block: Block, read: _Regret, wanted: tuple[bool, bool]) -> Both:
    """By the softmax weights P, N and W of the two halves and of the floor."""
    memory = block.memory
    positive, negative = read.positive.div_(read.positive_total), read.negative.div_(read.negative_total)
    in_y = torch.sub(positive, negative, out=memory["apart"]) if wanted[1] else None
    if not wanted[0]:
        return None, in_y
    floor = read.weight.div_(read.total)
    in_x = positive.sub_(floor).mul_(read.off).sub_(negative.sub_(floor).mul_(read.on)).mul_(2)
    return in_x, in_y


BLOCKS: dict[Divergence, Callable[[Block, tuple[bool, bool]], Computed]] = {
    JEFFREYS: _jeffreys,
    KL: _kl,
    REGRET: _regret,
}
