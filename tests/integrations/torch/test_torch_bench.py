"""The benchmark measures every candidate, and its memory is that of every allocation."""

import re
import subprocess
import sys

from quick_benchmark import BENCHMARKS, BOTH_PASSES, FAMILY, check_that_a_gpu_is_missed, holds_the_gradient, quick_run

CANDIDATES = ("zlpr", "zlpr compiled", "BCE", "BCE compiled", "soft margin", "timm ASL", "timm ZLPR", "textbook ZLPR")
ONE_LABEL = ("one label", "one label, in chunks")
ALLOCATIONS = """
import torch
from torch_calls import on_cpu
x = torch.zeros(1000, requires_grad=True)
call = lambda: x.exp().neg().exp()  # the first result is kept for backward, the second is not
assert on_cpu(call) == (4000, 12000), on_cpu(call)
with torch.no_grad():
    assert on_cpu(call) == (0, 8000), on_cpu(call)
class Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.kept = torch.ones(500)  # without save_for_backward
        return x.sum()
assert on_cpu(lambda: Keeps.apply(x)) == (2000, 2004), on_cpu(lambda: Keeps.apply(x))
"""


def test_quick(tmp_path):
    found = quick_run("torch", tmp_path)
    assert set(found) == {(name, part) for name in CANDIDATES for part in BOTH_PASSES}
    assert all(holds_the_gradient(row) and int(row["saved_bytes"]) >= 0 for row in found.values())
    assert found["BCE", "forward"]["saved_bytes"] == "0"


def test_allocations_are_counted_whoever_keeps_them():
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATIONS], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_quick_linear(tmp_path):
    found = quick_run("torch", tmp_path, "linear")
    assert {name for name, _ in found} == {
        "dense BCE",
        "dense zlpr",
        "zlpr",
        "zlpr, class ids",
        "zlpr, 16 MiB",
        "zlpr, all at once",
        "zlpr, by rows",
        "zlpr, by classes",
        *ONE_LABEL,
        "products alone",
    }
    assert all(holds_the_gradient(row) for (name, _), row in found.items() if name != "products alone")


def test_quick_family(tmp_path):
    found = quick_run("torch", tmp_path, "family")
    assert {name for name, _ in found} >= FAMILY
    assert {part for _, part in found} == set(BOTH_PASSES)


def test_quick_gpu(tmp_path):
    """On a CPU where there is no GPU: that the program works."""
    found = quick_run("torch", tmp_path, "gpu")
    names = ("zlpr", "zlpr compiled", "BCE", "BCE compiled", "timm ASL", "timm ZLPR")
    assert set(found) == {(name, part) for name in names for part in ("device", "step")}
    assert all(holds_the_gradient(row) for row in found.values())


def test_quick_gpu_linear(tmp_path):
    """The same of a linear layer, and small chunks beside large ones."""
    found = quick_run("torch", tmp_path, "gpu-linear")
    names = ("dense BCE", "dense zlpr", "zlpr", "zlpr, class ids", "zlpr, 64 MiB", *ONE_LABEL)
    assert set(found) == {(name, "device") for name in names}
    assert all(holds_the_gradient(row) for row in found.values())


def test_what_a_machine_with_a_gpu_runs(tmp_path):
    """On a CPU where there is no GPU: a few tests, one small shape, and the table at the end."""
    command = [sys.executable, BENCHMARKS / "gpu.py", "--quick", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, numbers, last = (line for line in done.stdout.splitlines() if line.startswith(("64x20", "torch")))
    assert re.fullmatch(r"64x20 +3 % +float32( +\d+\.\d\d){3}( +\d+){2} *", numbers)
    assert re.match(r"torch(-cuda)?: \d+ passed", last)


def test_a_gpu_that_is_not_there_is_missed():
    check_that_a_gpu_is_missed("torch")
