"""How symmetric label smoothing dilutes a missed positive when there are many classes."""

import numpy as np
from _style import LINES, name_curves, save, sheet

from zlpr_core import smooth_labels, zlpr_grad

CLASSES = np.unique(np.geomspace(2, 20_000, 40).astype(int))
CURVES = {
    "zlpr": ("hard labels", 0.0, "symmetric"),
    "focal": ('ε = 0.1, mode="positive"', 0.1, "positive"),
    "mean": ("ε = 0.01, symmetric", 0.01, "symmetric"),
    "bce": ("ε = 0.1, symmetric", 0.1, "symmetric"),
}


def pull(classes: int, epsilon: float, mode: str) -> float:
    """The gradient of the one positive, missed like every other class: all logits are -1.5."""
    targets = smooth_labels(np.arange(classes) == 0, epsilon, mode=mode)
    return abs(zlpr_grad(np.full(classes, -1.5), targets)[0])


figure = sheet(width=6, height=3.8)
panel = figure.subplots()
for name, (legend, epsilon, mode) in CURVES.items():
    panel.loglog(CLASSES, [pull(classes, epsilon, mode) for classes in CLASSES], label=legend, **LINES[name])
panel.set(xlabel="classes", ylabel="|gradient| of the positive")
name_curves(figure)
save(figure, __file__)
