"""PyTorch: a linear layer and its loss in one, beside the dense layer with binary cross-entropy."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from cases import FEATURES, Case
from measure import Call, Candidate, Field, Memory, copying, wall
from torch import Tensor
from torch.nn import functional
from torch_calls import on_cpu
from torch_peers import VERSIONS

import zlpr_torch as z
from zlpr_torch import LinearPlan
from zlpr_torch._plan import FEWEST_ROWS

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
PEER = "dense BCE"
SMALL = 16 * 2**20  # a budget of fewer bytes, beside what is taken unless told
ALL = 2**40  # one of more than all logits take


class Drawn(NamedTuple):
    """Inputs, weights and bias, which ask for gradients, and targets in three forms."""

    arrays: list[Tensor]
    ids: Tensor
    hot: Tensor
    floating: Tensor


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    torch.set_num_threads(threads)
    drawn = draw(case)
    ids, hot = drawn.ids, drawn.hot
    bce = functional.binary_cross_entropy_with_logits
    losses: dict[str, Callable[..., Tensor]] = {
        PEER: lambda x, w, b: bce(functional.linear(x, w, b), drawn.floating),
        "dense zlpr": lambda x, w, b: z.zlpr_loss(functional.linear(x, w, b), hot),
        "zlpr": lambda x, w, b: z.linear_zlpr_loss(x, w, hot, b),
        "zlpr, class ids": lambda x, w, b: z.sparse_linear_zlpr_loss(x, w, ids, b),
        "zlpr, 16 MiB": lambda x, w, b: z.sparse_linear_zlpr_loss(x, w, ids, b, memory_budget=SMALL),
        "zlpr, all at once": lambda x, w, b: z.sparse_linear_zlpr_loss(x, w, ids, b, memory_budget=ALL),
        **{f"zlpr, by {way}": planned(plan, ids) for way, plan in plans(*case.shape).items()},
        **one_label(ids[:, 0]),
    }
    candidates = [candidate(name, partial(gradients, loss, drawn.arrays)) for name, loss in losses.items()]
    candidates.append(candidate("products alone", partial(products, drawn.arrays)))
    return Field(candidates, copying(np.zeros(case.shape, np.float32), threads), wall)


def plans(rows: int, classes: int) -> dict[str, LinearPlan]:
    """Those in chunks, whichever of them is taken unless told."""
    by_rows = LinearPlan("rows", rows, classes, min(FEWEST_ROWS, rows), 4)
    return {"rows": by_rows, "classes": LinearPlan.of(rows=rows, classes=classes, one_sweep=False)}


def planned(plan: LinearPlan, ids: Tensor) -> Callable[..., Tensor]:
    """The loss of class ids by this plan."""

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with patch.object(LinearPlan, "of", lambda **_: plan):
            return z.sparse_linear_zlpr_loss(x, w, ids, b)

    return loss


def one_label(label: Tensor) -> dict[str, Callable[..., Tensor]]:
    """What PyTorch itself has for a linear layer and its loss: cross-entropy, of one label a row."""
    if not hasattr(functional, "linear_cross_entropy"):  # PyTorch 2.13 has it
        return {}
    loss, options = functional.linear_cross_entropy, torch.nn.LinearCrossEntropyOptions()
    return {
        "one label": lambda x, w, b=None: loss(x, w, label, linear_bias=b),
        "one label, in chunks": lambda x, w, b=None: loss(x, w, label, linear_bias=b, options=options),
    }


def draw(case: Case) -> Drawn:
    """The same at every call: three labels a row."""
    generator = torch.Generator().manual_seed(0)
    rows, classes = case.shape
    shapes = (rows, FEATURES), (classes, FEATURES), (classes,)
    arrays = [torch.randn(shape, generator=generator) / FEATURES**0.25 for shape in shapes]
    ids = torch.randint(classes, (rows, 3), generator=generator)
    hot = z.multi_hot(ids, classes)
    return Drawn([array.requires_grad_() for array in arrays], ids, hot, hot.float())


def gradients(loss: Callable[..., Tensor], arrays: list[Tensor]) -> Tensor:
    """Of all three; the one of the weight."""
    return torch.autograd.grad(loss(*arrays), arrays)[1]


def products(arrays: list[Tensor]) -> Tensor:
    """What no loss of a dense layer can do without: three products of a matrix and a matrix."""
    x, weight, _ = (array.detach() for array in arrays)
    logits = x @ weight.t()
    logits @ weight
    return logits.t() @ x


def candidate(name: str, both: Call) -> Candidate:
    """Forward and backward; the peak counts the gradients."""
    return Candidate(name, PEER, {"forward+backward": both}, lambda: Memory(peak=on_cpu(both)[1]))
