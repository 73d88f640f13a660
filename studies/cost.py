"""Question 3: what does ZLPR cost beside BCE, as the label set grows? From the benchmark, which measures it by itself.

``python -m studies.cost DIR`` writes cost.csv: the time of loss and gradient as a ratio to the framework's BCE.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studies import ROOT
from studies.results import read, write

FRAMEWORKS = ("torch", "jax", "tf")
PASSES = ("forward+backward", "training step")
SETTING = {"dtype": "float32", "targets": "3 %", "candidate": "zlpr"}
HEAD = ("framework", "batch", "classes", "pass", "ratio to BCE", "ns a logit and core")


def cost(framework: str) -> Iterator[tuple[Any, ...]]:
    """By shape: linear in the classes where the last column stays the same."""
    for row in read(ROOT / "benchmarks" / "results" / f"{framework}.csv"):
        if SETTING.items() <= row.items() and row["pass"] in PASSES and row["shape"].count("x") == 1:
            batch, classes = row["shape"].split("x")
            yield framework, batch, classes, row["pass"], row["ratio"], row["ns_per_logit_per_core"]


def main(folder: Path) -> None:
    """Write cost.csv."""
    write(folder / "cost.csv", [HEAD, *(row for framework in FRAMEWORKS for row in cost(framework))])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
