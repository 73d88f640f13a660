"""How much gradient an example hands out at zero logits, and how much of it its one positive gets."""

import numpy as np
from _style import LINES, name_curves, save, sheet

from zlpr_core import zlpr_grad

CLASSES = np.unique(np.geomspace(2, 20_000, 40).astype(int))
FOCAL = 0.25 * (0.5 + np.log(2))  # of one logit at 0, for gamma = 2


def zlpr_budget(classes: int) -> tuple[float, float]:
    """The L1 norm of the row's gradient, and the part of its one positive."""
    gradient = abs(zlpr_grad(np.zeros(classes), np.arange(classes) == 0))
    return gradient.sum(), gradient[0]


budgets = {
    "zlpr": ("ZLPR", np.array([zlpr_budget(classes) for classes in CLASSES])),
    "bce": ("BCE, sum over classes", np.stack([CLASSES / 2, np.full(CLASSES.size, 0.5)], axis=1)),
    "mean": ("BCE, mean over classes", np.stack([np.full(CLASSES.size, 0.5), 0.5 / CLASSES], axis=1)),
    "focal": ("focal loss (γ = 2), sum over classes", FOCAL * np.stack([CLASSES, np.ones(CLASSES.size)], axis=1)),
}
figure = sheet(height=3.8)
whole, positive = figure.subplots(1, 2)
for name, (legend, parts) in budgets.items():
    whole.loglog(CLASSES, parts[:, 0], label=legend, **LINES[name])
    positive.loglog(CLASSES, parts[:, 1], label=legend, **LINES[name])
whole.set(xlabel="classes", ylabel="sum of |gradient|", title="The whole row")
positive.set(xlabel="classes", ylabel="|gradient|", title="Its one positive")
name_curves(figure)
save(figure, __file__)
