"""Asking for a backend that is not there fails; it is never a quiet skip."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run_suite(backend, tmp_path):
    """The suite in a process where no framework can be imported."""
    for framework in ("torch", "jax", "tensorflow", "keras"):
        (tmp_path / f"{framework}.py").write_text("raise ImportError('not installed')\n")
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = [
        f"--backend={backend}",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/conformance/test_values.py",
        "-k",
        "golden",
    ]
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("asked", ["torch", "jax", "tf", "keras-jax", "keras-torch", "numpy,torch", "paddle", ""])
def test_a_missing_backend_is_a_failure(asked, tmp_path):
    result = run_suite(asked, tmp_path)
    assert result.returncode not in (0, 5), result.stdout
    assert "passed" not in result.stdout
    expected = "not installed" if asked not in ("paddle", "") else "Unknown backend"
    assert expected in result.stdout + result.stderr


def test_a_present_backend_passes(tmp_path):
    result = run_suite("numpy", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout
