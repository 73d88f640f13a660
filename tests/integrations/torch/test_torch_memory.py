"""What importing the package costs, and a linear layer with very many classes, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

import extreme_memory

LOADED = "import sys, torch; before = set(sys.modules); import zlpr_torch; print(*set(sys.modules) - before)"
BEST = """
import extreme_memory, torch
from zlpr_torch import LinearZLPRLoss
torch.set_num_threads(1)
head, rows = LinearZLPRLoss(16, 400_000), torch.randn(256, 16)
before = extreme_memory.memory().resident
for _ in range(2):
    head.topk(rows, 5)
print(extreme_memory.memory().peak - before)
"""
MIB = 2**20


def test_dynamo_is_not_imported():
    """It takes seconds and 150 MB, in programs that compile nothing."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "zlpr_torch" in loaded
    assert "torch._dynamo" not in loaded


@pytest.fixture
def measured():
    assert extreme_memory.STATUS.exists(), "only Linux says how much memory a process had at most"
    return extreme_memory.measured


def test_three_million_classes(measured):
    """Of 64 features, in float32: 768 MB of weights, and no gradient of them. The program is counted."""
    assert measured("zlpr", labels=3_000_000, batch=64).peak <= 1.2e9


def test_chunks_leave_their_memory_to_the_next(measured):
    """Sums that are kept between them once cost 200 MB here, where the plan says 16."""
    step = measured("zlpr", labels=200_000, batch=1024)
    weights = 4 * 200_000 * (extreme_memory.SIZE + 3)
    assert step.peak - step.program - weights <= 80 * MIB


def test_the_best_labels_leave_their_memory_to_the_next(measured):
    """The best of each part, kept until the last, once cost 400 MB here."""
    done = subprocess.run(
        [sys.executable, "-c", BEST],
        cwd=Path(extreme_memory.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) <= 80 * MIB
