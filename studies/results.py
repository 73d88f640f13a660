"""The CSV files of a run: scores as they come, and what they depend on. A run that was stopped goes on from there."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from data import DataError, Dataset
from machine import machine

from studies import training
from studies.losses import LOSSES
from studies.models import DROPOUT, HIDDEN
from studies.readings import CRITERION, METRICS, READINGS, WANTED, Chosen
from studies.training import Budget, Configuration, Part

UNIT = ("set", "model", "loss", "seed")
COLUMNS = (*UNIT, "reading", "metric", *Configuration._fields, "step", "threshold", "validation", "test")
Unit = tuple[str, str, str, int]


class Scores:
    """scores.csv in a folder: a row for each set, model, loss, seed, reading and metric."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.budget = folder / "scores.csv", budget
        agree(folder / "settings.csv", settings(budget))
        write(folder / "losses.csv", described_losses())
        rows = read(self.path) if self.path.exists() else []
        counts = Counter(unit_of(row) for row in rows)  # a run that was stopped may have left a part of one
        self.done = {unit for unit, count in counts.items() if count == len(WANTED)}
        write(self.path, [COLUMNS, *([row[key] for key in COLUMNS] for row in rows if unit_of(row) in self.done)])

    def add(self, unit: Unit, chosen: Iterable[Chosen]) -> None:
        """All rows of a unit at once, on the disk before the next is trained."""
        configurations = training.grid(LOSSES[unit[2]])
        rows = [[*unit, *self._row(row, configurations[row.configuration])] for row in chosen]
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        self.done.add(unit)

    def _row(self, row: Chosen, configuration: Configuration) -> list[Any]:
        step = (row.checkpoint + 1) * self.budget.steps // self.budget.checkpoints
        numbers = (row.threshold, row.validation, row.test)
        return [row.reading, row.metric, *configuration, step, *(f"{number:.6f}" for number in numbers)]


def unit_of(row: Mapping[str, str]) -> Unit:
    """What is trained together."""
    return row["set"], row["model"], row["loss"], int(row["seed"])


def read(path: Path) -> list[dict[str, str]]:
    """The whole lines of a CSV file; one that was cut off is none."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return list(csv.DictReader(lines))


def write(path: Path, lines: Iterable[Iterable[Any]]) -> None:
    """By way of another file, so that a stop leaves the old one or the new one."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    new.replace(path)


def agree(path: Path, found: dict[str, Any]) -> None:
    """Rows of two settings must not stand in one file."""
    before = {row["setting"]: row["value"] for row in read(path)} if path.exists() else None
    changed = [name for name, value in found.items() if before is not None and before.get(name) != str(value)]
    if changed:
        msg = f"{path.parent} holds results of another {', '.join(changed)}; choose another --output, or remove it."
        raise DataError(msg)
    write(path, [("setting", "value"), *found.items()])


def settings(budget: Budget) -> dict[str, Any]:
    """Everything that the numbers depend on, besides data, losses and seeds."""
    hidden = "; ".join(f"{model} {' '.join(map(str, widths)) or 'none'}" for model, widths in HIDDEN.items())
    protocol = {"hidden": hidden, "dropout": DROPOUT, "optimizer": "AdamW", "criterion": METRICS[CRITERION]}
    names = ("VALIDATION_SHARE", "LEARNING_RATES", "DECAYS")
    protocol |= {name.lower(): str(getattr(training, name)) for name in names}
    versions = {"jax": jax.__version__, "optax": optax.__version__, "numpy": np.__version__}
    return budget._asdict() | protocol | {"readings": "; ".join(READINGS)} | machine(versions, os.cpu_count())


def described_losses() -> list[tuple[Any, ...]]:
    """Each with its source and what it may choose from."""
    head = ("loss", "source", "configurations", "learning_rates", "decays", "knob", "values")
    return [head, *(_described(name) for name in LOSSES)]


def _described(name: str) -> tuple[Any, ...]:
    loss, choices = LOSSES[name], training.grid(LOSSES[name])
    lists = [" ".join(f"{value:g}" for value in dict.fromkeys(column)) for column in zip(*choices, strict=True)]
    return name, loss.source, len(choices), *lists[:2], loss.knob, lists[2] if loss.knob else ""


def facts(dataset: Dataset, part: Part) -> dict[str, Any]:
    """One row of sets.csv: sizes, and how the labels hang together."""
    labels = dataset.labels
    rows = (len(part.y_train), len(part.y_validation), len(part.y_test))
    sizes = dict(zip(("train", "validation", "test"), rows, strict=True))
    shape = {"features": dataset.features.shape[1], "classes": labels.shape[1]}
    found = {"labels_a_row": labels.sum(axis=1).mean(), "density": labels.mean(), "dependence": dependence(labels)}
    split = "the set's own" if dataset.rows else "by the seed"
    return {"set": dataset.name, **sizes, "split": split, **shape, **{k: f"{v:.4f}" for k, v in found.items()}}


def dependence(labels: np.ndarray) -> float:
    """The largest correlation of a label with another, mean over the labels of all rows: 0 if none tells of another."""
    varied = labels[:, labels.any(axis=0) & ~labels.all(axis=0)]
    between = np.abs(np.corrcoef(varied.T)) - np.eye(varied.shape[1])
    return float(np.average(between.max(axis=0), weights=varied.sum(axis=0)))


def add_facts(path: Path, row: dict[str, Any]) -> None:
    """One line a set, the new one in place of an old one."""
    others = [other for other in (read(path) if path.exists() else []) if other["set"] != row["set"]]
    write(path, [row, *(line.values() for line in (*others, row))])
