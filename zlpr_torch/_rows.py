"""Cells as rows of classes, which is how the kernels want them."""

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

_KEPT: Any = object()  # stands for a tensor that autograd keeps


class Options(NamedTuple):
    """What the core calls so; each is absent, a number, or a tensor that broadcasts to the logits."""

    where: Tensor | None = None
    weight: Tensor | float | None = None
    pos_weight: Tensor | float | None = None
    threshold: Tensor | float = 0.0

    def emptied(self) -> "Options":
        """Without the tensors, which autograd keeps."""
        return Options._make(_KEPT if isinstance(option, Tensor) else option for option in self)

    def refilled(self, tensors: Iterable[Tensor]) -> "Options":
        """With the tensors that autograd has kept, and whose versions it has checked."""
        kept = iter(tensors)
        return Options._make(next(kept) if option is _KEPT else option for option in self)

    def of_rows(self, rows: Any) -> "Options":
        """Those of some rows, after ``Rows.of_options``."""
        if self.absent():
            return self
        return Options._make(option[rows] if isinstance(option, Tensor) else option for option in self)

    def tensors(self) -> list[Tensor]:
        return [option for option in self if isinstance(option, Tensor)]

    def absent(self) -> bool:
        no_threshold = isinstance(self.threshold, (int, float)) and self.threshold == 0
        return no_threshold and self.where is self.weight is self.pos_weight is None


class Rows:
    """The shape of some logits with the axes of their classes."""

    def __init__(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
        self.shape, self.axes = shape, axes
        self.already = len(shape) == 2 and axes == (1,)
        self.batch = [n for axis, n in enumerate(shape) if axis not in axes]
        self.flat = prod(self.batch), prod([shape[axis] for axis in axes])

    def of(self, cells: Tensor) -> Tensor:
        """[rows, classes]: a view where one is possible."""
        if self.already:
            return cells
        return cells.movedim(self.axes, self._last()).reshape(self.flat)

    def of_options(self, options: Options) -> Options:
        if options.absent():
            return options
        return Options._make(self.of(x.expand(self.shape)) if isinstance(x, Tensor) else x for x in options)

    def of_examples(self, losses: Tensor) -> Tensor:
        """One value a row as one an example."""
        return losses if self.already else losses.reshape(self.batch)

    def back(self, cells: Tensor) -> Tensor:
        if self.already:
            return cells
        classes = [self.shape[axis] for axis in self.axes]
        return cells.reshape(*self.batch, *classes).movedim(self._last(), self.axes)

    def _last(self) -> Any:
        return tuple(range(-len(self.axes), 0))
