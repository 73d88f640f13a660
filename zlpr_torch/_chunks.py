"""A linear layer and its loss where the logits do not exist at once: the two sweeps over chunks of the classes.

The first sweep sums each chunk and merges the sums; the second computes the logits anew and turns them into gradients,
by the sums of whole rows. What computes a chunk is chosen once, by the device: ``_cpu_chunks``, ``_cuda_chunks`` where
there is Triton, else ``_formula_chunks``.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum

from . import _cpu_chunks, _dispatch, _formula_chunks
from ._layer import Chunk, Kernel, Layer, Reader
from ._namespace import xp

Hook = Callable[[slice, Tensor], None]


def kernel_of(logits: Tensor) -> Kernel:
    """What computes chunks on the device of a tensor."""
    if logits.is_cpu:
        return _cpu_chunks
    if logits.is_cuda and _dispatch.has_kernel(logits.device):
        return cast("Kernel", importlib.import_module("zlpr_torch._cuda_chunks"))  # which imports Triton
    return _formula_chunks


def chunks(
    layer: Layer,
    size: int,
    read: Reader,
    *,
    by_class: bool = False,
    kept: Tensor | None = None,
    is_made: bool = False,
) -> Iterator[Chunk]:
    """One after another; their logits lie in the same memory, or each in its part of what is ``kept``.

    ``by_class`` says that those of a class lie side by side, else those of a row; ``is_made``, that they are there from
    the first sweep.
    """
    rows, input = layer.input.shape[0], _spoiled(layer)
    memory = input.new_empty(rows * size if kept is None or is_made else 0)
    for first in range(0, max(layer.classes, 1), size):  # a process may have none of the classes of a group
        last = min(first + size, layer.classes)
        logits = _cells(memory if kept is None else kept[first:last].view(-1), rows, last - first, by_class)
        # The gradient is written over the logits, but not where that of the weight will be.
        own = _cells(memory, rows, last - first, by_class) if is_made else logits
        options = layer.options.of_classes(first, last, layer.classes)
        bias = None if layer.bias is None else layer.bias[first:last]
        chunk = Chunk(first, last, layer.weights(first, last), logits, None, options, own, input, bias, is_made)
        if not is_made:
            chunk.product(out=logits)
        yield read(chunk)


def _cells(memory: Tensor, rows: int, classes: int, by_class: bool) -> Tensor:
    """[rows, classes] in the first part of ``memory``."""
    own = memory[: rows * classes]
    return own.view(classes, rows).t() if by_class else own.view(rows, classes)


def _spoiled(layer: Layer) -> Tensor:
    """The input with NaN in the rows of illegal ids, where these could not be looked at: then all logits are NaN."""
    illegal = None if layer.targets.ids is None else layer.targets.ids.illegal
    return layer.input if illegal is None else layer.input.masked_fill(illegal.unsqueeze(1), torch.nan)


class Sums(NamedTuple):
    """Of whole rows, [rows, 4]: shift and rest of the positive half, and of the negative."""

    parts: Tensor
    labelled: Tensor | None
    """Which rows keep a cell; None for all of them."""

    @property
    def losses(self) -> Tensor:
        """One value a row, in the dtype that computes."""
        return _formula_chunks.losses_of(self.parts)


def memory_of(layer: Layer, wanted: "Wanted") -> Tensor | None:
    """Memory of the gradient of the weight, in which the logits wait for the second sweep, if they fit.

    A chunk of them takes no more than its part of the gradient, which is written when they have been read. So the
    second sweep does without the product that takes a quarter of the time. Beside class ids their exponentials wait
    (``_cpu_ids``), which are not computed twice then.
    """
    rows, features = layer.input.shape
    is_free = wanted.weight and wanted.hook is None and layer.weight.dtype == layer.input.dtype
    fits = is_free and layer.input.is_cpu and rows <= features and layer.rounded is None
    return layer.weight.new_empty(layer.weight.shape) if fits else None


def sums_of(layer: Layer, size: int, kept: Tensor | None = None) -> Sums:
    """The first sweep.

    One array has the sums of all chunks: arrays of their own would split the memory that malloc reuses for the next.
    """
    kernel, rows, labelled = kernel_of(layer.input), len(layer.input), None
    shape = (max(-(-layer.classes // size), 1), rows, 4)
    found = layer.input.new_empty(shape, dtype=kernel.sums_dtype(layer.input.dtype))
    parts = chunks(layer, size, kernel.reader(layer, size), by_class=kernel.lies_by_class(layer, size), kept=kept)
    for chunk, sums in zip(parts, found, strict=True):
        write_sums(kernel, chunk, sums)
        if chunk.options.where is not None:
            here = chunk.options.where.expand(chunk.logits.shape).any(1)
            labelled = here if labelled is None else labelled | here
    return Sums(merged(found), labelled)


def write_sums(kernel: Kernel, chunk: Chunk, to: Tensor) -> None:
    """Those of a chunk, which may have no classes."""
    if chunk.logits.shape[1] == 0:
        to.zero_()
    else:
        kernel.write_sums(chunk, to)


def merged(parts: Tensor) -> Tensor:
    """The sums of whole rows, [rows, 4], from those of their parts, which lie along the first axis."""
    whole = merge(ShiftedSum(parts[..., ::2], parts[..., 1::2]), axis=(0,), xp=xp)
    return torch.stack(whole, -1).view(-1, 4)


class Wanted(NamedTuple):
    """Which gradients are wanted; of the weight a hook may take each chunk's instead."""

    input: bool
    weight: bool
    bias: bool
    hook: Hook | None = None


def gradients(
    layer: Layer, size: int, sums: Tensor, each: Tensor, wanted: Wanted, kept: Tensor | None = None
) -> list[Tensor | None]:
    """The second sweep. ``each`` is the upstream gradient of each row, a column; ``kept`` has the logits."""
    kernel = kernel_of(layer.input)
    in_input = torch.zeros_like(layer.input, dtype=each.dtype) if wanted.input else None
    in_weight = kept
    if kept is None and wanted.weight and wanted.hook is None:
        in_weight = torch.empty_like(layer.weight)
    in_bias = each.new_empty(layer.classes) if wanted.bias and layer.bias is not None else None
    read, by_class, is_made = kernel.reader(layer, size), kernel.lies_by_class(layer, size), kept is not None
    for chunk in chunks(layer, size, read, by_class=by_class, kept=kept, is_made=is_made):
        gradient = gradient_of(kernel, chunk, sums, each)
        part = slice(chunk.first, chunk.last)
        if in_input is not None:
            _add_product(in_input, gradient, chunk.weights)
        if in_weight is not None and in_weight.dtype == gradient.dtype:
            torch.mm(gradient.t(), layer.input, out=in_weight[part])
        elif in_weight is not None:
            in_weight[part] = gradient.t() @ layer.input
        elif wanted.hook is not None and wanted.weight:
            wanted.hook(part, (gradient.t() @ layer.input).to(layer.weight.dtype))
        if in_bias is not None:
            torch.sum(gradient, 0, dtype=in_bias.dtype, out=in_bias[part])
    return [in_input, in_weight, in_bias]


def gradient_of(kernel: Kernel, chunk: Chunk, sums: Tensor, each: Tensor) -> Tensor:
    """In the logits of a chunk, which may have no classes, by the sums of whole rows."""
    if chunk.logits.shape[1] == 0:
        return torch.empty_like(chunk.logits)
    return kernel.gradient(chunk, sums, each)


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """In the dtype of ``total``, which is wider where the product is one of half precision."""
    if total.dtype == one.dtype:
        total.addmm_(one, other)
    else:
        total.add_(one @ other)


def one_sweep(layer: Layer, size: int, number: int, wanted: Wanted) -> tuple[Tensor, list[Tensor | None]]:
    """Losses, and gradients of the mean over ``number`` rows, some rows at a time.

    ``_linear`` takes this way only where a gradient is wanted.
    """
    kernel, weights = kernel_of(layer.input), layer.weights(0, layer.classes)
    in_input = torch.zeros_like(layer.input) if wanted.input else None
    in_weight = torch.zeros_like(weights) if wanted.weight else None
    in_bias = None if not wanted.bias or layer.bias is None else torch.zeros_like(layer.bias, dtype=weights.dtype)
    losses = []
    for first in range(0, layer.input.shape[0], size):
        rows = slice(first, first + size)
        some = layer.of_rows(rows)
        (chunk,) = chunks(some, layer.classes, kernel.row_reader(some))
        found, gradient = kernel.losses_and_gradient(chunk, number)
        losses.append(found)
        if in_input is not None:
            torch.mm(gradient, weights, out=in_input[rows])
        if in_weight is not None:
            in_weight.addmm_(gradient.t(), layer.input[rows])
        if in_bias is not None:
            in_bias.add_(gradient.sum(0))
    return torch.cat(losses), [in_input, in_weight, in_bias]
