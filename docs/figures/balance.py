"""The one picture of the README: how much of an example's gradient goes to its one positive when training starts."""

import numpy as np
from _style import LINES, save, sheet
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from zlpr_core import zlpr_grad

CLASSES = np.unique(np.geomspace(2, 10_000, 60).astype(int))


def zlpr_share(classes: int) -> float:
    """At zero logits, of the sum of the magnitudes."""
    gradient = abs(zlpr_grad(np.zeros(classes), np.arange(classes) == 0))
    return gradient[0] / gradient.sum()


def label(axes: Axes, place: tuple[float, float], text: str, name: str, **where: str) -> None:
    """A curve's name, beside it and in its colour."""
    axes.annotate(text, place, color=LINES[name]["color"], weight="bold", **where)


shares = 100 * np.array([zlpr_share(classes) for classes in CLASSES])
figure = sheet(height=3)
axes = figure.subplots()
axes.semilogx(CLASSES, shares, **LINES["zlpr"])
axes.semilogx(CLASSES, 100 / CLASSES, **LINES["bce"])  # of C equal magnitudes
label(axes, (10_000, shares[-1] + 2), f"ZLPR: {shares[-1]:.0f} %, however many classes", "zlpr", ha="right")
label(axes, (10_000, 2.5), "BCE: 100 % / classes", "bce", ha="right")
axes.set(xlabel="classes", ylim=(0, 54), title="What one positive label gets of the gradient when training starts")
axes.xaxis.set_major_formatter(FuncFormatter(lambda classes, _: f"{classes:,.0f}"))
axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f} %"))
save(figure, __file__)
