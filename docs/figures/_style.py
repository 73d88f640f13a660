"""What the figures share: colours that colour-blind eyes tell apart, and ink that follows the theme of the page."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

DRAWN = Path(__file__).parents[1] / "_build" / "figures"
# Okabe and Ito's colours, each with a dash of its own
LINES = {
    "zlpr": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.4},
    "bce": {"color": "#D55E00", "linestyle": "--", "linewidth": 1.8},
    "mean": {"color": "#CC79A7", "linestyle": "-.", "linewidth": 1.8},
    "focal": {"color": "#009E73", "linestyle": ":", "linewidth": 2.2},
}
INK = "#010203"  # becomes currentColor
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
        "grid.alpha": 0.25,
        "grid.color": "#808080",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "zlpr",
    }
)


def sheet(width: float = 8, height: float = 3.4) -> Figure:
    """An empty figure; without pyplot it needs no display."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, script: str) -> None:
    """The SVG of ``script`` in docs/_build/figures, with one legend, as wide as the page lets it."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    path = DRAWN / f"{Path(script).stem}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg ") :].replace(INK, "currentColor")
    path.write_text(svg.replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1), encoding="utf-8")
