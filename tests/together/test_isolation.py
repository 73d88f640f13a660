"""With every framework installed, importing one package imports no other's framework. One process each."""

import os
import subprocess
import sys

import pytest
from registry import ENTRIES, FRAMEWORKS, ROOT

ENVIRONMENTS = [pytest.param(entry, id=name) for name, entry in ENTRIES.items() if not {"only", "device"} & set(entry)]


def use(entry):
    """A program that calls the loss of ``entry``."""
    return f"import harness; harness.load({next(iter(entry['harness']))!r}).loss([[0.0, 1.0]], [[0, 1]])"


def loaded(program, keras_backend="tensorflow"):
    """The frameworks in sys.modules after ``program`` ran in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": keras_backend, "PYTHONPATH": str(ROOT / "tests/support")}
    program += f"; import sys; print(*[name for name in {FRAMEWORKS} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_is_here_to_be_imported(framework):
    """Else the tests below could not fail."""
    assert framework in loaded(f"import {framework}")


@pytest.mark.parametrize("entry", ENVIRONMENTS)
@pytest.mark.parametrize("used", [False, True], ids=["imported", "used"])
def test_only_its_own_framework(entry, used):
    keras_backend = entry.get("keras", "tensorflow")
    program = use(entry) if used else f"import {entry['package']}"
    # Compared with what the framework itself loads: Keras, for one, imports JAX on its other backends too
    there = loaded(program, keras_backend)
    assert there == loaded(f"import {entry['framework']}", keras_backend)
    assert "tensorflow" not in there or entry.get("keras") == "tensorflow"
