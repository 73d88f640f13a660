"""A linear layer, its targets, a chunk of its logits, and what a module has to offer that computes chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zlpr_core._indices import Ids, part_of_ids
from zlpr_core._options import Options
from zlpr_core._targets import prepare_targets

from ._ids import ids_of_hot
from ._layout import some_rows
from ._namespace import xp


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
        # rows of illegal ids are NaN by their logits; not by `_replace`, which PyTorch 2.6 does not compile
        ids = Ids(self.ids.ids, self.ids.unused, None)
        hot: Tensor = part_of_ids(ids, first, last - first, xp=xp)
        return hot

    def prepared(self, targets: Tensor, where: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Targets of some logits and their mask, with ``label_smoothing`` and ``ignore_index`` worked in."""
        given = {"label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index}
        return prepare_targets(targets, where, logits, **given, xp=xp)

    def as_ids(self) -> "Targets":
        """By class ids, if they are bool and few, on a CPU: that takes a sixth less time than rows of targets."""
        dense = self.dense
        if dense is None or dense.dtype != torch.bool or self.label_smoothing or self.ignore_index is not None:
            return self
        ids = ids_of_hot(dense)
        return self if ids is None else Targets(None, ids)

    def of_rows(self, rows: slice) -> "Targets":
        """Those of some rows."""
        ids = None if self.ids is None else Ids(*[some_rows(part, rows) for part in self.ids])
        return self._replace(dense=some_rows(self.dense, rows), ids=ids)


class Layer(NamedTuple):
    """A linear layer, and what its logits are compared with."""

    input: Tensor  # [rows, features], in the dtype of the products
    weight: Tensor  # [classes, features]
    bias: Tensor | None
    targets: Targets
    options: Options  # numbers, or tensors of two axes, each of size 1 or whole
    rounded: torch.dtype | None = None  # what autocast would round inputs and weights to

    @property
    def classes(self) -> int:
        return self.weight.shape[0]

    @property
    def has_ids_alone(self) -> bool:
        """True if nothing but class ids says what a cell counts."""
        return self.targets.ids is not None and self.options.are_default and not self.targets.label_smoothing

    def of_rows(self, rows: slice) -> "Layer":
        """Some of them."""
        options = Options._make([some_rows(o, rows) if _has_rows(o) else o for o in self.options])
        return self._replace(input=self.input[rows], targets=self.targets.of_rows(rows), options=options)

    def weights(self, first: int, last: int) -> Tensor:
        """Of some classes, in the dtype of the products."""
        weight = self.weight[first:last]
        return (weight if self.rounded is None else weight.to(self.rounded)).to(self.input.dtype)


class Chunk(NamedTuple):
    """Some classes of all rows."""

    first: int
    last: int
    weights: Tensor
    logits: Tensor
    targets: Any  # rows of them, or what stands for them on a CPU
    options: Options
    memory: Tensor | None = None  # as much as the logits take, for their gradient
    input: Tensor | None = None  # of all rows, where the logits are a product
    bias: Tensor | None = None
    is_made: bool = False  # by the first sweep, which has left them, or its exponentials, where the second finds them

    def product(self, rows: Tensor | slice = slice(None), out: Tensor | None = None) -> Tensor:
        """The logits of some rows, of all unless told."""
        assert self.input is not None
        some = self.input[rows]
        if self.bias is None:
            return torch.mm(some, self.weights.t(), out=out)
        return torch.addmm(self.bias.to(some.dtype), some, self.weights.t(), out=out)

    def some(self, rows: Tensor) -> "Chunk":
        """Of some rows."""
        options = Options._make([some_rows(o, rows) if _has_rows(o) else o for o in self.options])
        return self._replace(logits=self.logits[rows], targets=some_rows(self.targets, rows), options=options)

    def with_targets(self, targets: Tensor, of: Targets) -> "Chunk":
        """With rows of targets, which ``of`` says how to prepare."""
        targets, where = of.prepared(targets, self.options.where, self.logits)
        return self._replace(targets=targets, options=self.options._replace(where=where))


def _has_rows(option: Any) -> bool:
    return isinstance(option, Tensor) and option.shape[0] > 1


Reader = Callable[[Chunk], Chunk]


class Kernel(Protocol):
    """What computes chunks: one of the modules ``_cpu_chunks``, ``_cuda_chunks`` and ``_formula_chunks``."""

    def sums_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of the sums of logits of a dtype."""

    def lies_by_class(self, layer: Layer, size: int) -> bool:
        """True if it reads logits of ``size`` classes class by class in memory, not row by row."""

    def reader(self, layer: Layer, size: int) -> Reader:
        """A function that gives each chunk, of ``size`` classes or fewer, its targets: one after another, in order."""

    def row_reader(self, layer: Layer) -> Reader:
        """The same for a chunk of all classes, which ``losses_and_gradient`` takes."""

    def write_sums(self, chunk: Chunk, to: Tensor) -> None:
        """Into [rows, 4]: shift and rest of the positive half, and of the negative."""

    def gradient(self, chunk: Chunk, sums: Tensor, each: Tensor) -> Tensor:
        """In the logits of a chunk, in their dtype and maybe in its ``memory``.

        ``sums`` are those of whole rows, [rows, 4], and ``each`` is the upstream gradient of each row, a column.
        """

    def losses_and_gradient(self, chunk: Chunk, number: int) -> tuple[Tensor, Tensor]:
        """Of whole rows: their losses, and the gradient of the mean over ``number`` rows."""
