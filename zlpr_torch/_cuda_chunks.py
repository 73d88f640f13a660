"""Chunks of logits on a GPU, by one kernel a chunk: beside it are the products, and a kernel that marks class ids.

Nothing here waits for the device.
"""

import torch
from torch import Tensor

from . import _cuda, _formula_chunks
from ._layer import Chunk, Layer, Reader
from ._layout import layout_of

_ROWS = layout_of(2, (1,))
sums_dtype = _formula_chunks.sums_dtype
lies_by_class = _formula_chunks.lies_by_class


def reader(layer: Layer, size: int) -> Reader:
    """Targets as they lie in those of all classes; of class ids bools, all in the same memory."""
    if layer.targets.ids is None:
        return _formula_chunks.reader(layer, size)
    ids = layer.targets.ids.ids.masked_fill(layer.targets.ids.unused, -1).contiguous()
    memory = layer.input.new_zeros((len(ids), size), dtype=torch.bool)

    def read(chunk: Chunk) -> Chunk:
        marked = _cuda.marked(memory, ids, chunk.first)
        own = memory[:, : len(chunk.weights)] if marked else layer.targets.of(chunk.first, chunk.last)
        return chunk.with_targets(own, layer.targets)

    return read


def row_reader(layer: Layer) -> Reader:
    """The same for a chunk of all classes."""
    return reader(layer, layer.classes)


def _cells(chunk: Chunk) -> _cuda.Cells:
    return _cuda.cells_of(_ROWS, chunk.logits, chunk.targets, chunk.options)


def write_sums(chunk: Chunk, to: Tensor) -> None:
    """As the kernel leaves them for a gradient."""
    losses, _ = _cuda.losses_of_rows(_cells(chunk), None, with_gradient=False, sums=to)
    if losses is None:
        _formula_chunks.write_sums(chunk, to)


def gradient(chunk: Chunk, sums: Tensor, each: Tensor) -> Tensor:
    """By the sums of whole rows."""
    found = _cuda.gradient_of_rows(_cells(chunk), _cuda.Residuals(sums, 1), each, chunk.memory)
    return _formula_chunks.gradient(chunk, sums, each) if found is None else found


def losses_and_gradient(chunk: Chunk, number: int) -> tuple[Tensor, Tensor]:
    """Of whole rows."""
    losses, kept = _cuda.losses_of_rows(_cells(chunk), number, with_gradient=True, gradient=chunk.memory)
    if losses is None or kept.gradient is None:
        return _formula_chunks.losses_and_gradient(chunk, number)
    return losses, kept.gradient
