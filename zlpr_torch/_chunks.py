"""A linear layer and its loss where the logits do not exist at once: the two sweeps over chunks of the classes.

The first sweep sums each chunk and merges the sums; the second computes the logits anew and turns them into gradients,
by the sums of whole rows. On a CPU a chunk is computed as ``_cpu`` computes a block, elsewhere by the core's formula.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zlpr_core._indices import Ids, part_of_ids
from zlpr_core._losses import slopes
from zlpr_core._options import Options
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum, log_sum, sum_exp
from zlpr_core._targets import prepare_targets
from zlpr_core._terms import Halves, halves_of, is_movable

from . import _cpu, _cpu_ids
from ._cpu_ids import Positives
from ._layout import some_rows
from ._namespace import xp

Hook = Callable[[slice, Tensor], None]


class Targets(NamedTuple):
    """Targets of all classes, or the ids that stand for them."""

    dense: Tensor | None
    ids: Ids | None
    label_smoothing: float | None = 0.0
    ignore_index: float | None = None

    def of(self, first: int, last: int) -> Tensor:
        """Those of some classes."""
        if self.dense is not None:
            return self.dense[:, first:last]
        assert self.ids is not None
        hot: Tensor = part_of_ids(self.ids, first, last - first, xp=xp)
        return hot

    def prepared(self, targets: Tensor, where: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Targets of some logits and their mask, with ``label_smoothing`` and ``ignore_index`` worked in."""
        given = {"label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index}
        return prepare_targets(targets, where, logits, **given, xp=xp)

    def of_rows(self, rows: slice) -> "Targets":
        """Those of some rows."""
        ids = None if self.ids is None else Ids(*[some_rows(part, rows) for part in self.ids])
        return self._replace(dense=some_rows(self.dense, rows), ids=ids)


class Layer(NamedTuple):
    """A linear layer, and what its logits are compared with."""

    input: Tensor  # [rows, features], in the dtype that computes
    weight: Tensor  # [classes, features]
    bias: Tensor | None
    targets: Targets
    options: Options  # numbers, or tensors of two axes, each of size 1 or whole
    rounded: torch.dtype | None = None  # what autocast would round inputs and weights to

    @property
    def classes(self) -> int:
        return self.weight.shape[0]

    def of_rows(self, rows: slice) -> "Layer":
        """Some of them."""
        options = Options._make([some_rows(o, rows) if _has_rows(o) else o for o in self.options])
        return self._replace(input=self.input[rows], targets=self.targets.of_rows(rows), options=options)

    def weights(self, first: int, last: int) -> Tensor:
        """Of some classes, in the dtype that computes."""
        weight = self.weight[first:last]
        return (weight if self.rounded is None else weight.to(self.rounded)).to(self.input.dtype)


class Chunk(NamedTuple):
    """Some classes of all rows."""

    first: int
    last: int
    weights: Tensor
    logits: Tensor
    targets: Any  # rows of them, or Positives
    options: Options
    memory: Any = None  # as much as the logits take, for who computes by Positives

    def some(self, rows: Tensor) -> "Chunk":
        """Of some rows."""
        if isinstance(self.targets, Positives):
            return self._replace(targets=self.targets.targets(self.logits)).some(rows)
        options = Options._make([some_rows(o, rows) if _has_rows(o) else o for o in self.options])
        return self._replace(logits=self.logits[rows], targets=some_rows(self.targets, rows), options=options)


def _has_rows(option: Any) -> bool:
    return isinstance(option, Tensor) and option.shape[0] > 1


def chunks(
    layer: Layer, size: int, *, by_ids: bool = False, kept: Tensor | None = None, is_made: bool = False
) -> Iterator[Chunk]:
    """One after another; their logits lie in the same memory, or each in its part of what is ``kept``.

    ``by_ids`` allows Positives for targets. ``is_made`` says that the logits are there from the first sweep.
    """
    rows = layer.input.shape[0]
    positives = _positives(layer) if by_ids else None
    memory = layer.input.new_empty(rows * size if kept is None else 0)
    spare = layer.input.new_empty(0 if positives is None else rows * size)
    for first in range(0, max(layer.classes, 1), size):  # a process may have none of the classes of a group
        last = min(first + size, layer.classes)
        weights, own = layer.weights(first, last), memory if kept is None else kept[first:last].view(-1)
        out = own[: rows * (last - first)].view(rows, last - first)
        if is_made:
            pass
        elif layer.bias is None:
            torch.mm(layer.input, weights.t(), out=out)
        else:
            torch.addmm(layer.bias[first:last].to(out.dtype), layer.input, weights.t(), out=out)
        options = layer.options.of_classes(first, last, layer.classes)
        if positives is not None:
            free = spare[: out.numel()].view_as(out)
            yield Chunk(first, last, weights, out, positives.among(first, last), options, free)
            continue
        targets, where = layer.targets.prepared(layer.targets.of(first, last), options.where, out)
        yield Chunk(first, last, weights, out, targets, options._replace(where=where))


def _positives(layer: Layer) -> Positives | None:
    """If the targets are ids, all legal, and nothing but these says what a cell counts."""
    ids = layer.targets.ids
    if ids is None or not layer.input.is_cpu or not layer.options.are_default or layer.targets.label_smoothing:
        return None
    return Positives.of(ids, layer.classes) if ids.illegal is None else None


class Sums(NamedTuple):
    """Of whole rows, and which rows keep a cell; None for all of them."""

    halves: Halves
    labelled: Tensor | None

    @property
    def losses(self) -> Tensor:
        """One value a row, in the dtype that computes."""
        positive, negative = (log_sum(half, axis=(1,), xp=xp) for half in self.halves)
        losses: Tensor = positive + negative
        return losses


def memory_of(layer: Layer, wanted: "Wanted") -> Tensor | None:
    """Memory of the gradient of the weight, in which the logits wait for the second sweep, if they fit.

    A chunk of them takes no more than its part of the gradient, which is written when they have been read. So the
    second sweep does without the product that takes a quarter of the time.
    """
    rows, features = layer.input.shape
    is_free = wanted.weight and wanted.hook is None and layer.weight.dtype == layer.input.dtype
    fits = is_free and layer.input.is_cpu and rows <= features and layer.rounded is None
    return layer.weight.new_empty(layer.weight.shape) if fits else None


def sums_of(layer: Layer, size: int, kept: Tensor | None = None) -> Sums:
    """The first sweep.

    One array has the sums of all chunks: arrays of their own would split the memory that malloc reuses for the next.
    """
    rows, chunks_of_row = len(layer.input), max(-(-layer.classes // size), 1)
    dtype, labelled = torch.float64 if layer.input.is_cpu else layer.input.dtype, None
    found = layer.input.new_empty((4, rows, chunks_of_row), dtype=dtype)
    for number, chunk in enumerate(chunks(layer, size, by_ids=True, kept=kept)):
        found[..., number] = torch.cat([part for half in sums_of_chunk(chunk) for part in half], 1).t()
        if chunk.options.where is not None:
            here = chunk.options.where.expand(chunk.logits.shape).any(1)
            labelled = here if labelled is None else labelled | here
    halves = ShiftedSum(found[0], found[1]), ShiftedSum(found[2], found[3])
    return Sums(Halves(*(merge(half, axis=(1,), xp=xp) for half in halves)), labelled)


def sums_of_chunk(chunk: Chunk) -> Halves:
    """Of its classes: on a CPU by the kernel, but for the rows where that would lose digits, in float64."""
    if chunk.logits.shape[1] == 0:
        nothing = chunk.logits.new_zeros((len(chunk.logits), 1))
        return Halves(*[ShiftedSum(nothing, nothing)] * 2)
    if not chunk.logits.is_cpu or not _has_factors(chunk):
        return _sums_by_core(chunk)
    logs = _logs_of_sums(chunk).double()
    shift = logs.floor()
    rest = torch.where(logs == torch.inf, 0.0, torch.expm1(logs - shift))
    halves = Halves(*(ShiftedSum(*half) for half in zip(shift, rest, strict=True)))
    far = (~are_near(chunk, halves)).nonzero()[:, 0]
    if len(far):
        for half, exact in zip(halves, _sums_by_core(chunk.some(far)), strict=True):
            half.shift[far], half.rest[far] = exact.shift.double(), exact.rest.double()
    return halves


def _logs_of_sums(chunk: Chunk) -> Tensor:
    """By a kernel."""
    if isinstance(chunk.targets, Positives):
        return _cpu_ids.logs_of_sums(chunk.logits, chunk.targets, chunk.memory)
    return _cpu.swept(chunk.logits, chunk.targets, _spread(chunk), None)[0]


def _sums_by_core(chunk: Chunk) -> Halves:
    halves = halves_of(chunk.logits, chunk.targets, chunk.options, xp=xp)
    return Halves(*(sum_exp(half, axis=(1,), xp=xp) for half in halves))


def _spread(chunk: Chunk) -> Options:
    """The options a cell at a time, as the kernel takes them."""
    if chunk.options.are_default:
        return chunk.options
    shape = chunk.logits.shape
    return Options._make([o.expand(shape) if isinstance(o, Tensor) else o for o in chunk.options])


def _has_factors(chunk: Chunk) -> bool:
    """False if the options are such that the CPU kernel leaves every row to the core."""
    return chunk.options.are_default or _cpu.are_factors(_spread(chunk))


def are_near(chunk: Chunk, sums: Halves) -> Tensor:
    """The rows with sums that the CPU kernel can divide by exactly."""
    limit = _cpu.LIMIT[chunk.logits.dtype]
    return torch.stack([(half.shift < limit) & (half.rest == half.rest) for half in sums]).all(0)[:, 0]


class Wanted(NamedTuple):
    """Which gradients are wanted; of the weight a hook may take each chunk's instead."""

    input: bool
    weight: bool
    bias: bool
    hook: Hook | None = None


def gradients(
    layer: Layer, size: int, sums: Halves, each: Tensor, wanted: Wanted, kept: Tensor | None = None
) -> list[Tensor | None]:
    """The second sweep. ``each`` is the upstream gradient of each row, a column; ``kept`` has the logits."""
    in_input = torch.zeros_like(layer.input) if wanted.input else None
    in_weight = kept
    if kept is None and wanted.weight and wanted.hook is None:
        in_weight = torch.empty_like(layer.weight)
    in_bias = None if not wanted.bias or layer.bias is None else torch.empty_like(layer.bias)
    for chunk in chunks(layer, size, by_ids=True, kept=kept, is_made=kept is not None):
        gradient = gradient_of(chunk, sums, each)
        part = slice(chunk.first, chunk.last)
        if in_input is not None:
            in_input.addmm_(gradient, chunk.weights)
        if in_weight is not None and in_weight.dtype == gradient.dtype:
            torch.mm(gradient.t(), layer.input, out=in_weight[part])
        elif in_weight is not None:
            in_weight[part] = gradient.t() @ layer.input
        elif wanted.hook is not None and wanted.weight:
            wanted.hook(part, (gradient.t() @ layer.input).to(layer.weight.dtype))
        if in_bias is not None:
            in_bias[part] = gradient.sum(0)
    return [in_input, in_weight, in_bias]


def one_sweep(layer: Layer, size: int, each: float, wanted: Wanted) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and gradients, some rows at a time. ``each`` is the upstream gradient of every row.

    ``_linear`` takes this way only where a gradient is wanted.
    """
    weights = layer.weights(0, layer.classes)
    in_input = torch.zeros_like(layer.input) if wanted.input else None
    in_weight = torch.zeros_like(weights) if wanted.weight else None
    in_bias = None if not wanted.bias or layer.bias is None else torch.zeros_like(layer.bias, dtype=weights.dtype)
    losses = []
    for first in range(0, layer.input.shape[0], size):
        rows = slice(first, first + size)
        (chunk,) = chunks(layer.of_rows(rows), layer.classes)
        found, gradient = _losses_and_gradient(chunk, each)
        losses.append(found)
        if in_input is not None:
            torch.mm(gradient, weights, out=in_input[rows])
        if in_weight is not None:
            in_weight.addmm_(gradient.t(), layer.input[rows])
        if in_bias is not None:
            in_bias.add_(gradient.sum(0))
    return torch.cat(losses), [in_input, in_weight, in_bias]


def _losses_and_gradient(chunk: Chunk, each: float) -> tuple[Tensor, Tensor]:
    """Of whole rows."""
    if chunk.logits.is_cpu:
        losses, gradient = _cpu.swept(chunk.logits, chunk.targets, _spread(chunk), each)
        return losses.sum(0)[:, 0], gradient
    sums = _sums_by_core(chunk)
    return Sums(sums, None).losses, _by_core(chunk, sums, chunk.logits.new_full((len(chunk.logits), 1), each))


def gradient_of(chunk: Chunk, sums: Halves, each: Tensor) -> Tensor:
    """In the logits of a chunk, by the sums of whole rows."""
    if chunk.logits.shape[1] == 0:
        return torch.empty_like(chunk.logits)
    if not chunk.logits.is_cpu or not _has_factors(chunk):
        return _by_core(chunk, sums, each)
    gradient, finite = _by_kernel(chunk, sums, each)
    redo = (~(finite & are_near(chunk, sums))).nonzero()[:, 0]
    if len(redo):
        some = Halves(*(ShiftedSum(half.shift[redo], half.rest[redo]) for half in sums))
        gradient[redo] = _by_core(chunk.some(redo), some, each[redo])
    return gradient


def _by_core(chunk: Chunk, sums: Halves, each: Tensor) -> Tensor:
    halves = halves_of(chunk.logits, chunk.targets, chunk.options, xp=xp)
    dtype = chunk.logits.dtype
    sums = Halves(*(ShiftedSum(half.shift.to(dtype), half.rest.to(dtype)) for half in sums))
    positive, negative = slopes(halves, sums, is_movable(chunk.logits, chunk.options.where, xp=xp), xp=xp)
    gradient: Tensor = (positive + negative) * each
    return gradient


def _by_kernel(chunk: Chunk, sums: Halves, each: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and which rows of it are finite: not one with an infinite logit, which may have a small loss."""
    whole = [each / (torch.exp(half.shift) * (1 + half.rest)) for half in sums]
    upstream = torch.stack(whole).to(chunk.logits.dtype)
    if isinstance(chunk.targets, Positives):  # an infinite logit has no gradient here, or an infinite sum
        gradient = _cpu_ids.gradient(chunk.logits, chunk.targets, upstream, chunk.memory)
        return gradient, torch.ones(len(gradient), dtype=torch.bool, device="cpu")
    totals, gradient = _cpu.Sweep(chunk.logits, chunk.targets, _spread(chunk), upstream, of_part=True).run()
    return gradient, totals.isfinite().flatten()
