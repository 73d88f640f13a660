"""The registry of backends is complete, and asking for one that is not there fails: it is never a quiet skip."""

import subprocess
import sys
from pathlib import Path

import harness
import pytest
from registry import BACKENDS, ENTRIES, FRAMEWORKS, PACKAGES, ROOT, SETTINGS, folders_of

TESTS = ROOT / "tests"
FRAMEWORK_BACKENDS = [name for name, entry in BACKENDS.items() if entry["package"] != "zlpr_core"]
NOT_BACKENDS = {"__init__", "base", "keras_functions"}


def run_suite(backend, tmp_path):
    """The suite in a process where no framework can be imported."""
    for framework in FRAMEWORKS:
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


def test_every_package_has_an_entry():
    assert {path.parent.name for path in ROOT.glob("zlpr_*/__init__.py")} <= set(PACKAGES)
    assert set(SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)
    assert set(SETTINGS["tool"]["mypy"]["files"]) >= set(PACKAGES)


def test_every_backend_has_a_harness_and_every_harness_a_backend():
    modules = {entry["harness"][name] for name, entry in BACKENDS.items()}
    assert modules == {path.stem for path in Path(harness.__file__).parent.glob("*.py")} - NOT_BACKENDS
    assert len(BACKENDS) == sum(len(entry["harness"]) for entry in ENTRIES.values()), "a name stands for one backend"


def test_every_entry_finds_its_tests():
    assert {path.name for path in (TESTS / "frameworks").iterdir() if path.name != "__pycache__"} <= folders_of(
        BACKENDS
    )
    integrations = {path.name for path in (TESTS / "integrations").iterdir() if path.name != "__pycache__"}
    assert {name for name, entry in ENTRIES.items() if "integrations" in entry} == integrations
    files = {name for entry in ENTRIES.values() for name in entry.get("only", [])}
    assert all((TESTS / f"conformance/test_{name}.py").exists() for name in files)


@pytest.mark.parametrize("asked", [*FRAMEWORK_BACKENDS, "numpy,torch", "paddle", ""])
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
