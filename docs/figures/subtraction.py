"""The published form for class ids, which subtracts the positives, on a positive that grows confident."""

import numpy as np
from _style import LINES, name_curves, save, sheet

from zlpr_core import zlpr, zlpr_grad

CLASSES, NEGATIVE, EPSILON = 1000, -6.0, 1e-7
POSITIVE = np.linspace(0, 30, 601)


def published(row: np.ndarray) -> tuple[float, float]:
    """Value, and slope in the positive, in float32: log Σ over all, plus log(1 - share of the positive), clipped."""
    top = max(row.max(), np.float32(0))
    everything = top + np.log(np.exp(-top) + np.exp(row - top).sum())
    share = np.exp(row[0] - everything)
    rest = 1 - share
    clipped = rest < np.float32(EPSILON)
    value = np.log1p(np.exp(-row[0])) + everything + np.log(np.maximum(rest, np.float32(EPSILON)))
    negative = share if clipped else share - share * (1 - share) / rest
    return value, negative - 1 / (1 + np.exp(row[0]))


rows = np.full((POSITIVE.size, CLASSES), NEGATIVE, dtype=np.float32)
rows[:, 0] = POSITIVE
labels = np.broadcast_to(np.arange(CLASSES) == 0, rows.shape)
exact = zlpr(rows, labels), zlpr_grad(rows, labels)[:, 0]
subtracted = np.array([published(row) for row in rows]).T
figure = sheet()
for panel, right, wrong, title in zip(figure.subplots(1, 2), exact, subtracted, ("Loss", "Gradient"), strict=True):
    panel.plot(POSITIVE, wrong, label="published: subtract, then clip at 1e-7", **LINES["bce"])
    panel.plot(POSITIVE, right, label="exact: mask", **LINES["zlpr"])
    panel.set(xlabel="logit of the positive", title=title)
name_curves(figure)
save(figure, __file__)
