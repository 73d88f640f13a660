"""Chunks of logits whose targets are class ids, on a CPU: cells are negatives, but for a few that are written over.

``_chunks`` comes here instead of to ``_cpu.Sweep`` where there are no options: without rows of targets two or three
passes over the cells are left of eight, and the products are most of the time. Exponentials are made in the place of
the logits; rows whose sums leave the range need their logits again, and get them by another product.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._indices import Ids

from ._layer import Chunk


class Positives(NamedTuple):
    """The distinct pairs of a row and a class, in the order of the classes."""

    rows: Tensor
    classes: Tensor

    @classmethod
    def of(cls, ids: Ids, classes: int) -> "Positives":
        """Of some classes; ids may name others, which are on other processes."""
        kept = ~ids.unused & (ids.ids >= 0) & (ids.ids < classes)
        rows = torch.arange(len(kept), device="cpu").unsqueeze(1).expand(kept.shape)[kept]
        pairs = torch.unique(ids.ids[kept].long() * len(kept) + rows)
        return cls(pairs % max(len(kept), 1), pairs // max(len(kept), 1))

    def split(self, classes: int, size: int) -> Iterator["Positives"]:
        """Those of each chunk of ``size`` classes, counted from its first."""
        firsts = torch.arange(0, classes + size, size, device="cpu")
        ends = torch.searchsorted(self.classes, firsts).tolist()
        for first, (start, end) in zip(range(0, classes, size), pairwise(ends), strict=True):
            yield Positives(self.rows[start:end], self.classes[start:end] - first)

    def targets(self, like: Tensor) -> Tensor:
        """The rows of targets that they stand for."""
        hot = torch.zeros_like(like, dtype=torch.bool)
        hot[self.rows, self.classes] = True
        return hot


def logs_of_sums(logits: Tensor, positives: Positives) -> Tensor:
    """The logarithms of both sums of each row, as ``_cpu.swept`` gives losses, [2, rows, 1].

    The exponential that a sum takes of each cell is left where its logit was.
    """
    pulls = _exponentials(logits, positives)
    logits[positives.rows, positives.classes] = 0.0
    negative = logits.sum(1, True)
    logits[positives.rows, positives.classes] = pulls
    positive = torch.zeros_like(negative).index_add_(0, positives.rows, pulls.unsqueeze(1))
    return torch.stack((positive, negative)).log1p_()


def _exponentials(logits: Tensor, positives: Positives) -> Tensor:
    """In place those of the negatives; returned those of the positives, of the logits' opposites."""
    pulls = logits[positives.rows, positives.classes].neg_().exp_()
    logits.exp_()
    return pulls


def gradient(chunk: Chunk, upstream: Tensor) -> Tensor:
    """In the logits of rows whose sums ``upstream`` is divided by, [2, rows, 1]."""
    at = chunk.targets.rows, chunk.targets.classes
    in_positive, in_negative = upstream.unbind()
    pulls = chunk.logits[at] if chunk.is_made else _exponentials(chunk.logits, chunk.targets)
    found = torch.mul(chunk.logits, in_negative, out=chunk.memory)
    found[at] = pulls.mul_(in_positive[at[0], 0]).neg_()
    return found
