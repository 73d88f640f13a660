"""Question 4: what do smoothing, mixup, R-Drop and a learned threshold add, with the number of classes?

BCE as a mean is in the list as well: it is BCE but for rounding, so its gain is what chance makes.

``python -m studies.additions DIR`` reads the scores of a run in DIR and writes additions.csv beside them.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from studies.metrics import METRICS
from studies.readings import READINGS
from studies.results import read, write
from studies.statistics import gains, pick

ADDED = {
    "BCE mean": "BCE",
    "BCE smoothing": "BCE",
    "BCE mixup": "BCE",
    "BCE R-Drop": "BCE",
    "ZLPR smoothing": "ZLPR",
    "ZLPR mixup": "ZLPR",
    "ZLPR R-Drop": "ZLPR",
    "TLPR": "ZLPR",
}
HEAD = ("model", "reading", "metric", "loss", "over", "set", "classes", "gain", "half interval", "verdict")


def additions(rows: Iterable[Mapping[str, str]], classes: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    """By set, from few classes to many: mean gain over the seeds, positive where the addition is better."""
    rows = list(rows)
    models = dict.fromkeys(row["model"] for row in rows)
    for where in product(models, READINGS, METRICS):
        scores = pick(rows, **dict(zip(("model", "reading", "metric"), where, strict=True)))
        for loss, over in ADDED.items():
            for name, gain in sorted(gains(scores, loss, over).items(), key=lambda pair: int(classes[pair[0]])):
                numbers = f"{gain.gain:.6f}", f"{gain.half:.6f}"
                yield *where, loss, over, name, classes[name], *numbers, gain.verdict


def main(folder: Path) -> None:
    """Write additions.csv."""
    classes = {row["set"]: row["classes"] for row in read(folder / "sets.csv")}
    write(folder / "additions.csv", [HEAD, *additions(read(folder / "scores.csv"), classes)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
