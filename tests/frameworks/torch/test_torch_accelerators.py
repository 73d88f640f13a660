"""The backend "torch-cuda": without a GPU it fails in one sentence, and its tests are right about what a GPU owes."""

import os
import subprocess
import sys

from registry import ROOT

FILES = [f"tests/conformance/test_{name}.py" for name in ("sparse", "defects", "helpers", "messages", "peers")]


def suite(*arguments, **variables):
    """The conformance suite on "torch-cuda" in a process of its own."""
    command = [sys.executable, "-m", "pytest", "--backend=torch-cuda", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        **variables,
    }
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_fails():
    done = suite("tests/conformance/test_values.py", CUDA_VISIBLE_DEVICES="")
    assert done.returncode not in (0, 5)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert len(said) == 1
    assert said[0].startswith("ERROR: The backend 'torch-cuda' needs a GPU, and PyTorch")


def test_what_a_gpu_owes():
    """On a CPU that passes for one: tests/support/stand_in.py."""
    done = suite("-p", "stand_in", *FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_what_a_gpu_owes_when_compiled(pytestconfig):
    some = ("-k", "overhead-bool or batch")  # each compiles for seconds
    # `nox -s minimums` passes -Wdefault
    tolerated = [f"-W{warning}" for warning in pytestconfig.getoption("pythonwarnings") or []]
    done = suite("-p", "stand_in_compiled", "tests/frameworks/torch-cuda", *some, *tolerated)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stand_in_does_not_read_ids():
    """Else the test above could not fail: where ids are read, an illegal one is an error and not NaN."""
    done = suite("-p", "stand_in", "--backend=torch,torch-cuda", "tests/conformance/test_sparse.py", "-k", "named")
    assert done.returncode == 1
    assert "Failed: DID NOT RAISE" in done.stdout
    assert "[torch-cuda-" not in "".join(line for line in done.stdout.splitlines() if line.startswith("FAILED"))
