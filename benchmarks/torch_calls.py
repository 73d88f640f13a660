"""What the tables of PyTorch share: how a case is drawn, a loss compiled, and memory counted."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from itertools import accumulate
from types import ModuleType

import torch
from cases import Case
from measure import Call
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Loss = Callable[[Tensor, Tensor], Tensor]


def load_timm() -> ModuleType:
    """``timm.loss`` without the rest of timm, which wants torchvision of a build that matches that of torch."""
    sys.modules["timm"] = module_from_spec(find_spec("timm"))
    return import_module("timm.loss")


def compiled(loss: Loss) -> Loss:
    """By torch.compile, for this one shape."""
    return torch.compile(loss, fullgraph=True, dynamic=False)


def draw(case: Case) -> tuple[Tensor, Tensor]:
    """Logits that ask for a gradient, and targets: the same at every call."""
    generator = torch.Generator(case.device).manual_seed(0)
    dtype, options = getattr(torch, case.dtype), {"generator": generator, "device": case.device}
    logits, uniform = torch.randn(case.shape, **options).mul_(2), torch.rand(case.shape, **options)
    return logits.to(dtype).requires_grad_(), uniform.to(dtype) if case.soft else uniform < case.share


def on_cpu(call: Call) -> tuple[int, int]:
    """Bytes that ``call`` keeps beside its result, and the most that it held, from the log of all allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        result = call()
    events = watched.profiler.kineto_results.events()  # in the order of time
    held = list(accumulate((event.nbytes() for event in events if event.name() == "[memory]"), initial=0))
    return held[-1] - result.nbytes, max(held)


def on_gpu(call: Call) -> tuple[int, int]:
    """The same by the counters of the allocator, which rounds each tensor up to 512 bytes."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    rounded = -(-result.nbytes // 512) * 512
    return torch.cuda.memory_allocated() - before - rounded, torch.cuda.max_memory_allocated() - before
