"""Time and memory of ZLPR beside its peers: ``python benchmarks/run.py --framework torch``."""

import argparse
import ctypes
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import report
from cases import CPU, FAMILY, GPU, GPU_LINEAR, LINEAR, QUICK, Case
from machine import machine
from measure import race
from rich.console import Console
from rich.progress import track

FRAMEWORKS = ("torch", "jax", "tf")
CASES = {"peers": CPU, "family": FAMILY, "linear": LINEAR, "gpu": GPU, "gpu-linear": GPU_LINEAR}
ON_GPU = {"gpu": ("torch", "jax"), "gpu-linear": ("torch",)}  # of which frameworks
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KINETO_LOG_LEVEL": "6",  # PyTorch's profiler
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else processes that wait to compile compete with what is timed
}
RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> None:
    """Measure, write and show."""
    arguments = parse(argv)
    if arguments.framework not in ON_GPU.get(arguments.table, FRAMEWORKS):
        sys.exit(f"The table `{arguments.table}` is for {' and '.join(ON_GPU[arguments.table])}.")
    if not arguments.plain_malloc:
        keep_memory()
    peers = load(arguments.framework, arguments.table, arguments.threads)
    cases = CASES[arguments.table] + peers.EXTRA_CASES
    cases = QUICK if arguments.quick else cases
    if arguments.table in ON_GPU:
        if not (peers.IS_THERE or arguments.quick):
            sys.exit(f"The table `{arguments.table}` needs a GPU, and {arguments.framework} finds none here.")
        cases = tuple(replace(case, device=peers.DEVICE) for case in cases)
    rounds, seconds = (5, 0.5) if arguments.quick else (arguments.rounds, arguments.seconds)
    found = measure(peers, cases, threads=arguments.threads, rounds=rounds, seconds=seconds)
    setting = machine(peers.VERSIONS, arguments.threads)
    if arguments.output:
        name = arguments.framework + ("" if arguments.table == "peers" else f"-{arguments.table}")
        report.write(arguments.output, name, found, setting)
    Console(width=max(100, Console().width)).print(report.table(found, setting))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; a quick run writes nothing unless told where."""
    parser = argparse.ArgumentParser(description="Time and memory of ZLPR beside its peers.")
    parser.add_argument("--framework", choices=FRAMEWORKS, default="torch")
    parser.add_argument("--table", choices=CASES, default="peers", help="zlpr_loss, all of zlpr, a layer; on a GPU")
    parser.add_argument("--quick", action="store_true", help="one small shape, a few rounds")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="and cores (default: 2)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="of each case, at least (default: 20)")
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="of each case, at least (default: 5)")
    parser.add_argument(
        "--plain-malloc", action="store_true", help="let glibc return what is freed, as it does by default"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the CSV files (default: benchmarks/results)")
    arguments = parser.parse_args(argv)
    if not arguments.quick:
        arguments.output = arguments.output or RESULTS
    return arguments


def load(framework: str, table: str, threads: int) -> ModuleType:
    """The candidates of one framework, which counts its cores when it is imported; only two tables use a GPU."""
    on_gpu = table in ON_GPU
    if hasattr(os, "sched_setaffinity") and not on_gpu:  # on Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= QUIET | {"KERAS_BACKEND": "tensorflow"}
    if not on_gpu:
        os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return importlib.import_module(f"{framework}_{table.replace('-', '_')}")


def keep_memory() -> None:
    """Have glibc keep what is freed: else a loss with many temporaries waits for new pages at each call."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, the most there may be
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def measure(peers: ModuleType, cases: Sequence[Case], *, threads: int, rounds: int, seconds: float) -> list[report.Row]:
    """Case after case; within one, all in turns."""
    found = []
    for case in track(cases, "Measuring", console=Console(stderr=True)):
        field = peers.field(case, threads)
        calls = {(c.name, name): call for c in field.candidates for name, call in c.passes.items()}
        times = race(calls | {"copy": field.copy}, rounds=rounds, seconds=seconds, clock=field.clock)
        found += report.rows(case, field, times, threads)
    return found


if __name__ == "__main__":
    sys.exit(main())
