"""Chunks of logits whose targets are class ids, on a CPU: cells are negatives, but for a few that are written over.

``_chunks`` comes here instead of to ``_cpu.Sweep`` where there are no options: without rows of targets two or three
passes over the cells are left of eight, beside which the products are most of the time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from zlpr_core._indices import Ids


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

    def among(self, first: int, last: int) -> "Positives":
        """Those of a chunk, counted from its first class."""
        start, end = torch.searchsorted(self.classes, torch.tensor([first, last], device="cpu")).tolist()
        return Positives(self.rows[start:end], self.classes[start:end] - first)

    def targets(self, like: Tensor) -> Tensor:
        """The rows of targets that they stand for."""
        hot = torch.zeros_like(like, dtype=torch.bool)
        hot[self.rows, self.classes] = True
        return hot


def logs_of_sums(logits: Tensor, positives: Positives, memory: Tensor) -> Tensor:
    """The logarithms of both sums of each row, as ``_cpu.swept`` gives losses, [2, rows, 1]."""
    exponentials = torch.exp(logits, out=memory)
    exponentials[positives.rows, positives.classes] = 0.0
    negative = exponentials.sum(1, True)
    pulls = torch.exp(-logits[positives.rows, positives.classes]).unsqueeze(1)
    positive = torch.zeros_like(negative).index_add_(0, positives.rows, pulls)
    return torch.stack((positive, negative)).log1p_()


def gradient(logits: Tensor, positives: Positives, upstream: Tensor, memory: Tensor) -> Tensor:
    """In the logits of rows whose sums ``upstream`` is divided by, [2, rows, 1]."""
    in_positive, in_negative = upstream.unbind()
    found = torch.exp(logits, out=memory).mul_(in_negative)
    pulls = torch.exp(-logits[positives.rows, positives.classes]).mul_(in_positive[positives.rows, 0])
    found[positives.rows, positives.classes] = pulls.neg_()
    return found
