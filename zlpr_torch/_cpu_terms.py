"""The terms of the two halves on a CPU, and everything else about a batch that is so small that calls cost the most."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zlpr_core._targets import read_targets

from ._namespace import xp

WIDE = (torch.float32, torch.float64)
"""The dtypes that compute; half precision is widened to float32 in the block."""


FEW = 2**13
"""Cells of a batch that is so small that a call takes longer than its arithmetic."""


def at_once(logits: Tensor, targets: Tensor, upstream: Any) -> tuple[Tensor, Tensor | None]:
    """Losses and gradient, as ``_cpu.swept`` gives them, of a small batch without options.

    A call takes a microsecond, the time of a thousand cells. So both halves are computed together, [2, rows, classes],
    though each cell of hard targets is in one only; every operation makes its own result, because buffers would take
    longer to find; and no function is called that can be spared.
    """
    dtype = logits.dtype if logits.dtype in WIDE else torch.float32
    none, side, other_side, one = _of_halves(dtype)
    wide = logits if logits.dtype == dtype else logits.to(dtype)
    share, illegal = targets if targets.dtype == dtype else targets.type_as(wide), None
    if targets.is_floating_point():
        illegal = illegal_rows(targets, dtype)
        share = share if illegal is None else share.clamp(0, 1)
        exponentials = torch.mul(wide, other_side).exp_()
    else:
        if targets.dtype != torch.bool:
            illegal = illegal_rows(share, dtype)
        exponentials = torch.addcmul(wide, wide, share, value=-2).exp_()  # NaN where a logit is infinite
    terms = torch.addcmul(none, share, side).mul_(exponentials)  # t e^-s and (1 - t) e^s
    sums = terms.sum(2, True)
    losses = torch.log1p(sums)
    if illegal is not None:
        losses.masked_fill_(illegal, torch.nan)
    if upstream is None:
        return losses, None
    gradient = terms.mul_(_signed(upstream, dtype) / sums.add_(one)).sum(0)
    return losses, gradient if logits.dtype == dtype else gradient.to(logits.dtype)


@lru_cache(maxsize=4)
def _of_halves(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``a`` and ``b`` of ``a + b t``, which is t and 1 - t; ``-b``, the signs of the exponents; and 1."""
    none, side, other_side = _column(0.0, 1.0, dtype), _column(1.0, -1.0, dtype), _column(-1.0, 1.0, dtype)
    return none, side, other_side, kept_number(1.0, dtype)


@lru_cache(maxsize=64)
def _column(positive: float, negative: float, dtype: torch.dtype) -> Tensor:
    """One number for each half, [2, 1, 1]."""
    with torch.inference_mode(mode=False):
        return torch.tensor([[[positive]], [[negative]]], dtype=dtype, device="cpu")


def _signed(upstream: Any, dtype: torch.dtype) -> Tensor:
    """The gradient falls with the terms of the positive half."""
    if isinstance(upstream, Tensor):
        return upstream * _column(-1.0, 1.0, dtype)
    return _column(-upstream, upstream, dtype)


def summed(negative: Tensor, positive: Tensor, upstream: Any) -> Tensor:
    """The losses of the two halves of whole rows, [2, rows, 1]. If there is an ``upstream``, ``negative`` becomes the
    gradient.

    Both halves go into one tensor as soon as they are small, so that what follows is called once for both.
    """
    sums = torch.stack((row_sums(positive), row_sums(negative)))
    losses = torch.log1p(sums)
    if upstream is not None:
        shares = as_upstream(upstream, sums.dtype) / sums.add_(number_tensor(1.0, sums.dtype))
        in_positive, in_negative = shares.unbind()
        negative.mul_(in_negative).addcmul_(positive, in_positive, value=-1)
    return losses


def as_upstream(upstream: Any, dtype: torch.dtype) -> Tensor:
    """As a tensor, if it is a number."""
    return upstream if isinstance(upstream, Tensor) else number_tensor(upstream, dtype)


def in_graph(
    logits: Tensor, targets: Tensor, upstream: Any, exponentials: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """As ``at_once``, for Dynamo to trace. ``exponentials`` are those of the logits, if a caller knows them."""
    if targets.is_floating_point():
        illegal = illegal_rows(targets, logits.dtype)
        share = targets if targets.dtype == logits.dtype else targets.to(logits.dtype)
        share = share if illegal is None else share.clamp(0, 1)
        negative, positive = soft_terms(torch.exp(logits) if exponentials is None else exponentials, share)
    else:
        share = as_bytes(targets).to(logits.dtype)
        illegal = None if targets.dtype == torch.bool else illegal_rows(share, logits.dtype)
        if exponentials is None:
            negative, positive = hard_terms(logits, share)
        else:  # exact: a number minus itself, or 0
            negative = torch.addcmul(exponentials, exponentials, share, value=-1)
            positive = share.div_(exponentials)
    # each half by itself: with both sums in one tensor Inductor keeps two arrays for backward instead of one
    in_positive, in_negative = row_sums(positive), row_sums(negative)
    losses = torch.log1p(in_positive) + torch.log1p(in_negative)
    losses = losses if illegal is None else torch.where(illegal, torch.nan, losses)
    if upstream is None:
        return losses, None
    return losses, negative * (upstream / (1 + in_negative)) - positive * (upstream / (1 + in_positive))


def row_sums(cells: Tensor) -> Tensor:
    """A column. In a graph in float64: Inductor adds a row up lane by lane (see ``_namespace``)."""
    if torch.compiler.is_compiling():
        return cells.sum(1, True, dtype=torch.float64).to(cells.dtype)
    return cells.sum(1, True)


def soft_terms(
    exponentials: Tensor, share: Tensor, negative: Tensor | None = None, positive: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``(1 - t) e^s`` and ``t e^-s`` for targets in [0, 1], in the given memory."""
    tiny = torch.finfo(share.dtype).tiny
    positive = torch.threshold(exponentials, tiny, 0.0, out=positive)  # below, digits are missing
    torch.div(share, positive, out=positive)
    # (1 - t) e^s; beyond a half, 1 - t is exact
    return torch.lerp(exponentials, number_tensor(0.0, share.dtype), share, out=negative), positive


def hard_terms(logits: Tensor, positive: Tensor, negative: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same where ``positive`` holds targets of 0 and 1: a cell has a term in one half, of one exponential."""
    negative = torch.addcmul(logits, logits, positive, value=-2, out=negative).exp_()  # NaN where a logit is infinite
    positive.mul_(negative)
    return negative.sub_(positive), positive  # exact: a number minus itself, or minus 0


def careful_terms(
    logits: Tensor, share: Tensor, negative: Tensor | None, positive: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same by two exponentials, and without ``0 * inf``."""
    positive = torch.neg(logits, out=positive).exp_().mul_(share).masked_fill_(share == 0, 0)
    negative = torch.exp(logits, out=negative).mul_(1 - share).masked_fill_(share == 1, 0)
    return negative, positive


def illegal_rows(targets: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A column, True for rows with an illegal target. None if the least and the largest are seen to be legal."""
    if not torch.compiler.is_compiling():
        least, most = torch.aminmax(targets)
        if least.item() >= 0 and most.item() <= 1:
            return None
    illegal: Tensor = ~read_targets(targets, dtype, xp=xp)[1].all(dim=1, keepdim=True)
    return illegal


def as_bytes(flags: Tensor) -> Tensor:
    """A large bool tensor as bytes of 0 and 1, of which a copy is faster; any other as it is.

    Without the clamp a mask of 0 and 255 that is viewed as bool, as NumPy and PyTorch allow, would count 255 times.
    """
    if flags.dtype != torch.bool or torch.compiler.is_compiling() or flags.numel() < 2**13:
        return flags
    return flags.view(torch.uint8).clamp(max=1)


def number_tensor(value: float, dtype: torch.dtype) -> Tensor:
    """As a tensor, which PyTorch would otherwise make of the number in each operation. Inductor sees a constant."""
    if torch.compiler.is_compiling():
        return torch.full((), value, dtype=dtype, device="cpu")
    return kept_number(value, dtype)


@lru_cache(maxsize=64)
def kept_number(value: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor(value, dtype=dtype, device="cpu")
