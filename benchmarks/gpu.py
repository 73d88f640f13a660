"""All that a machine with a GPU can show: ``python benchmarks/gpu.py``, by this interpreter and what it has installed.

For PyTorch, and for JAX if it sees the GPU: the conformance suite on it, the benchmark's table ``gpu``, and one table
of both at the end. ``nox -s gpu`` installs what is needed and calls it. ``--quick`` takes a few tests and one small
shape, on a CPU where there is no GPU: it shows that the program works.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NEEDED = ("pytest", "hypothesis", "mpmath", "ml_dtypes", "scipy", "array_api_compat")
SEES = {  # whether a framework sees a GPU, asked in a process of its own: JAX takes most of its memory at once
    "torch": "import torch, sys; sys.exit(not torch.cuda.is_available())",
    "jax": "import jax, sys; sys.exit(jax.default_backend() != 'gpu')",
}
FEW = ("tests/conformance/test_values.py", "-k", "golden")
SETTING = ("shape", "targets", "dtype")
COLUMNS = {  # of the table at the end: framework, candidate, pass, and what is shown of it
    "PyTorch, device / BCE": ("torch", "zlpr", "device", "ratio"),
    "compiled / BCE compiled": ("torch", "zlpr compiled", "device", "ratio"),
    "step / BCE": ("torch", "zlpr", "step", "ratio"),
    "% of a copy, one pass": ("torch", "zlpr", "device", "share_of_one_pass"),
    "two": ("torch", "zlpr", "device", "share_of_two_passes"),
    "JAX, device / optax BCE": ("jax", "zlpr", "device", "ratio"),
    "% of a copy, two passes": ("jax", "zlpr", "device", "share_of_two_passes"),
}
Numbers = dict[tuple[str, ...], str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run all, print the table, and tell by the exit status whether every test passed."""
    arguments = parse(argv)
    if missing := [name for name in NEEDED if not find_spec(name)]:
        sys.exit(f"Missing: {', '.join(missing)}. Install the dependency groups `test` and `bench`.")
    seen = [name for name in SEES if find_spec(name) and sees_gpu(name)]
    if not (seen or arguments.quick):
        sys.exit("No GPU: neither PyTorch nor JAX finds one by this interpreter.")
    backends = {name: f"{name}-cuda" for name in seen} or {name: name for name in SEES if find_spec(name)}
    tests = FEW if arguments.quick else arguments.tests
    outcomes = {backend: conformance(backend, tests) for backend in backends.values()}
    for framework in backends:
        benchmark(framework, arguments)
    console = Console(width=max(160, Console().width))
    console.print(table(numbers(arguments.output, backends)))
    for backend, (_, said) in outcomes.items():
        console.print(f"{backend}: {said}")
    return max(status for status, _ in outcomes.values())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few tests and one small shape")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for the CSV files")
    parser.add_argument("--seconds", default="5", metavar="S", help="of each case, at least (default: 5)")
    parser.add_argument("tests", nargs="*", default=["tests/conformance"], help="files for pytest")
    return parser.parse_args(argv)


def environment() -> dict[str, str]:
    """The packages of this clone, whether they are installed or not; JAX shares the GPU with the workers of pytest."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def sees_gpu(framework: str) -> bool:
    """Whether it finds one."""
    return python("-c", SEES[framework], capture_output=True).returncode == 0


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """This interpreter, in the clone."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), text=True, check=False, **options)  # noqa: S603


def conformance(backend: str, tests: Sequence[str]) -> tuple[int, str]:
    """The exit status of pytest, and its last line."""
    workers = ("-n4",) if find_spec("xdist") else ()
    done = python("-m", "pytest", f"--backend={backend}", "-q", *workers, *tests, stdout=subprocess.PIPE)
    sys.stdout.write(done.stdout)
    return done.returncode, (done.stdout.strip().splitlines() or ["nothing ran"])[-1]


def benchmark(framework: str, arguments: argparse.Namespace) -> None:
    """Into the folder for results; a failure ends the run."""
    command = ["benchmarks/run.py", "--framework", framework, "--table", "gpu"]
    length = ["--quick"] if arguments.quick else ["--seconds", arguments.seconds]
    python(*command, *length, "--output", str(arguments.output.absolute())).check_returncode()


def numbers(folder: Path, frameworks: Sequence[str]) -> dict[tuple[str, ...], Numbers]:
    """For each case what COLUMNS shows, by framework, candidate, pass and column."""
    found: dict[tuple[str, ...], Numbers] = {}
    for framework in frameworks:
        with (folder / f"{framework}-gpu.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                cells = found.setdefault(tuple(row[name] for name in SETTING), {})
                here = framework, row["candidate"], row["pass"]
                cells |= {place: row[place[3]] for place in COLUMNS.values() if place[:3] == here}
    return found


def table(found: dict[tuple[str, ...], Numbers]) -> Table:
    """A line a case."""
    view = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in (*SETTING, *COLUMNS):
        view.add_column(name, justify="left" if name in SETTING else "right")
    for case, cells in found.items():
        view.add_row(*case, *(shown(place[3], cells.get(place)) for place in COLUMNS.values()))
    return view


def shown(column: str, value: str | None) -> str:
    """A ratio as it is, a share in per cent, and nothing for what was not measured."""
    if value is None:
        return ""
    return f"{float(value):.2f}" if column == "ratio" else f"{100 * float(value):.0f}"


if __name__ == "__main__":
    sys.exit(main())
