"""A quick run of the benchmark, read back: one program for the sessions of three frameworks."""

import csv
import math
import os
import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIBRARIES = {"torch": "torch", "jax": "jax", "tf": "tensorflow"}
FILES = (".csv", "-ratio.csv", "-copies.csv", "-bytes.csv", "-machine.csv")
FILES_OF_GPU = (*FILES, "-share.csv", "-step.csv")
ALWAYS_POSITIVE = ("rounds", "q20_us", "median_us", "q80_us", "copy_us", "ratio", "copies", "ns_per_logit_per_core")
BOTH_PASSES = ("forward", "forward+backward")


FAMILY = {
    "zlpr",
    "threshold",
    "mask",
    "weight",
    "pos_weight",
    "smoothing",
    "ignore_index",
    "terms",
    "learned threshold",
}
FAMILY |= {"KL", "symmetric KL", "zlpr_divergence", "R-Drop", "naive symmetric KL"}


def quick_run(framework, folder, table="peers"):
    """The CSV by candidate and pass, after what holds for every framework and table."""
    command = [sys.executable, BENCHMARKS / "run.py", "--framework", framework, "--table", table]
    command += ["--quick", "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    name = framework if table == "peers" else f"{framework}-{table}"
    assert {path.name for path in folder.iterdir()} == {
        name + ending for ending in (FILES_OF_GPU if table == "gpu" else FILES)
    }
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
    for row in rows:
        if table == "gpu":
            check_shares(row)
        assert all(0 < float(row[column]) < math.inf for column in ALWAYS_POSITIVE), row
        assert float(row["q20_us"]) <= float(row["median_us"]) <= float(row["q80_us"])
        assert re.fullmatch(rf"zlpr [^,]+, {LIBRARIES[framework]} [^,]+(, [a-z]+ [^,]+)+(, GPU .+)?", row["versions"])
        assert (row["cpu"] != "", row["threads"]) == (True, "2")
    found = {(row["candidate"], row["pass"]): row for row in rows}
    assert len(found) == len(rows)
    check_ratios(found)
    return found


def check_that_a_gpu_is_missed(framework):
    """The table of a GPU, asked for without one, says so and fails."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, BENCHMARKS / "run.py", "--framework", framework, "--table", "gpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"The table `gpu` needs a GPU, and {framework} finds none here."


def check_ratios(found):
    """Every peer is there, and is compared with itself."""
    for (_, name), row in found.items():
        peer = found[row["peer"], name]
        assert float(peer["ratio"]) == 1
        expected = float(row["median_us"]) / float(peer["median_us"])
        assert math.isclose(float(row["ratio"]), expected, rel_tol=1e-4)


def check_shares(row):
    """The quick case has float32 logits and bool targets: 9 and 14 bytes a logit at the speed of the copy."""
    copied = 2 * 2**20 if row["device"] == "cpu" else 2 * 2**28
    for name, moved in (("share_of_one_pass", 9), ("share_of_two_passes", 14)):
        expected = moved * int(row["logits"]) / copied * float(row["copy_us"]) / float(row["median_us"])
        assert math.isclose(float(row[name]), expected, rel_tol=1e-4)


def holds_the_gradient(row):
    """The peak, which counts the gradient."""
    return float(row["peak_bytes"]) >= 4 * int(row["logits"])
