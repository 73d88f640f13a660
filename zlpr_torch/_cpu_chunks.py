"""Chunks of logits on a CPU, as ``_cpu`` computes a block: but for the rows where that is not exact, by the core."""

import torch
from torch import Tensor

from zlpr_core._options import Options
from zlpr_core._terms import Halves

from . import _cpu, _cpu_ids, _formula_chunks
from ._cpu_ids import Positives
from ._layer import Chunk, Layer, Reader


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """The kernel gives logarithms, which in float32 would cost the sums their digits."""
    return torch.float64


def lies_by_class(layer: Layer, size: int) -> bool:
    """True beside class ids alone, if there are fewer rows than classes in a chunk.

    The products of these take a tenth less time then, on two cores; of more rows, a little longer.
    """
    return layer.has_ids_alone and len(layer.input) < size


def reader(layer: Layer, size: int) -> Reader:
    """Positives if nothing but class ids says what a cell counts, else rows of targets."""
    ids = layer.targets.ids
    if ids is None or not layer.has_ids_alone:
        return _formula_chunks.reader(layer, size)
    positives = Positives.of(ids, layer.classes).split(max(layer.classes, 1), size)
    return lambda chunk: chunk._replace(targets=next(positives))


row_reader = _formula_chunks.row_reader


def write_sums(chunk: Chunk, to: Tensor) -> None:
    """By the kernel, but for the rows where that would lose digits."""
    if not _has_factors(chunk):
        _formula_chunks.write_sums(chunk, to)
        return
    logs = _logs_of_sums(chunk).double()
    shift = logs.floor()
    rest = torch.where(logs == torch.inf, 0.0, torch.expm1(logs - shift))
    torch.cat([shift[0], rest[0], shift[1], rest[1]], 1, out=to)
    redo = (~are_in_range(chunk, to)).nonzero()[:, 0]
    if len(redo):
        exact = to[redo]
        _formula_chunks.write_sums(_some(chunk, redo), exact)
        to[redo] = exact


def _logs_of_sums(chunk: Chunk) -> Tensor:
    """By a kernel."""
    if isinstance(chunk.targets, Positives):
        return _cpu_ids.logs_of_sums(chunk.logits, chunk.targets)
    return _cpu.swept(chunk.logits, chunk.targets, _spread(chunk), None)[0]


def _spread(chunk: Chunk) -> Options:
    """The options a cell at a time, as the kernel takes them."""
    if chunk.options.are_default:
        return chunk.options
    shape = chunk.logits.shape
    return Options._make([o.expand(shape) if isinstance(o, Tensor) else o for o in chunk.options])


def _has_factors(chunk: Chunk) -> bool:
    """False if the options are such that the kernel leaves every row to the core."""
    return chunk.options.are_default or _cpu.are_factors(_spread(chunk))


def are_in_range(chunk: Chunk, sums: Tensor) -> Tensor:
    """The rows with sums that the kernel can divide by exactly."""
    limit = _cpu.LIMIT[chunk.logits.dtype]
    return ((sums[:, ::2] < limit) & (sums[:, 1::2] == sums[:, 1::2])).all(1)


def _some(chunk: Chunk, rows: Tensor) -> Chunk:
    """For the core, which takes rows of targets, and logits where the kernel has left exponentials."""
    if isinstance(chunk.targets, Positives):
        return chunk._replace(targets=chunk.targets.targets(chunk.logits)[rows], logits=chunk.product(rows))
    return chunk.some(rows)


def gradient(chunk: Chunk, sums: Tensor, each: Tensor) -> Tensor:
    """By the sums of whole rows."""
    if not _has_factors(chunk):
        return _formula_chunks.gradient(chunk, sums, each)
    found, finite = _by_kernel(chunk, _formula_chunks.as_halves(sums), each)
    redo = (~(finite & are_in_range(chunk, sums))).nonzero()[:, 0]
    if len(redo):
        found[redo] = _formula_chunks.gradient(_some(chunk, redo), sums[redo], each[redo])
    return found


def _by_kernel(chunk: Chunk, sums: Halves, each: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and which rows of it are finite: not one with an infinite logit, which may have a small loss."""
    whole = [each / (torch.exp(half.shift) * (1 + half.rest)) for half in sums]
    upstream = torch.stack(whole).to(chunk.logits.dtype)
    if isinstance(chunk.targets, Positives):  # an infinite logit has no gradient here, or an infinite sum
        gradient = _cpu_ids.gradient(chunk, upstream)
        return gradient, torch.ones(len(gradient), dtype=torch.bool, device="cpu")
    totals, gradient = _cpu.Sweep(chunk.logits, chunk.targets, _spread(chunk), upstream, of_part=True).run()
    return gradient, totals.isfinite().flatten()


def losses_and_gradient(chunk: Chunk, number: int) -> tuple[Tensor, Tensor]:
    """Of whole rows."""
    losses, gradient = _cpu.swept(chunk.logits, chunk.targets, _spread(chunk), 1 / number)
    return losses.sum(0)[:, 0], gradient
