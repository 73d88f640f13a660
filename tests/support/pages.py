"""The Python blocks of README and documentation, each run as it stands in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
_RUN = """
import contextlib, doctest, io, re, sys
text = sys.stdin.read()
test = doctest.DocTestParser().get_doctest(text, {}, "block", sys.argv[1], 0)
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
runner.run(test)
assert runner.summarize(verbose=False).failed == 0
if not test.examples:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(text, {"__name__": "__main__"})
    promised = re.findall(r"^print\\(.*\\)  # (.*)$", text, flags=re.MULTILINE)
    assert not promised or printed.getvalue().splitlines() == promised, printed.getvalue()
"""


def blocks(page):
    """What stands between ```python and ``` on a page, which may be indented by a list or a tab."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```python\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) for indent, body in found]


def prose(page):
    """The page without its blocks of code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^( *)```(?:python|console|bibtex|text)?\n.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)


def every_block(*pages):
    """A parametrisation by ``(page, block)``."""
    pairs = [(page, block) for page in pages for block in blocks(page)]
    return pytest.mark.parametrize(("page", "block"), pairs, ids=[f"{page}: {_first_line(b)}" for page, b in pairs])


def _first_line(block):
    return next(line.removeprefix(">>> ") for line in block.splitlines() if line.strip())


def check(page, block, **environment):
    """Run ``block``: as a doctest where it has prompts, else as a program, whose ``print(...)  # text`` prints the text."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _RUN, page]
    done = subprocess.run(
        command, input=block, capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8", **environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_drawing(new, committed, advice):
    """Two SVG files are one, up to a hundredth of a point: a processor may round the last digit of exp otherwise."""
    texts = [path.read_text(encoding="utf-8") for path in (new, committed)]
    assert NUMBER.sub("", texts[0]) == NUMBER.sub("", texts[1]), f"{advice}, and commit what it draws"
    numbers = ([float(number) for number in NUMBER.findall(text)] for text in texts)
    np.testing.assert_allclose(*numbers, rtol=0, atol=0.01)
