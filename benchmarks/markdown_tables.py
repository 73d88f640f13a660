"""The measured tables of README and docs: ``python benchmarks/markdown_tables.py`` writes them from the CSV files.

A table stands on a page between ``<!-- measured: NAME -->`` and ``<!-- end -->``; a test compares the two.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "many-classes.md")
MARKED = re.compile(r"(<!-- measured: (\S+) -->\n\n).*?(\n<!-- end -->)", flags=re.DOTALL)
COST = {  # of the table `cost`: each column's file, and the column there
    "PyTorch eager": ("torch-ratio", "zlpr"),
    "PyTorch compiled": ("torch-ratio", "zlpr compiled"),
    "JAX `jit`": ("jax-ratio", "zlpr"),
    "TensorFlow XLA": ("tf-ratio", "zlpr"),
    "Keras training step": ("tf-ratio", "keras zlpr"),
    "pasted snippet, PyTorch": ("torch-ratio", "textbook ZLPR"),
}
COST_ROWS = ("64x20", "256x1000", "512x9605")
RDROP = {  # of its last line, beside two BCE: the file and the line there
    "PyTorch eager": ("torch-family-ratio", "R-Drop"),
    "PyTorch compiled": ("torch-family-ratio", "R-Drop compiled"),
    "JAX `jit`": ("jax-family-ratio", "R-Drop"),
    "TensorFlow XLA": ("tf-family-ratio", "R-Drop"),
}


def main() -> None:
    """Every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """The page with its tables as the CSV files have them now."""
    return MARKED.sub(lambda found: found[1] + table(found[2]) + found[3], text)


def table(name: str) -> str:
    """In Markdown; ``cost`` is the short one, every other name is that of a file."""
    return markdown(cost() if name == "cost" else read(name))


def cost() -> list[list[str]]:
    """Ratios to BCE for float32 and hard labels: a line a shape, a column a way to call the loss."""
    return [
        ["batch x classes", *COST],
        *([shape, *(ratio(shape, *where) for where in COST.values())] for shape in COST_ROWS),
        [f"R-Drop of {COST_ROWS[-1]}, to two BCE", *(of_pair(*RDROP[way]) if way in RDROP else "" for way in COST)],
    ]


def of_pair(name: str, line: str) -> str:
    """One cell of a file that has a line a candidate, for the largest shape."""
    header, *lines = read(name)
    (cells,) = (cells for cells in lines if cells[0] == line)
    return cells[header.index(COST_ROWS[-1])]


def ratio(shape: str, name: str, column: str) -> str:
    """One cell of a file."""
    header, *lines = read(name)
    (line,) = (line for line in lines if line[:3] == [shape, "3 %", "float32"])
    return line[header.index(column)]


def read(name: str) -> list[list[str]]:
    """The lines of one file, its header first."""
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A table whose first line is the header."""
    header, *rest = (f"| {' | '.join(line)} |\n" for line in lines)
    return header + "|---" * (header.count("|") - 1) + "|\n" + "".join(rest)


if __name__ == "__main__":
    main()
