"""README and docstrings run as they stand, each block in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
RUN_DOCTEST = """
import doctest, sys
text = sys.stdin.read()
test = doctest.DocTestParser().get_doctest(text, {}, "block", "README.md", 0)
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
runner.run(test)
assert runner.summarize(verbose=False).failed == 0
assert test.examples or exec(text, {}) is None
"""
RUN_DOCSTRINGS = """
import doctest, importlib, pkgutil, sys
import numpy
package = importlib.import_module(sys.argv[1])
modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
names = {"np": numpy, **{name: sys.modules[name] for name in ("torch",) if name in sys.modules}}
results = [doctest.testmod(m, extraglobs=names, optionflags=doctest.ELLIPSIS) for m in modules]
print(sum(r.attempted for r in results), "examples")
assert sum(r.failed for r in results) == 0
"""


def run(program, *arguments, text=""):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8")


def first_line(block):
    return next(line.removeprefix(">>> ") for line in block.splitlines() if line.strip())


@pytest.mark.parametrize("block", BLOCKS, ids=map(first_line, BLOCKS))
def test_readme_block(block):
    result = run(RUN_DOCTEST, text=block)
    assert result.returncode == 0, result.stdout + result.stderr


def test_readme_shows_every_package():
    for package in ("zlpr_core", "zlpr_torch", "zlpr_jax", "zlpr_tf"):
        assert any(package in block for block in BLOCKS), package


@pytest.mark.parametrize("package", ["zlpr_core", "zlpr_torch", "zlpr_jax", "zlpr_tf"])
def test_docstrings(package):
    result = run(RUN_DOCSTRINGS, package)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split()[0]) >= 3


def test_sessions_that_the_readme_names_exist():
    named = set(re.findall(r'nox -s "?([a-z]+)', README))
    assert {"demo"} <= named
    defined = re.findall(
        r"^def ([a-z]+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert named <= set(defined)
