"""README, documentation and docstrings run as they stand, and read well wherever Markdown is shown."""

import re
import runpy
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
names = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "_triton_kernels"]  # which needs Triton
modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
names = {"np": numpy, **{name: sys.modules[name] for name in ("torch",) if name in sys.modules}}
results = [doctest.testmod(m, extraglobs=names, optionflags=doctest.ELLIPSIS) for m in modules]
print(sum(r.attempted for r in results), "examples")
assert sum(r.failed for r in results) == 0
"""


RECIPES = {"jax.md", "keras.md", "numpy.md", "pytorch.md"}  # in the sessions that have the trainers
GUIDES = sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", *(page for page in GUIDES if page.removeprefix("docs/") not in RECIPES)]
SHOWN = ["README.md", "CONTRIBUTING.md", "docs/api/index.md", *GUIDES]  # the rest of docs/api is for Sphinx alone
FIGURES = sorted((ROOT / "docs" / "figures").glob("[!_]*.py"))


@pages.every_block(*PAGES)
def test_page(page, block):
    pages.check(page, block)


def test_what_a_block_promises_to_print_is_checked():
    pages.check("a page", 'print(1 + 1)  # 2\nprint("x")  # x\n')
    with pytest.raises(AssertionError):
        pages.check("a page", "print(1 + 1)  # 3\n")


def test_readme_shows_every_package():
    for package in PACKAGES:
        assert any(package in block for block in pages.blocks("README.md")), package


def test_readme_can_be_pasted():
    assert ">>>" not in README


@pytest.mark.parametrize("page", SHOWN)
def test_page_is_plain_markdown(page):
    """A code host shows directives, roles and links without a text as they are written."""
    text = pages.prose(page)
    assert not re.findall(r"^ *(?:`{3,}|:{3,}) *\{.*|^ *:{3,}.*|\{[a-z:-]+\}`.*|\[\]\(.*", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", SHOWN)
def test_math_survives_markdown(page):
    r"""A code host takes the backslash from ``\{`` and ``\,`` before it sets the formula, and refuses ``\operatorname``."""
    for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", pages.prose(page), flags=re.DOTALL):
        assert not re.search(r"\\[^A-Za-z\n]|\\operatorname", formula), formula


@pytest.mark.parametrize("page", SHOWN)
def test_links_lead_somewhere(page):
    text = pages.prose(page)
    for target in re.findall(r"\]\(([^)#\s]+)|^\[[^\]]+\]: (\S+)|(?:src|href)=\"([^\"]+)\"", text, flags=re.MULTILINE):
        path = "".join(target)
        assert path.startswith("https://") or ((ROOT / page).parent / path).exists(), path


@pytest.mark.parametrize("script", FIGURES, ids=lambda script: script.stem)
def test_figure_is_what_its_script_draws(script, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    style = __import__("_style")
    monkeypatch.setattr(style, "DRAWN", tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    drawn = f"{script.stem}.svg"
    pages.check_drawing(tmp_path / drawn, script.parent / drawn, f"run {script.relative_to(ROOT)}")


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md", "docs/many-classes.md"])
def test_tables_are_those_of_the_benchmark(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    text = (ROOT / page).read_text(encoding="utf-8")
    tables = __import__("markdown_tables")
    assert tables.filled(text) == text, f"run benchmarks/{tables.__name__}.py"
    assert tables.MARKED.search(text)


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
