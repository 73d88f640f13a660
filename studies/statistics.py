"""From scores to a verdict: paired intervals on a set; over sets average ranks, Friedman's test and Nemenyi's."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range, t

from studies.metrics import BETTER, METRICS

LEVEL = 0.05


class Paired(NamedTuple):
    """Mean over the seeds of a difference, positive where the first is better, and half of its 95 % interval."""

    gain: float
    half: float

    @property
    def verdict(self) -> str:
        """A tie where the interval holds 0."""
        return "tie" if not abs(self.gain) > self.half else "win" if self.gain > 0 else "loss"


class Ranks(NamedTuple):
    """Average ranks, best first; two whose ranks differ by less than ``critical`` cannot be told apart."""

    average: dict[str, float]
    critical: float
    p: float  # of Friedman's test, whose hypothesis is that all are alike
    sets: int


def pick(rows: Iterable[Mapping[str, str]], **where: str) -> dict[tuple[str, str], np.ndarray]:
    """Test scores by set and loss, in the order of the seeds, higher is better."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if where.items() <= row.items():
            sign = BETTER[METRICS.index(row["metric"])]
            found.setdefault((row["set"], row["loss"]), {})[int(row["seed"])] = sign * float(row["test"])
    return {key: np.array([scores[seed] for seed in sorted(scores)]) for key, scores in found.items()}


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """By Student's t over the seeds, which share rows, batches, dropout and initial weights."""
    gains = first - second
    if len(gains) < 2:
        return Paired(float(gains.mean()), np.inf)
    half = t.ppf(1 - LEVEL / 2, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return Paired(float(gains.mean()), float(half))


def gains(scores: Mapping[tuple[str, str], np.ndarray], first: str, second: str) -> dict[str, Paired]:
    """Of one loss over another, on each set that has both."""
    there = [name for name, loss in scores if loss == first and (name, second) in scores]
    return {name: paired(scores[name, first], scores[name, second]) for name in there}


def ranks(scores: Mapping[tuple[str, str], np.ndarray], losses: Iterable[str]) -> Ranks:
    """Of the losses, by their means on each set; equal means share a rank."""
    losses = [loss for loss in losses if any(loss == key[1] for key in scores)]
    names = [name for name in dict.fromkeys(key[0] for key in scores) if all((name, loss) in scores for loss in losses)]
    means = np.array([[scores[name, loss].mean() for loss in losses] for name in names]).reshape(-1, len(losses))
    average = rankdata(-means, axis=1).mean(axis=0)
    order = np.argsort(average, kind="stable")
    testable = len(names) > 1 and len(losses) > 2
    p = float(friedmanchisquare(*means.T).pvalue) if testable else np.nan
    return Ranks({losses[i]: float(average[i]) for i in order}, critical(len(losses), len(names)), p, len(names))


def critical(losses: int, sets: int) -> float:
    """Nemenyi's difference of average ranks (Demšar, JMLR 2006)."""
    if losses < 2 or not sets:
        return np.inf
    return float(studentized_range.isf(LEVEL, losses, np.inf) * np.sqrt(losses * (losses + 1) / (12 * sets)))


def record(scores: Mapping[tuple[str, str], np.ndarray], first: str, second: str) -> dict[str, int]:
    """On how many sets the first wins, ties and loses against the second."""
    verdicts = [gain.verdict for gain in gains(scores, first, second).values()]
    return {verdict: verdicts.count(verdict) for verdict in ("win", "tie", "loss")}
