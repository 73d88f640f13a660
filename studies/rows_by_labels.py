"""Question 1: do training and predicting hold for rows with no label, with one, and with all of them?

``python -m studies.rows_by_labels`` trains on a synthetic set that has all kinds of rows, and on .npz files if given.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from data import Dataset, load_npz

from studies.losses import LOSSES
from studies.readings import chosen_logits
from studies.results import write
from studies.training import Budget, divide

COMPARED = ("BCE", "BCE pos_weight", "focal", "Dice linear", "LSEP", "ZLPR")
KINDS = ("none", "one", "several", "all")
HEAD = ("set", "loss", "seed", "labels", "rows", "subset accuracy", "labels true", "labels predicted")


def synthetic(rows: int = 2400, features: int = 20, classes: int = 10) -> Dataset:
    """Linear scores with noise; the first feature moves all of them, so that a row has any number of labels."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, features)).astype(np.float32)
    scores = x @ random.normal(size=(features, classes)) / np.sqrt(features) + 2 * x[:, :1]
    labels = (scores + 0.3 * random.normal(size=scores.shape) > 0).astype(np.int64)
    return Dataset("synthetic", x, labels, dense=True, rows=None)


def kinds(labels: np.ndarray) -> np.ndarray:
    """The place in KINDS of each row."""
    count = labels.sum(axis=1)
    return np.select([count == 0, count == 1, count == labels.shape[1]], [0, 1, 3], default=2)


def experiment(dataset: Dataset, seeds: int, budget: Budget) -> Iterator[tuple[Any, ...]]:
    """Rows of the CSV; each model is the best of its loss by subset accuracy on validation."""
    for loss in COMPARED:
        for seed in range(seeds):
            part = divide(dataset, seed)
            predicted = chosen_logits(LOSSES[loss], part, seed=seed, budget=budget) > 0
            for number, kind in enumerate(KINDS):
                rows = kinds(part.y_test) == number
                if rows.any():
                    yield dataset.name, loss, seed, kind, rows.sum(), *_scores(part.y_test[rows], predicted[rows])


def _scores(labels: np.ndarray, predicted: np.ndarray) -> tuple[str, ...]:
    right = (labels == predicted).all(axis=1).mean()
    return tuple(f"{number:.6f}" for number in (right, labels.sum(axis=1).mean(), predicted.sum(axis=1).mean()))


def main(argv: list[str] | None = None) -> None:
    """Write rows_by_labels.csv."""
    parser = argparse.ArgumentParser(description="Subset accuracy by the number of labels of a row.")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.npz", help="more sets")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("study"), metavar="DIR")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    datasets = [synthetic(), *map(load_npz, arguments.files)]
    rows = [row for dataset in datasets for row in experiment(dataset, arguments.seeds, Budget())]
    write(arguments.output / "rows_by_labels.csv", [HEAD, *rows])


if __name__ == "__main__":
    main()
