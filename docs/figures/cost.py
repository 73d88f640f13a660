"""The benchmark at a glance: time of the loss with its gradient as a ratio to BCE, a panel a framework."""

import csv
from pathlib import Path

from _style import INK, LINES, save, sheet
from matplotlib.axes import Axes

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SETTING = {"dtype": "float32", "targets": "3 %"}
WHOLE = ("forward+backward", "training step")
PANELS = {  # of each curve the candidate, what to call it, how far above its end, and the colour
    "torch": [
        ("textbook ZLPR", "pasted snippet", 0, "bce"),
        ("zlpr compiled", "ZLPR compiled", 5, "focal"),
        ("zlpr", "ZLPR eager", -3, "zlpr"),
    ],
    "jax": [("zlpr", "ZLPR jit", 0, "zlpr")],
    "tf": [("zlpr", "ZLPR, XLA", 7, "zlpr"), ("keras zlpr", "ZLPR, Keras fit", -5, "focal")],
}
TITLES = {"torch": "PyTorch", "jax": "JAX", "tf": "TensorFlow and Keras"}
SIZES = {1e3: "1 thousand", 1e4: "10 thousand", 1e5: "100 thousand", 1e6: "1 million", 1e7: "10 million"}
RATIOS = {0.25: "¼ ×", 0.5: "½ ×", 1: "as BCE", 2: "2 ×", 4: "4 ×", 8: "8 ×"}


def curve(framework: str, candidate: str) -> list[tuple[int, float]]:
    """Logits of a batch and ratio, by size."""
    with (RESULTS / f"{framework}.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["candidate"] == candidate and row["pass"] in WHOLE]
    chosen = [row for row in rows if SETTING.items() <= row.items()]
    return sorted((int(row["logits"]), float(row["ratio"])) for row in chosen)


def panel(axes: Axes, framework: str) -> None:
    """Its curves, with their names at their right ends."""
    axes.axhline(1, color=INK, linewidth=1.2)
    for candidate, label, lift, name in PANELS[framework]:
        points, colour = curve(framework, candidate), LINES[name]["color"]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **LINES[name])
        axes.annotate(
            label, points[-1], (8, lift), textcoords="offset points", color=colour, weight="bold", va="center"
        )
    axes.set_title(TITLES[framework], loc="left")
    axes.set(xscale="log", yscale="log", xlim=(1e3, 1.2e8), ylim=(0.18, 12))
    axes.minorticks_off()
    axes.set_xticks(list(SIZES), SIZES.values())
    axes.set_yticks(list(RATIOS), RATIOS.values())


figure = sheet(height=6)
for axes, framework in zip(figure.subplots(len(PANELS), 1, sharex=True, sharey=True), PANELS, strict=True):
    panel(axes, framework)
axes.set_xlabel("logits in the batch")
figure.suptitle("Time of loss and gradient: lower is faster")
save(figure, __file__)
