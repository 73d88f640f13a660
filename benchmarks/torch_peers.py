"""PyTorch, eager and compiled: ZLPR beside the losses that its users come from."""

import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from itertools import accumulate

import torch
from cases import GPU, Case
from measure import Call, Candidate, Field, Memory, wall
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from zlpr_torch import zlpr_loss

# timm.loss without the rest of timm, which wants torchvision of a build that matches that of torch
sys.modules["timm"] = module_from_spec(find_spec("timm"))
from timm.loss import AsymmetricLossMultiLabel, ZlprLoss  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]
VERSIONS = {"torch": torch.__version__, "timm": version("timm")}
EXTRA_CASES: tuple[Case, ...] = ()
if torch.cuda.is_available():
    EXTRA_CASES, VERSIONS["GPU"] = GPU, torch.cuda.get_device_name()


def field(case: Case, threads: int) -> Field:
    """The candidates for this case; on a GPU only those that fit beside such logits."""
    torch.set_num_threads(threads)
    torch.compiler.reset()  # else PyTorch stops compiling at its limit of eight shapes
    logits, target = draw(case)
    floating = target.to(logits.dtype)  # as the peers require; made beforehand, so it is not timed
    zlpr, bce = partial(zlpr_loss, dim=case.axes), torch.nn.BCEWithLogitsLoss()
    build = partial(candidate, logits=logits)
    candidates = [
        build("zlpr", zlpr, target, peer="BCE"),
        build("zlpr compiled", compiled(zlpr), target, peer="BCE compiled"),
        build("BCE", bce, floating, peer="BCE"),
        build("BCE compiled", compiled(bce), floating, peer="BCE compiled"),
    ]
    if case.device == "cpu":
        candidates += [build(name, loss, floating, peer="BCE") for name, loss in others(case).items()]
    return Field(candidates, copy(logits), stopwatch if logits.is_cuda else wall)


def others(case: Case) -> dict[str, Loss]:
    """The peers that take such targets, beside the four that take all."""
    losses: dict[str, Loss] = {
        "soft margin": torch.nn.MultiLabelSoftMarginLoss(),
        "timm ASL": AsymmetricLossMultiLabel(),
    }
    if not case.soft:
        losses |= {"timm ZLPR": flat(ZlprLoss(), case), "textbook ZLPR": flat(textbook, case)}
    return losses


def textbook(s: Tensor, t: Tensor) -> Tensor:
    """The snippet that is usually pasted, for targets of 0 and 1, written from its formula."""
    s = (1 - 2 * t) * s
    zero = torch.zeros_like(s[..., :1])
    negative = torch.cat([s - 1e12 * t, zero], dim=-1)
    positive = torch.cat([s - 1e12 * (1 - t), zero], dim=-1)
    return (torch.logsumexp(negative, dim=-1) + torch.logsumexp(positive, dim=-1)).mean()


def flat(loss: Loss, case: Case) -> Loss:
    """Let a loss that knows one class axis run on several, by flattening them."""
    return lambda s, t: loss(s.flatten(-case.class_axes), t.flatten(-case.class_axes))


def compiled(loss: Loss) -> Loss:
    """By torch.compile, for this one shape."""
    return torch.compile(loss, fullgraph=True, dynamic=False)


def draw(case: Case) -> tuple[Tensor, Tensor]:
    """Logits that ask for a gradient, and targets: the same at every call."""
    generator = torch.Generator(case.device).manual_seed(0)
    dtype, options = getattr(torch, case.dtype), {"generator": generator, "device": case.device}
    logits, uniform = torch.randn(case.shape, **options).mul_(2), torch.rand(case.shape, **options)
    return logits.to(dtype).requires_grad_(), uniform.to(dtype) if case.soft else uniform < case.share


def candidate(name: str, loss: Loss, target: Tensor, *, peer: str, logits: Tensor) -> Candidate:
    """``loss`` of these logits, alone and with the gradient."""

    def forward() -> Tensor:
        return loss(logits, target)

    def both() -> Tensor:
        return torch.autograd.grad(forward(), logits)[0]

    allocations = on_gpu if logits.is_cuda else on_cpu
    passes = {"forward": forward, "forward+backward": both}
    return Candidate(name, peer, passes, lambda: Memory(allocations(forward)[0], allocations(both)[1]))


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


def copy(logits: Tensor) -> Call:
    """The floor: one copy of the logits. On a GPU it moves 8 bytes a logit, as a fused loss does in both passes."""
    source = logits.detach()
    if source.is_cuda:
        source = torch.stack([source] * (4 // source.itemsize))
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def stopwatch(call: Call) -> float:
    """Seconds that ``call`` takes on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    result = call()
    end.record()
    end.synchronize()
    del result
    return start.elapsed_time(end) / 1000
