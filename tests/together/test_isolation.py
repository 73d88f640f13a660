"""With every framework installed, importing one package imports no other's framework. One process each."""

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest
from registry import ENTRIES, FRAMEWORKS, ROOT

ENVIRONMENTS = [pytest.param(entry, id=name) for name, entry in ENTRIES.items() if not {"only", "device"} & set(entry)]


def use(entry):
    """A program that calls the loss of ``entry``."""
    return f"import harness; harness.load({next(iter(entry['harness']))!r}).loss([[0.0, 1.0]], [[0, 1]])"


@cache
def loaded(*programs, keras_backend):
    """The frameworks in sys.modules after each of the ``programs``, which run one after the other in a new process."""
    environment = {**os.environ, "KERAS_BACKEND": keras_backend, "PYTHONPATH": str(ROOT / "tests/support")}
    report = f"; import sys; print(*[name for name in {FRAMEWORKS} if name in sys.modules])"
    command = [sys.executable, "-c", "\n".join(program + report for program in programs)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return [set(line.split()) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_is_here_to_be_imported(framework):
    """Else the test below could not fail."""
    assert find_spec(framework)


@pytest.mark.parametrize("entry", ENVIRONMENTS)
def test_only_its_own_framework(entry):
    """When it is imported, and when it is used."""
    keras_backend = entry.get("keras", "tensorflow")
    imported, used = loaded(f"import {entry['package']}", use(entry), keras_backend=keras_backend)
    # Compared with what the framework itself loads: Keras, for one, imports JAX on its other backends too
    (there,) = loaded(f"import {entry['framework']}", keras_backend=keras_backend)
    assert imported == used == there
    assert (entry["framework"] in there) == (entry["framework"] in FRAMEWORKS)
    assert ("tensorflow" in there) == (entry.get("keras") == "tensorflow")
