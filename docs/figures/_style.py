"""What the figures share: colours that colour-blind eyes tell apart, and ink that is readable on white and on black.

Each script beside this one draws the SVG of its name: ``python docs/figures/balance.py``. A test compares the two.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

DRAWN = Path(__file__).parent
# after Okabe and Ito's colours, as dark as the ink, each with a dash of its own
LINES = {
    "zlpr": {"color": "#1a80bd", "linestyle": "-", "linewidth": 2.4},
    "bce": {"color": "#D55E00", "linestyle": "--", "linewidth": 1.8},
    "mean": {"color": "#b8618f", "linestyle": "-.", "linewidth": 1.8},
    "focal": {"color": "#008f68", "linestyle": ":", "linewidth": 2.2},
}
INK = "#7a7a7a"  # contrast 4.3 on white and 4.4 on the black of a dark page: an image does not know on which it lies
mpl.rcParams.update(
    dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
)
mpl.rcParams.update(
    {
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": "none",
        "font.size": 11,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "zlpr",
    }
)


def sheet(width: float = 7, height: float = 3.4) -> Figure:
    """An empty figure; without pyplot it needs no display."""
    return Figure(figsize=(width, height), layout="constrained")


def name_curves(figure: Figure) -> None:
    """One legend for all panels, below them."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def save(figure: Figure, script: str) -> None:
    """The SVG beside ``script``; without a date, so that the same figure is the same file."""
    path = DRAWN / f"{Path(script).stem}.svg"
    figure.savefig(path, metadata={"Date": None})
