"""The metrics, of many models at once: scikit-learn's definitions, which a test compares them with.

The edge cases, as in examples/report.py: to predict no label where there is none is right (example, micro F1); macro F1
is a mean over the classes that are true or predicted somewhere; a row without labels, or with all of them, has average
precision 1 and ranking loss 0; among equal logits a label ranks last. Without finite logits a model has no score.
"""

from functools import partial

import jax
import numpy as np
from report import BETTER as BETTER_THERE
from report import METRICS as METRICS_THERE

METRICS = (*METRICS_THERE, "Hamming loss")
BETTER = np.array([*BETTER_THERE, -1])  # 1 where higher is better, -1 where lower is
RANKING = tuple(metric in ("average precision", "ranking loss") for metric in METRICS)  # no threshold changes these


def measure(logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """By model, threshold and metric. Shapes: (models, rows, classes), (rows, classes) and (models, thresholds)."""
    subset, example, micro, macro, hamming = _decided(logits, labels, thresholds)
    ranked = [np.broadcast_to(part[:, None], thresholds.shape) for part in _ranked(logits, labels)]
    scores = np.stack([subset, example, micro, macro, *ranked, hamming], axis=-1)
    finite = np.isfinite(logits).all(axis=(1, 2))
    return np.where(finite[:, None, None], scores, np.nan)


def recalls(logits: np.ndarray, labels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """For each model the thresholds at which it finds these shares of the true labels, whatever the scale of logits."""
    return np.quantile(logits[:, labels == 1], 1 - levels, axis=1, method="lower").T


def _decided(logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
    """What depends on a threshold, each of shape (models, thresholds)."""
    counts = [np.asarray(count, np.int64) for count in _counts(logits, labels, thresholds)]
    row_hits, row_predicted, class_hits, class_predicted = counts
    row_true, class_true = labels.sum(axis=1), labels.sum(axis=0)
    wrong = row_predicted + row_true - 2 * row_hits
    sizes = class_predicted + class_true
    somewhere = np.maximum((sizes > 0).sum(axis=-1), 1)
    return [
        (wrong == 0).mean(axis=-1),
        _f1(row_hits, row_predicted + row_true).mean(axis=-1),
        _f1(class_hits.sum(axis=-1), sizes.sum(axis=-1)),
        np.where(sizes > 0, _f1(class_hits, sizes), 0).sum(axis=-1) / somewhere,
        wrong.mean(axis=-1) / labels.shape[1],
    ]


def _f1(hits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of the sizes of two sets together; two empty sets agree."""
    return np.where(sizes > 0, 2 * hits / np.maximum(sizes, 1), 1.0)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, 0))
def _counts(logits, labels, thresholds):
    """Right and predicted labels, by row and by class, for each threshold."""

    def at(threshold):
        predicted = logits > threshold
        right = predicted & (labels == 1)
        return right.sum(1), predicted.sum(1), right.sum(0), predicted.sum(0)

    return jax.lax.map(at, thresholds)


def _ranked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and ranking loss of each model."""
    rows, classes = np.nonzero(labels)
    above, right = (np.asarray(count, np.int64) for count in _above(logits, labels, rows, classes))
    true = labels.sum(axis=1)
    mean = 1 / (len(labels) * true[rows])  # a label's weight in the mean over the labels of its row and over the rows
    pairs = mean / np.maximum(labels.shape[1] - true[rows], 1)
    precision = (right / np.maximum(above, 1) * mean).sum(axis=1) + (true == 0).mean()
    return precision, ((above - right) * pairs).sum(axis=1)


@jax.jit
def _above(logits, labels, rows, classes):
    """For each true label, how many logits of its row are no lower, and how many of those are of true labels."""

    def of(scores):
        level = scores[rows] >= scores[rows, classes][:, None]
        return level.sum(1), (level & (labels[rows] == 1)).sum(1)

    return jax.lax.map(of, logits)
