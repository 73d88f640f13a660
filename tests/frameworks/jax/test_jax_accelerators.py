"""The backend "jax-cuda" without a GPU fails in one sentence."""

import os
import subprocess
import sys

from registry import ROOT


def test_without_a_gpu_it_fails():
    command = [sys.executable, "-m", "pytest", "--backend=jax-cuda", "-q", "-p", "no:cacheprovider"]
    command.append("tests/conformance/test_values.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, 5)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert len(said) == 1
    assert said[0].startswith("ERROR: The backend 'jax-cuda' needs a GPU, and JAX")
