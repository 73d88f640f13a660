"""One logit of a row: what it costs and how hard it is pulled, by ZLPR, BCE and focal loss."""

import numpy as np
from _style import LINES, name_curves, save, sheet

from zlpr_core import zlpr, zlpr_grad

OTHERS = 20  # of its kind, at logit 0
LOGITS = np.linspace(-8, 8, 401)
GAMMA = 2


def row(others: int) -> np.ndarray:
    """The logit in question, then the others, for each of LOGITS."""
    return np.column_stack([LOGITS, np.zeros((LOGITS.size, others))])


def cross_entropy(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope of BCE, which is ZLPR of a single class."""
    logits, targets = row(0), np.full((LOGITS.size, 1), label)
    return zlpr(logits, targets), zlpr_grad(logits, targets)[:, 0]


def in_company(label: int) -> tuple[np.ndarray, np.ndarray]:
    """ZLPR beside others; the value is counted from where this logit costs nothing."""
    logits = row(OTHERS)
    targets = np.full(logits.shape, label)
    return zlpr(logits, targets) - np.log1p(OTHERS), zlpr_grad(logits, targets)[:, 0]


def focal(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Focal loss without class weights."""
    sign = 2 * label - 1
    right = 1 / (1 + np.exp(-sign * LOGITS))
    wrong = 1 - right
    value = -(wrong**GAMMA) * np.log(right)
    return value, sign * wrong**GAMMA * (GAMMA * right * np.log(right) - wrong)


figure = sheet(height=5.6)
panels = figure.subplots(2, 2, sharex=True, sharey="row")
for column, (label, kind) in enumerate({1: "positive", 0: "negative"}.items()):
    curves = {
        "bce": ("BCE, and ZLPR of one class", cross_entropy(label)),
        "zlpr": (f"ZLPR beside {OTHERS} others of its kind at logit 0", in_company(label)),
        "focal": (f"focal loss, γ = {GAMMA}", focal(label)),
    }
    for name, (legend, parts) in curves.items():
        for panel, part in zip(panels[:, column], parts, strict=True):
            panel.plot(LOGITS, part, label=legend, **LINES[name])
    panels[0, column].set(title=f"A {kind}", ylim=(-0.3, 6))
    panels[1, column].set(xlabel="its logit")
panels[0, 0].set_ylabel("what it adds to the loss")
panels[1, 0].set_ylabel("gradient")
name_curves(figure)
save(figure, __file__)
