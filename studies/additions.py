"""Question 4: what do smoothing, mixup, R-Drop and a learned threshold add, with the number of classes?

``python -m studies.additions DIR`` reads the scores of a run in DIR and writes additions.csv beside them.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from studies.metrics import METRICS
from studies.readings import READINGS
from studies.results import read, write
from studies.statistics import paired, pick

ADDED = {
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
    for model in dict.fromkeys(row["model"] for row in rows):
        for reading in READINGS:
            for metric in METRICS:
                scores = pick(rows, model=model, reading=reading, metric=metric)
                for loss, over in ADDED.items():
                    for name in sorted(
                        (name for name, found in scores if found == loss), key=lambda n: int(classes[n])
                    ):
                        if (name, over) in scores:
                            gain = paired(scores[name, loss], scores[name, over])
                            numbers = f"{gain.gain:.6f}", f"{gain.half:.6f}"
                            yield model, reading, metric, loss, over, name, classes[name], *numbers, gain.verdict


def main(folder: Path) -> None:
    """Write additions.csv."""
    classes = {row["set"]: row["classes"] for row in read(folder / "sets.csv")}
    write(folder / "additions.csv", [HEAD, *additions(read(folder / "scores.csv"), classes)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
