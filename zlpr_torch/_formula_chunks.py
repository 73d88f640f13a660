"""Chunks of logits by the core's formula: where there is no kernel, and the rows that a kernel leaves to it."""

import torch
from torch import Tensor

from zlpr_core._losses import slopes
from zlpr_core._namespace import compute_dtype
from zlpr_core._reduce import ShiftedSum, log_sum, sum_exp
from zlpr_core._terms import Halves, halves_of, is_movable

from ._layer import Chunk, Layer, Reader
from ._namespace import xp


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """That in which the core computes."""
    wide: torch.dtype = compute_dtype(dtype, xp=xp)
    return wide


def lies_by_class(layer: Layer, size: int) -> bool:
    """False: targets lie row by row."""
    return False


def reader(layer: Layer, size: int) -> Reader:
    """Rows of targets, made anew for each chunk where the layer has class ids."""
    return lambda chunk: chunk.with_targets(layer.targets.of(chunk.first, chunk.last), layer.targets)


def row_reader(layer: Layer) -> Reader:
    """The same for a chunk of all classes."""
    return reader(layer, layer.classes)


def write_sums(chunk: Chunk, to: Tensor) -> None:
    """Into [rows, 4]."""
    halves = halves_of(chunk.logits, chunk.targets, chunk.options, xp=xp)
    for place, half in enumerate(halves):
        to[:, 2 * place : 2 * place + 2] = torch.cat(sum_exp(half, axis=(1,), xp=xp), 1)


def gradient(chunk: Chunk, sums: Tensor, each: Tensor) -> Tensor:
    """By the sums of whole rows."""
    halves = halves_of(chunk.logits, chunk.targets, chunk.options, xp=xp)
    whole = as_halves(sums.to(sums_dtype(chunk.logits.dtype)))
    positive, negative = slopes(halves, whole, is_movable(chunk.logits, chunk.options.where, xp=xp), xp=xp)
    found: Tensor = (positive + negative) * each
    return found.to(chunk.logits.dtype)


def losses_and_gradient(chunk: Chunk, number: int) -> tuple[Tensor, Tensor]:
    """Of whole rows."""
    rows = len(chunk.logits)
    sums = chunk.logits.new_empty((rows, 4), dtype=sums_dtype(chunk.logits.dtype))
    write_sums(chunk, sums)
    return losses_of(sums), gradient(chunk, sums, sums.new_full((rows, 1), 1 / number))


def as_halves(sums: Tensor) -> Halves:
    """Of [rows, 4], as the core takes them."""
    shift_p, rest_p, shift_n, rest_n = sums.unsqueeze(-1).unbind(1)
    return Halves(ShiftedSum(shift_p, rest_p), ShiftedSum(shift_n, rest_n))


def losses_of(sums: Tensor) -> Tensor:
    """One value a row."""
    positive, negative = (log_sum(half, axis=(1,), xp=xp) for half in as_halves(sums))
    losses: Tensor = positive + negative
    return losses
