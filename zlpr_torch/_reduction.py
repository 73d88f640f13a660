"""From one value an example to the value that is returned."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def read_reduction(reduction: Reduction | None) -> Reduction:
    """One of the three, None being the default. Raises unless it is one."""
    if reduction is None:
        return "mean"
    if reduction not in ("mean", "sum", "none"):
        msg = f'`reduction` must be "mean", "sum" or "none". Received: {reduction!r}.'
        raise ValueError(msg)
    return reduction


def reduce(losses: Tensor, reduction: Reduction, labelled: Tensor | None = None) -> Tensor:
    """The mean is over the ``labelled`` examples, all if it is None: 0 if none is labelled, NaN for an empty batch."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if labelled is None else losses.sum() / number_of(labelled)  # of the others the loss is 0


def labelled_examples(mask: Tensor | None, shape: Sequence[int], axes: tuple[int, ...]) -> Tensor | None:
    """True for the examples of which ``mask`` keeps a cell. None if there is no mask: that is all of them."""
    return None if mask is None else mask.expand(*shape).any(axes)


def number_of(labelled: Tensor) -> Tensor:
    """How many are labelled, to divide by: 1 instead of 0, but 0 for an empty batch, whose mean is NaN."""
    # `any` of ones and not a look at the size, which a symbolic batch would be specialised on
    return torch.maximum(labelled.sum(), torch.ones_like(labelled).any())
