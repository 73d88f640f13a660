"""PyTorch on a GPU: a linear layer and its loss in one, beside the dense layer with binary cross-entropy.

Device time of forward and backward, as in ``torch_gpu``: without a GPU the program shows that it works, and no speed.
"""

from collections.abc import Callable
from functools import partial

import torch
from cases import FEATURES_ON_GPU, Case
from measure import Candidate, Field, Memory, enough, seconds_told
from torch import Tensor
from torch.nn import functional
from torch_calls import on_cpu, on_gpu
from torch_gpu import DEVICE, EXTRA_CASES, IS_THERE, VERSIONS, OnDevice, copy
from torch_linear import one_label

import zlpr_torch as z

__all__ = ["DEVICE", "EXTRA_CASES", "IS_THERE", "VERSIONS", "field"]
PEER = "dense BCE"
SMALL = 2**26  # a budget of fewer bytes, beside what is taken unless told


def field(case: Case, threads: int) -> Field:
    """The candidates for this case: eight labels a row, no bias."""
    torch.set_num_threads(threads)
    if IS_THERE:
        torch.cuda.empty_cache()  # of the graphs of the case before
    (rows, classes), generator = case.shape, torch.Generator(case.device).manual_seed(0)
    options = {"generator": generator, "device": case.device, "dtype": getattr(torch, case.dtype)}
    shapes = (rows, FEATURES_ON_GPU), (classes, FEATURES_ON_GPU)
    arrays = [(torch.randn(shape, **options) / FEATURES_ON_GPU**0.25).requires_grad_() for shape in shapes]
    ids = torch.randint(classes, (rows, 8), generator=generator, device=case.device)
    count = enough(case.size, case.device)
    build = partial(candidate, arrays=arrays, count=count)
    return Field(
        [build(name, loss) for name, loss in losses(ids, classes, arrays[0].dtype).items()], copy(), seconds_told
    )


def losses(ids: Tensor, classes: int, dtype: torch.dtype) -> dict[str, Callable[..., Tensor]]:
    """Of input and weight. Targets of BCE are made beforehand, so they are not timed."""
    hot = z.multi_hot(ids, classes)
    floating, bce = hot.to(dtype), functional.binary_cross_entropy_with_logits
    return {
        PEER: lambda x, w: bce(functional.linear(x, w), floating),
        "dense zlpr": lambda x, w: z.zlpr_loss(functional.linear(x, w), hot),
        "zlpr": lambda x, w: z.linear_zlpr_loss(x, w, hot),
        "zlpr, class ids": lambda x, w: z.sparse_linear_zlpr_loss(x, w, ids),
        "zlpr, 64 MiB": lambda x, w: z.sparse_linear_zlpr_loss(x, w, ids, memory_budget=SMALL),
        **one_label(ids[:, 0]),
    }


def candidate(name: str, loss: Callable[..., Tensor], *, arrays: list[Tensor], count: int) -> Candidate:
    """Forward and backward; the peak counts the gradients."""

    def both() -> Tensor:
        return torch.autograd.grad(loss(*arrays), arrays)[1]

    allocations = on_gpu if IS_THERE else on_cpu
    return Candidate(name, PEER, {"device": OnDevice(both, count)}, lambda: Memory(peak=allocations(both)[1]))
