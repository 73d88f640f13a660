"""The terms of the two halves on a CPU, and everything else about a batch that is so small that calls cost the most."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zlpr_core._targets import read_targets

from ._namespace import xp

WIDE = (torch.float32, torch.float64)
"""The dtypes that compute; half precision is widened to float32 in the block."""


def at_once(
    logits: Tensor, targets: Tensor, upstream: Any, exponentials: Tensor | None, *, halves: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses and gradient, as ``_cpu.Sweep`` gives them, of a batch that is one block and has no options.

    A call takes a microsecond, the time of a thousand cells. So every operation makes its own result, because buffers
    would take longer to find, and no function is called that can be spared.
    """
    dtype = logits.dtype if logits.dtype in WIDE else torch.float32
    wide = logits if logits.dtype == dtype else logits.to(dtype)
    negative, positive, illegal = _terms(wide, targets, exponentials)
    losses = summed(negative, positive, upstream, halves=halves)
    if illegal is not None:
        losses.masked_fill_(illegal, torch.nan)
    if upstream is None:
        return losses, None
    return losses, negative if logits.dtype == dtype else negative.to(logits.dtype)


def summed(negative: Tensor, positive: Tensor, upstream: Any, *, halves: bool) -> Tensor:
    """The losses of whole rows from their terms. If there is an ``upstream``, ``negative`` becomes the gradient."""
    dtype, positive_sum, negative_sum = negative.dtype, positive.sum(1, True), negative.sum(1, True)
    losses = joined(torch.log1p(positive_sum), torch.log1p(negative_sum), halves=halves)
    if upstream is not None:
        one, (in_positive, in_negative) = number_tensor(1.0, dtype), of_halves(upstream, dtype, halves=halves)
        negative.mul_(in_negative / negative_sum.add_(one))
        negative.addcmul_(positive, in_positive / positive_sum.add_(one), value=-1)
    return losses


def _terms(logits: Tensor, targets: Tensor, exponentials: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """``(1 - t) e^s``, ``t e^-s`` and ``illegal_rows``. ``exponentials`` of the logits, if a caller knows them."""
    if targets.is_floating_point():
        illegal = illegal_rows(targets, logits.dtype)
        share = targets if targets.dtype == logits.dtype else targets.to(logits.dtype)
        share = share if illegal is None else share.clamp(0, 1)
        return *soft_terms(torch.exp(logits) if exponentials is None else exponentials, share), illegal
    positive = as_bytes(targets).to(logits.dtype)
    illegal = None if targets.dtype == torch.bool else illegal_rows(positive, logits.dtype)
    if exponentials is None:
        return *hard_terms(logits, positive), illegal
    return torch.lerp(exponentials, number_tensor(0.0, logits.dtype), positive), positive.div_(exponentials), illegal


def joined(positive: Tensor, negative: Tensor, *, halves: bool) -> Tensor:
    """Two columns as the losses: one for each half, or their sum."""
    return torch.cat([positive, negative], 1) if halves else positive.add_(negative)


def of_halves(upstream: Any, dtype: torch.dtype, *, halves: bool) -> tuple[Tensor, Tensor]:
    """The upstream gradients of the positive and of the negative half. ``upstream`` is a number or has columns."""
    each = upstream if isinstance(upstream, Tensor) else number_tensor(upstream, dtype)
    return (each[:, :1], each[:, 1:]) if halves else (each, each)


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
    """A column, True for rows with an illegal target. None if the least and the largest show that all are legal."""
    least, most = torch.aminmax(targets)
    if least.item() >= 0 and most.item() <= 1:
        return None
    illegal: Tensor = ~read_targets(targets, dtype, xp=xp)[1].all(dim=1, keepdim=True)
    return illegal


def as_bytes(flags: Tensor) -> Tensor:
    """A large bool tensor as bytes of 0 and 1, of which a copy is faster; any other as it is.

    Without the clamp a mask of 0 and 255 that is viewed as bool, as NumPy and PyTorch allow, would count 255 times.
    """
    if flags.dtype != torch.bool or flags.numel() < 2**13:
        return flags
    return flags.view(torch.uint8).clamp(max=1)


@lru_cache(maxsize=64)
def number_tensor(value: float, dtype: torch.dtype) -> Tensor:
    """As a tensor, which PyTorch would otherwise make of the number in each operation."""
    with torch.inference_mode(mode=False):
        return torch.tensor(value, dtype=dtype, device="cpu")
