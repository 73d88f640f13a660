"""PyTorch on a GPU: device time of forward and backward, and wall time of a step, beside BCE eager and compiled.

The device time is that of a replayed CUDA graph, or between two events where a candidate cannot be captured. Without a
GPU the same program runs on a CPU by a CPU's clock, for ``--quick`` alone: it shows that it works, and no speed.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from time import perf_counter

import torch
from cases import Case
from measure import Call, Candidate, Field, Memory, enough, seconds_told, wall
from torch import Tensor
from torch_calls import Loss, compiled, draw, load_timm, on_cpu, on_gpu

from zlpr_torch import zlpr_loss

IS_THERE = torch.cuda.is_available()
DEVICE = "cuda" if IS_THERE else "cpu"
VERSIONS = {"torch": torch.__version__}
EXTRA_CASES: tuple[Case, ...] = ()
if find_spec("timm"):
    VERSIONS["timm"] = version("timm")
if find_spec("triton"):
    VERSIONS["triton"] = version("triton")
if IS_THERE:
    VERSIONS["GPU"] = torch.cuda.get_device_name()
COPIED = 2**28 if IS_THERE else 2**20  # bytes of the copy, far more than a GPU's cache
MOST = 2**28  # logits: beyond it the temporaries of timm's losses fill the memory


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    torch.set_num_threads(threads)
    torch.compiler.reset()  # else PyTorch stops compiling at its limit of eight shapes
    if IS_THERE:
        torch.cuda.empty_cache()  # of the graphs of the case before
    logits, target = draw(case)
    floating = target.to(logits.dtype)  # as the peers require; made beforehand, so it is not timed
    bce, count = torch.nn.BCEWithLogitsLoss(), enough(case.size, DEVICE)
    build = partial(candidate, logits=logits, count=count)
    candidates = [
        build("zlpr", zlpr_loss, target, peer="BCE"),
        build("zlpr compiled", compiled(zlpr_loss), target, peer="BCE compiled"),
        build("BCE", bce, floating, peer="BCE"),
        build("BCE compiled", compiled(bce), floating, peer="BCE compiled"),
        *(build(name, loss, floating, peer="BCE") for name, loss in of_timm(case).items()),
    ]
    return Field(candidates, copy(), seconds_told, copied=2 * COPIED)


def of_timm(case: Case) -> dict[str, Loss]:
    """The losses of timm that take such targets, if it is installed."""
    if not find_spec("timm") or case.size > MOST:
        return {}
    timm = load_timm()
    hard = {} if case.soft else {"timm ZLPR": timm.ZlprLoss()}
    return {"timm ASL": timm.AsymmetricLossMultiLabel()} | hard


def candidate(name: str, loss: Loss, target: Tensor, *, peer: str, logits: Tensor, count: int) -> Candidate:
    """``loss`` of these logits and its gradient, on the device alone and as a user waits for it."""

    def forward() -> Tensor:
        return loss(logits, target)

    def both() -> Tensor:
        return torch.autograd.grad(forward(), logits)[0]

    allocations = on_gpu if logits.is_cuda else on_cpu
    passes = {"device": OnDevice(both, count), "step": partial(steps, both, count)}
    return Candidate(name, peer, passes, lambda: Memory(allocations(forward)[0], allocations(both)[1]))


def steps(call: Call, count: int) -> float:
    """Seconds of a step as a training loop sees it: so many are queued, and the last is waited for."""
    synchronize()
    start = perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return (perf_counter() - start) / count


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if IS_THERE:
        torch.cuda.synchronize()


class OnDevice:
    """A stopwatch for what a call takes on the device. The graph is captured when it is first used."""

    def __init__(self, call: Call, count: int) -> None:
        self.call, self.count = call, count
        self.replay: Callable[[], object] | None = None

    def __call__(self) -> float:
        """Seconds of one call."""
        if not IS_THERE:
            return wall(self.call)
        if self.replay is None:
            self.replay = captured(self.call, self.count)
        return stopwatch(self.replay) / self.count


def captured(call: Call, count: int) -> Callable[[], object]:
    """So many calls as a CUDA graph; as they are, where a call waits for the device and cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compile and allocate first, on a side stream, as capturing demands
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(count):
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: [call() for _ in range(count)]
    return graph.replay


def stopwatch(call: Callable[[], object]) -> float:
    """Seconds between an event before and an event after it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def copy() -> Callable[[], float]:
    """The bandwidth that all are compared with: a stopwatch for a copy that no cache holds."""
    source = torch.zeros(COPIED // 4, device=DEVICE)
    target = torch.empty_like(source)
    return OnDevice(lambda: target.copy_(source), 1)
