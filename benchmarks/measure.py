"""Time: all candidates in turns, round by round, so that whatever slows the machine slows them alike."""

import gc
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np

Call = Callable[[], Any]
Key = TypeVar("Key", bound=Hashable)
WARM_UP = 3
POOLED = 2**20  # bytes: below this, several threads copy no faster than one


class Memory(NamedTuple):
    """Bytes beyond the inputs; None where the framework does not tell."""

    saved: int | None = None  # between forward and backward, the loss not counted
    peak: int | None = None  # of forward and backward, the gradient counted


@dataclass(frozen=True)
class Candidate:
    """One loss, ready to be called."""

    name: str
    peer: str  # the candidate that it is compared with
    passes: Mapping[str, Call]
    memory: Callable[[], Memory] = Memory


def wall(call: Call) -> float:
    """Seconds that ``call`` takes; what it returns is released afterwards."""
    start = perf_counter()
    result = call()
    seconds = perf_counter() - start
    del result
    return seconds


@dataclass(frozen=True)
class Field:
    """The candidates of a case, the plain copy of its logits that is timed beside them, and the clock."""

    candidates: list[Candidate]
    copy: Call
    clock: Callable[[Call], float] = wall
    copied: int = 0  # bytes that the copy reads and writes, where a share of its bandwidth is wanted


def race(
    calls: Mapping[Key, Call], *, rounds: int, seconds: float, clock: Callable[[Call], float]
) -> dict[Key, np.ndarray]:
    """The times of each call: a round makes each once, in random order; at least so many rounds, for so long."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    order, rng = list(calls), np.random.default_rng(0)
    for call in [*calls.values()] * WARM_UP:
        call()
    gc.collect()
    gc.disable()
    end = perf_counter() + seconds
    while len(times[order[0]]) < rounds or perf_counter() < end:
        for key in (order[place] for place in rng.permutation(len(order))):
            times[key].append(clock(calls[key]))
    gc.enable()
    return {key: np.array(values) for key, values in times.items()}


def seconds_told(stopwatch: Callable[[], float]) -> float:
    """The clock of a field whose calls are stopwatches: they say themselves how long what they time took."""
    return stopwatch()


def enough(size: int, device: str) -> int:
    """How many steps of so many logits are timed together: on a GPU many, as nobody waits there for each launch."""
    return 1 if device == "cpu" else max(3, min(400, 2**31 // (64 * size)))


def copying(array: np.ndarray, threads: int) -> Call:
    """A call that copies ``array`` into memory allocated before, each thread a share."""
    source, target = array.reshape(-1), np.empty(array.size, array.dtype)
    if array.nbytes < POOLED:
        return partial(np.copyto, target, source)
    targets, sources = (np.array_split(whole, threads) for whole in (target, source))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, targets, sources))
