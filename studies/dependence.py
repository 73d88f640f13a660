"""Question 2: what does ZLPR make of labels that depend on each other?

Without any data: ``population`` compares the labels that the exact minimisers of ZLPR and of BCE predict for a known
distribution of label sets with the most probable set, which no rule can beat in subset accuracy. With data: ``trained``
uses a synthetic set whose labels share ever more of their noise. How likely a label is does not change, so BCE's best
predictions stay the same.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from data import Dataset
from scipy.optimize import minimize
from scipy.special import ndtr

from studies.losses import LOSSES
from studies.readings import chosen_logits
from studies.results import write
from studies.training import Budget, divide
from zlpr_core import zlpr, zlpr_grad

SETTINGS = ((6, 3), (10, 3), (20, 4))  # labels, and label sets that occur
RULES = ("most probable set", "ZLPR", "BCE")
SHARES = (0.0, 0.25, 0.5, 0.75, 0.95)  # of the noise that all labels have in common
COMPARED = ("BCE", "Dice linear", "LSEP", "ZLPR")
FEATURES, CLASSES, ROWS = 10, 6, 1200
POPULATION = (
    "classes",
    "label sets",
    "rule",
    "draws",
    "subset accuracy",
    "Hamming loss",
    "example F1",
    "labels predicted",
)
TRAINED = ("shared noise", "loss", "seed", "subset accuracy")


def decisions(sets: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """What each of RULES predicts when these label sets have these probabilities."""
    return np.array([sets[chances.argmax()], zlpr_optimum(sets, chances) > 0, chances @ sets > 0.5])


def zlpr_optimum(sets: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """The logits that minimise the expected loss."""

    def risk(logits):
        spread = np.broadcast_to(logits, sets.shape)
        return chances @ zlpr(spread, sets), chances @ zlpr_grad(spread, sets)

    return minimize(risk, np.zeros(sets.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-5}).x


def expected(sets: np.ndarray, chances: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Subset accuracy, Hamming loss, example F1 and size of a prediction."""
    hits, sizes = (sets & predicted).sum(axis=1), sets.sum(axis=1) + predicted.sum()
    f1 = np.where(sizes > 0, 2 * hits / np.maximum(sizes, 1), 1)
    by_set = (sets == predicted).all(axis=1), (sets != predicted).mean(axis=1), f1
    return np.array([*(chances @ values for values in by_set), predicted.sum()])


def population(draws: int = 500) -> Iterator[tuple[Any, ...]]:
    """Means over random distributions: few label sets, each label in 30 % of them, with random probabilities."""
    for classes, count in SETTINGS:
        random = np.random.default_rng(classes)
        found = np.mean([_draw(random, classes, count) for _ in range(draws)], axis=0)
        for rule, scores in zip(RULES, found, strict=True):
            yield classes, count, rule, draws, *(f"{score:.4f}" for score in scores)


def _draw(random: np.random.Generator, classes: int, count: int) -> np.ndarray:
    sets = np.unique(random.random((count, classes)) < 0.3, axis=0).astype(np.int64)
    chances = 0.999 * random.dirichlet(np.ones(len(sets))) + 0.001 / len(sets)
    return np.array([expected(sets, chances, predicted.astype(np.int64)) for predicted in decisions(sets, chances)])


def synthetic(shared: float) -> tuple[Dataset, np.ndarray]:
    """The set, and the linear scores whose sign BCE's best model predicts."""
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    scores = x @ random.normal(size=(FEATURES, CLASSES)) / np.sqrt(FEATURES)
    noise = np.sqrt(shared) * random.normal(size=(ROWS, 1)) + np.sqrt(1 - shared) * random.normal(size=scores.shape)
    return Dataset(f"shared {shared}", x, (scores + noise > 0).astype(np.int64), dense=True, rows=None), scores


def set_chances(scores: np.ndarray, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """All label sets, and for each row their probabilities: an integral over the shared noise."""
    sets = (np.arange(2**CLASSES)[:, None] >> np.arange(CLASSES)) & 1
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    up = ndtr((scores[:, None] + np.sqrt(shared) * nodes[:, None]) / np.sqrt(1 - shared))  # rows, nodes, classes
    chances = np.prod(np.where(sets[:, None, None], up, 1 - up), axis=-1) @ weights / weights.sum()
    return sets, chances.T


def trained(seeds: int, budget: Budget) -> Iterator[tuple[Any, ...]]:
    """Subset accuracy on test rows: of what was trained, and of the rules that know the distribution."""
    for shared in SHARES:
        dataset, scores = synthetic(shared)
        sets, chances = set_chances(scores, shared)
        known = np.array([decisions(sets, row) for row in chances])  # rows, rules, classes
        for seed in range(seeds):
            test = _test_rows(seed)
            for number, rule in enumerate(RULES):
                yield shared, f"{rule}, known", seed, _right(dataset.labels[test], known[test, number])
            for loss in COMPARED:
                part = divide(dataset, seed)
                logits = chosen_logits(LOSSES[loss], part, seed=seed, budget=budget)
                yield shared, loss, seed, _right(part.y_test, logits > 0)


def _test_rows(seed: int) -> np.ndarray:
    """Those of ``divide``, by way of a set that has row numbers as features."""
    numbers = np.arange(ROWS, dtype=np.float32)[:, None]
    return (
        divide(Dataset("", numbers, np.zeros((ROWS, 1), np.int64), dense=False, rows=None), seed)
        .x_test[:, 0]
        .astype(int)
    )


def _right(labels: np.ndarray, predicted: np.ndarray) -> str:
    return f"{(labels == predicted).all(axis=1).mean():.6f}"


def main(argv: list[str] | None = None) -> None:
    """Write dependence_population.csv and dependence_trained.csv."""
    parser = argparse.ArgumentParser(
        description="Labels that depend on each other: the most probable set, ZLPR and BCE."
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("study"), metavar="DIR")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "dependence_population.csv", [POPULATION, *population()])
    write(arguments.output / "dependence_trained.csv", [TRAINED, *trained(arguments.seeds, Budget())])


if __name__ == "__main__":
    main()
