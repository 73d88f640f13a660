"""How good the best labels are, what a step needs with either head, and what that means."""

from typing import NamedTuple

import numpy as np
from extreme_data import Corpus, Rows
from extreme_memory import BCE, ZLPR, Step, needed
from rich import box
from rich.table import Table

TOP = (1, 3, 5)
METRICS = (*(f"P@{k}" for k in TOP), *(f"PSP@{k}" for k in TOP))
A, B = 0.55, 1.5  # for sets without constants of their own


class Measured(NamedTuple):
    """A training step of either head with so many labels; None where it does not fit."""

    labels: int
    zlpr: Step
    bce: Step | None

    def lines(self, batch: int) -> list[tuple[str, str, str]]:
        """What is compared, of either head."""
        computed = [as_bytes(needed(head, labels=self.labels, batch=batch)) for head in (ZLPR, BCE)]
        steps = (self.zlpr, self.bce)
        bytes_ = ["does not fit" if step is None else as_bytes(step.peak - step.program) for step in steps]
        seconds = ["" if step is None else f"{step.seconds:.2f}" for step in steps]
        return [("memory, computed", *computed), ("memory, measured", *bytes_), ("seconds a step", *seconds)]


def inverse_propensities(train: Rows, labels: int) -> np.ndarray:
    r"""How much a hit counts by the rows N_l of its label among N: 1 + (log N - 1) (B + 1)^A (N_l + B)^-A.

    Jain, Prabhu, Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing Label
    Applications", KDD 2016.
    """
    counts = np.bincount(train.labels, minlength=labels)
    return 1 + (np.log(len(train)) - 1) * (B + 1) ** A * (counts + B) ** -A


def scores(best: np.ndarray, truth: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """METRICS of the best labels, of which the first is the most likely; ``truth`` is filled up with -1.

    Precision is the share of the first k that are right. Weighted by propensity it is divided by what the best choice
    would have, as the tables of the Extreme Classification Repository have it.
    """
    right = (best[:, :, None] == truth[:, None, :]).any(2)
    gains = np.where(right, inverse[best], 0)
    ideal = -np.sort(-np.where(truth < 0, 0, inverse[truth]), 1)
    precision = [right[:, :k].mean() for k in TOP]
    return np.array(precision + [gains[:, :k].sum() / ideal[:, :k].sum() for k in TOP])


def popular(train: Rows, labels: int, rows: int) -> np.ndarray:
    """The most frequent labels of the training rows, the same for every row."""
    counts = np.bincount(train.labels, minlength=labels)
    return np.tile(np.argsort(-counts, kind="stable")[: TOP[-1]], (rows, 1))


def summary(corpus: Corpus) -> str:
    """What it trains on."""
    seen = len(np.unique(corpus.train.labels))
    return (
        f"{corpus.name}: {corpus.labels:,} labels, of which {seen:,} are on a training row; "
        f"{corpus.features:,} features; {len(corpus.train):,} rows to train on and {len(corpus.test):,} to test on, "
        f"{len(corpus.train.labels) / len(corpus.train):.1f} labels a row"
    )


def table(found: list[np.ndarray], steps: list[Measured], batch: int, test_rows: int) -> Table:
    """The model beside what it is compared with. ``found`` are the scores of the model and of popular labels."""
    view = Table(title=f"{test_rows:,} test rows; training steps of {batch} rows", box=box.SIMPLE, show_edge=False)
    for place, name in enumerate(("", "this model", "popular labels", "dense BCE")):
        view.add_column(name, justify="right" if place else "left", no_wrap=True)
    for name, model, popular in zip(METRICS, *found, strict=True):
        view.add_row(name, f"{model:.3f}", f"{popular:.3f}", "")
    for step in steps:
        for name, model, dense in step.lines(batch):
            view.add_row(f"{step.labels:,} labels: {name}", model, "", dense)
    return view


def meaning(found: list[np.ndarray], steps: list[Measured], batch: int) -> str:
    """What the table says."""
    labels = steps[0].labels
    ours, dense = (needed(head, labels=labels, batch=batch) for head in (ZLPR, BCE))
    model, popular = (row[0] for row in found)
    return (
        f"The first label is right on {model:.1%} of the test rows, where the most frequent one is on {popular:.1%}. "
        f"The head takes {as_bytes(ours)} for {labels:,} labels, which is its weights and little else; "
        f"a dense head with BCE takes {as_bytes(dense)}, {dense / ours:.1f} times as much."
    )


def as_bytes(number: float) -> str:
    """In the units of whoever buys memory."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
