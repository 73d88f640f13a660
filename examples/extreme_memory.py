"""Memory of this process, and what a training step needs with either head, each measured in a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from extreme_trainer import SIZE, Adagrad
from torch import Tensor
from torch.nn import functional

from zlpr_torch import LinearPlan, LinearZLPRLoss

BYTES = 4  # of a float32
STATUS = Path("/proc/self/status")  # of Linux
ZLPR, BCE = "zlpr", "bce"


class Memory(NamedTuple):
    """Bytes of this process."""

    resident: float
    peak: float


class Step(NamedTuple):
    """A training step of a head alone: seconds of the quickest of three, and bytes of its process."""

    seconds: float
    program: float  # with all that was imported, before the head was made
    peak: float


def memory() -> Memory:
    """Now, and the most there ever was. Elsewhere than on Linux the second stands for both."""
    if STATUS.exists():
        lines = dict(line.split(":") for line in STATUS.read_text().splitlines())
        return Memory(*(1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")))
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return Memory(float("nan"), float("nan"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(peak, peak)


def needed(head: str, *, labels: int, batch: int) -> int:
    """Bytes of a step: weights, biases and Adagrad's numbers, and what is there beside them at most.

    With BCE that is four arrays of all logits: these, their targets and two that the loss makes.
    """
    kept = BYTES * labels * (SIZE + 2)
    if head == BCE:
        return kept + 4 * BYTES * labels * batch
    return kept + BYTES * labels + LinearPlan.of(rows=batch, classes=labels, one_sweep=False).peak


def size_that_fits(labels: int, *, batch: int) -> int:
    """The labels, halved until a step of dense BCE takes half of the free memory at most."""
    while labels > 1 and needed(BCE, labels=labels, batch=batch) > _free() / 2:
        labels //= 2
    return labels


def _free() -> float:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except OSError:
        return 4e9  # of most laptops


def measured(head: str, *, labels: int, batch: int) -> Step:
    """In a new process, as the peak of this one is that of all that it did before."""
    command = [sys.executable, __file__, head, str(labels), str(batch)]
    return Step(**json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def main() -> None:
    """What ``measured`` starts: three steps on inputs of chance, and a line of JSON."""
    head, labels, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    program = memory().resident
    layer = LinearZLPRLoss(SIZE, labels, sparse=True, reduction="sum")
    optimizer = Adagrad(layer.weight, 0.1)
    if head == ZLPR:
        layer.weight_grad_hook = optimizer.step
    inputs, ids = torch.randn(batch, SIZE, requires_grad=True), torch.randint(labels, (batch, 5))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        loss = layer(inputs, ids) if head == ZLPR else dense_bce(layer.logits(inputs), ids)
        loss.backward()
        if head == BCE:
            optimizer.step(slice(None), layer.weight.grad)
        layer.zero_grad()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(Step(min(seconds), program, memory().peak)._asdict()))


def dense_bce(logits: Tensor, ids: Tensor) -> Tensor:
    """Binary cross-entropy as it is used: with a row of zeros and ones for each example."""
    targets = logits.new_zeros(logits.shape).scatter_(1, ids, 1)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


if __name__ == "__main__":
    main()
