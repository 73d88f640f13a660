"""Cells as [rows, classes], which is what the kernels work on."""

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from zlpr_core._options import Options

Shape = tuple[int, ...]


class Layout:
    """Where the class axes of a tensor are. Sizes come with each call, so that one Layout serves every batch."""

    def __init__(self, ndim: int, axes: Shape) -> None:
        self.axes = axes
        self.last = tuple(range(-len(axes), 0))
        # Not `axis not in axes`: under compiled autograd the axes are symbols, and PyTorch 2.13 takes that for true.
        self.batch_axes = tuple(axis for axis in range(ndim) if all(axis != other for other in axes))
        self.is_rows = ndim == 2 and axes == (1,)

    def rows(self, cells: Tensor) -> Tensor:
        """[rows, classes]; a view where one is possible."""
        if self.is_rows:
            return cells
        classes = prod([cells.shape[axis] for axis in self.axes])
        return cells.movedim(self.axes, self.last).reshape(self.number_of_rows(cells.shape), classes)

    def all_rows(self, input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Options]:
        """All that a kernel takes."""
        return self.rows(input), self.rows(target), self.options(options, input.shape)

    def options(self, options: Options, shape: Shape) -> Options:
        """The options a cell at a time; numbers stay numbers."""
        if options.are_default:
            return options
        return Options._make([self.rows(x.expand(shape)) if isinstance(x, Tensor) else x for x in options])

    def cells(self, rows: Tensor, shape: Shape) -> Tensor:
        """The inverse of ``rows``, for cells of this shape."""
        if self.is_rows:
            return rows
        classes = [shape[axis] for axis in self.axes]
        return rows.reshape(*self.batch(shape), *classes).movedim(self.last, self.axes)

    def empty_cells(self, like: Tensor) -> Tensor:
        """An empty tensor with the strides that ``cells`` gives to contiguous rows."""
        classes = prod([like.shape[axis] for axis in self.axes])
        return self.cells(like.new_empty((self.number_of_rows(like.shape), classes)), like.shape)

    def examples(self, losses: Tensor, shape: Shape) -> Tensor:
        """One value a row as one an example."""
        return losses.reshape(self.batch(shape))

    def batch(self, shape: Shape) -> list[int]:
        """The sizes of the batch axes."""
        return [shape[axis] for axis in self.batch_axes]

    def number_of_rows(self, shape: Shape) -> int:
        """The number of examples."""
        return shape[0] if self.is_rows else prod(self.batch(shape))

    def beside_cells(self, each: Tensor) -> Tensor:
        """One value an example, or one for all, with axes of size 1 for the classes."""
        if each.dim() == 0:
            return each
        for axis in range(each.dim() + len(self.axes)):  # not sorted(self.axes), for the reason in __init__
            if any(axis == other for other in self.axes):
                each = each.unsqueeze(axis)
        return each


@lru_cache(maxsize=64)
def layout_of(ndim: int, axes: Shape) -> Layout:
    """The Layout, kept because a small batch takes less time than making it. Not for code that Dynamo traces."""
    return Layout(ndim, axes)


def some_rows(option: Any, rows: Any) -> Any:
    """The rows of a tensor; a number or None stays."""
    if not isinstance(option, Tensor):
        return option
    return (option.long() if option.dtype in _UNSIGNED else option)[rows]


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # which PyTorch 2.6 cannot index
