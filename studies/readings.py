"""Three ways to read the same runs. Each chooses on validation alone, and only what was chosen is scored on test."""

from typing import NamedTuple

import numpy as np

from studies.losses import Loss
from studies.metrics import BETTER, METRICS, RANKING, measure, recalls
from studies.training import Budget, Part, train

AS_TRAINED, TUNED, ONE_MODEL = READINGS = ("threshold 0", "tuned threshold", "one model")
CRITERION = METRICS.index("micro F1")  # of the one model: claimed by neither side, and what many watch in training
LEVELS = np.arange(0.05, 0.96, 0.05)  # shares of the true labels that the tuned thresholds find on validation
# a threshold does not change a ranking
WANTED = [(r, metric) for r in READINGS for metric in range(len(METRICS)) if r != TUNED or not RANKING[metric]]


class Chosen(NamedTuple):
    """By one reading for one metric."""

    reading: str
    metric: str
    configuration: int
    checkpoint: int
    threshold: float
    validation: float
    test: float


def read(validation: np.ndarray, test: np.ndarray, part: Part) -> list[Chosen]:
    """All readings of logits of shape (configurations, checkpoints, rows, classes)."""
    flat, checkpoints = validation.reshape(-1, *validation.shape[2:]), validation.shape[1]
    thresholds = candidates(flat, part.y_validation)
    scores = measure(flat, part.y_validation, thresholds)
    models, which = np.array([_best(scores, *pair) for pair in WANTED]).T
    metrics = [metric for _, metric in WANTED]
    cuts, seen = thresholds[models, which], scores[models, which, metrics]
    kept = test[models // checkpoints, models % checkpoints]
    found = measure(kept, part.y_test, cuts[:, None])[np.arange(len(WANTED)), 0, metrics]
    names = [(reading, METRICS[metric]) for reading, metric in WANTED]
    numbers = zip(models // checkpoints, models % checkpoints, cuts, seen, found, strict=True)
    return [Chosen(*name, *(number.item() for number in row)) for name, row in zip(names, numbers, strict=True)]


def candidates(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """0 first, then those that may be tuned, for each model."""
    tuned = recalls(np.nan_to_num(logits), labels, LEVELS)
    return np.concatenate([np.zeros((len(logits), 1)), tuned], axis=1).astype(np.float32)


def _best(scores: np.ndarray, reading: str, metric: int) -> tuple[int, int]:
    """Model and threshold. Among equals the first: the lower learning rate, then the earlier checkpoint."""
    by = CRITERION if reading == ONE_MODEL else metric
    goodness = np.nan_to_num(BETTER[by] * scores[..., by], nan=-np.inf)
    if reading != TUNED:
        return int(goodness[:, 0].argmax()), 0
    model, threshold = np.unravel_index(goodness.argmax(), goodness.shape)
    return int(model), int(threshold)


def chosen_logits(loss: Loss, part: Part, *, seed: int, budget: Budget) -> np.ndarray:
    """Of the MLP that is best in subset accuracy on validation, as it was trained, for the small experiments."""
    validation, test = train(loss, "MLP", part, seed=seed, budget=budget)
    best = next(row for row in read(validation, test, part) if (row.reading, row.metric) == (AS_TRAINED, METRICS[0]))
    return test[best.configuration, best.checkpoint]
