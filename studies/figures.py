"""The figures of a run: average ranks with their critical difference; ZLPR's gain over BCE by set and by its kind.

``python -m studies.figures DIR`` draws them from the CSV files in DIR, as studies.run does at its end.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _style import INK, LINES, name_curves, sheet
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.additions import ADDED
from studies.readings import AS_TRAINED, TUNED
from studies.results import read
from studies.statistics import Paired, Ranks, gains, pick, ranks

Rows = Sequence[Mapping[str, str]]
PANELS = ("subset accuracy", "micro F1", "average precision")  # of both figures
READ_BY = {AS_TRAINED: "zlpr", TUNED: "focal"}  # and the line of each
AGAINST = {"classes": "classes", "labels_a_row": "labels a row", "dependence": "dependence of labels"}


def draw_ranks(rows: Rows, *, model: str, reading: str = AS_TRAINED) -> Figure:
    """A diagram for each metric of PANELS (Demšar, JMLR 2006)."""
    found = [of(rows, model, reading, metric) for metric in PANELS]
    figure = sheet(width=7, height=len(PANELS) * (0.9 + 0.13 * len(found[0].average)))
    for axes, metric, each in zip(figure.subplots(len(PANELS), 1), PANELS, found, strict=True):
        diagram(axes, each)
        verdict = f", Friedman's p = {each.p:.2g}" if np.isfinite(each.p) else ""  # of one set there is none
        axes.set_title(f"{metric}; sets: {each.sets}{verdict}", loc="left")
    return figure


def of(rows: Rows, model: str, reading: str, metric: str) -> Ranks:
    """Without losses that only add to another: with more of them the critical difference hides what others do."""
    names = list(dict.fromkeys(row["loss"] for row in rows))
    plain = [name for name in names if name not in ADDED]
    return ranks(pick(rows, model=model, reading=reading, metric=metric), plain or names)


def diagram(axes: Axes, found: Ranks) -> None:
    """Ranks on a line, names at both sides, and a bar over each group that cannot be told apart."""
    names, places = list(found.average), np.array(list(found.average.values()))
    count, half = len(names), -(-len(names) // 2)
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        left = number < half
        end, level = (0.2, number) if left else (count + 0.8, count - 1 - number)
        style = LINES["zlpr" if name.startswith(("ZLPR", "TLPR")) else "bce"]
        axes.plot([place, place, end], [0, -2 - level, -2 - level], color=style["color"], linewidth=1)
        label = {"ha": "right" if left else "left", "va": "center", "color": style["color"]}
        axes.text(end, -2 - level, f" {name} {place:.1f} ", **label)
    for number, (first, last) in enumerate(groups(places, found.critical)):
        axes.plot([places[first] - 0.05, places[last] + 0.05], [-0.4 - 0.35 * number] * 2, color=INK, linewidth=3)
    axes.set(xlim=(-3, count + 4), ylim=(-2.5 - half, 0), yticks=[], xticks=range(1, count + 1))
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def groups(places: np.ndarray, critical: float) -> list[tuple[int, int]]:
    """First and last of each longest run of ranks, in order, that lie within the critical difference."""
    ends = [int(np.flatnonzero(places - place < critical)[-1]) for place in places]
    runs = [(first, last) for first, last in enumerate(ends) if last > first]
    return [(first, last) for first, last in runs if first == 0 or ends[first - 1] < last]


def draw_gains(rows: Rows, sets: Rows, *, model: str, reading: str = AS_TRAINED) -> Figure:
    """ZLPR less BCE on each set, with its 95 % interval: a row for each metric, a column for each property."""
    figure = sheet(width=9, height=2.4 * len(PANELS))
    for line, metric in zip(figure.subplots(len(PANELS), len(AGAINST), sharey="row"), PANELS, strict=True):
        found = gains(pick(rows, model=model, reading=reading, metric=metric), "ZLPR", "BCE")
        for axes, (column, label) in zip(line, AGAINST.items(), strict=True):
            scatter(axes, {row["set"]: float(row[column]) for row in sets}, found)
            axes.set_xlabel(label if metric == PANELS[-1] else "")
            axes.set_xscale("log" if column == "classes" else "linear")
        line[0].set_ylabel(metric)
    figure.suptitle("ZLPR less BCE: above 0 is better")
    return figure


def scatter(axes: Axes, places: Mapping[str, float], found: Mapping[str, Paired]) -> None:
    """A point for each set, with its name."""
    axes.axhline(0, color=INK, linewidth=1.2)
    for name, gain in found.items():
        axes.errorbar(places[name], gain.gain, half(gain), color=LINES["zlpr"]["color"], marker="o", capsize=3)
        axes.annotate(name, (places[name], gain.gain), (4, 4), textcoords="offset points", fontsize=8)


def half(gain: Paired) -> float:
    """Of the interval; one seed has none."""
    return gain.half if np.isfinite(gain.half) else 0.0


def draw_sets(rows: Rows, sets: Rows, *, model: str) -> Figure:
    """ZLPR less BCE on each set, from few classes to many, with its 95 % interval; by two readings."""
    names = {
        row["set"]: f"{row['set']}, {row['classes']}" for row in sorted(sets, key=lambda row: -int(row["classes"]))
    }
    figure = sheet(width=9, height=1.8 + 0.36 * len(names))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, metric in zip(panels, PANELS, strict=True):
        axes.axvline(0, color=INK, linewidth=1.2)
        for lift, (reading, line) in zip((0.12, -0.12), READ_BY.items(), strict=True):
            found = gains(pick(rows, model=model, reading=reading, metric=metric), "ZLPR", "BCE")
            places = [list(names).index(name) + lift for name in found]
            style = {"fmt": "o", "capsize": 3, "color": LINES[line]["color"], "label": reading}
            axes.errorbar([gain.gain for gain in found.values()], places, xerr=[*map(half, found.values())], **style)
        axes.set_xlabel(metric)
    panels[0].set_yticks(range(len(names)), names.values())
    figure.suptitle("ZLPR less BCE, by set and number of classes: right of 0 is better")
    name_curves(figure)
    return figure


def draw(folder: Path) -> None:
    """All three, for each model."""
    rows, sets = read(folder / "scores.csv"), read(folder / "sets.csv")
    for model in dict.fromkeys(row["model"] for row in rows):
        drawn = {
            "ranks": draw_ranks(rows, model=model),
            "gains": draw_gains(rows, sets, model=model),
            "sets": draw_sets(rows, sets, model=model),
        }
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}-{model.lower()}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
