"""README, documentation and docstrings run as they stand."""

import re
import subprocess
import sys

import pages
import pytest
from registry import PACKAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
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


RECIPES = {"jax.md", "keras.md", "numpy.md", "pytorch.md"}  # in the sessions that have the trainers
PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.name not in RECIPES)]


@pages.every_block(*PAGES)
def test_page(page, block):
    pages.check(page, block)


def test_readme_shows_every_package():
    for package in PACKAGES:
        assert any(package in block for block in pages.blocks("README.md")), package


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings(package):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", RUN_DOCSTRINGS, package]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split()[0]) >= 3


def test_sessions_that_the_readme_names_exist():
    named = set(re.findall(r'nox -s "?([a-z]+)', README))
    assert {"demo"} <= named
    defined = re.findall(
        r"^def ([a-z]+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert named <= set(defined)
