"""What came out: six metrics of scikit-learn, a table of them, a figure and one sentence."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import accuracy_score, f1_score, label_ranking_average_precision_score, label_ranking_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("subset accuracy", "example F1", "micro F1", "macro F1", "average precision", "ranking loss")
SHOWN = (*METRICS[:-1], "ranking loss (lower is better)")
BETTER = np.array([1, 1, 1, 1, 1, -1])  # 1 where higher is better, -1 where lower is
COLOURS = {"ZLPR": "#0072B2", "BCE": "#D55E00"}  # Okabe and Ito's, which colour-blind eyes tell apart


@dataclass
class Runs:
    """What was measured of one loss, seed by seed."""

    curves: list[list[float]] = field(default_factory=list)  # subset accuracy after each epoch
    scores: list[np.ndarray] = field(default_factory=list)  # METRICS after the last epoch

    def add(self, curve: list[float], scores: np.ndarray) -> None:
        """One more seed."""
        self.curves.append(curve)
        self.scores.append(scores)


def subset_accuracy(truth: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose labels are all right."""
    return float(accuracy_score(truth, labels))


def measure(truth: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """METRICS in their order; ``labels`` are those predicted."""
    return np.array(
        [
            subset_accuracy(truth, labels),
            # to predict no label where there is none is right
            f1_score(truth, labels, average="samples", zero_division=1),
            f1_score(truth, labels, average="micro", zero_division=1),
            # a class that is neither there nor predicted tells nothing: the mean goes over the others
            f1_score(truth, labels, average="macro", zero_division=np.nan),
            label_ranking_average_precision_score(truth, logits),
            label_ranking_loss(truth, logits),
        ]
    )


def table(runs: dict[str, Runs], title: str) -> Table:
    """The two losses and their difference, seed by seed, metric by metric."""
    (first, second), (one, other) = runs, _scores(runs)
    columns = [[_cell(scores) for scores in part.T] for part in (one, other)]
    columns.append([_cell(scores, sign="+") for scores in (one - other).T])
    caption = f"Test rows after the last epoch{_over_seeds(len(one))}."
    view = Table(title=escape(title), caption=caption, box=box.SIMPLE, show_edge=False, pad_edge=False)
    view.add_column("metric")
    for name in (first, second, f"{first} - {second}"):
        view.add_column(name, justify="right", no_wrap=True)
    for row in zip(SHOWN, *columns, strict=True):
        view.add_row(*row)
    return view


def verdict(runs: dict[str, Runs], setting: str) -> str:
    """One sentence, whichever way the numbers fall."""
    (first, second), (one, other) = runs, _scores(runs)
    gain = BETTER * (one - other)
    mean, seeds = gain.mean(axis=0), len(gain)
    wins, losses, neither = (_named(chosen) for chosen in (mean > 0, mean < 0, ~(abs(mean) > 0)))  # NaN is neither
    sentence = f"{setting}: {first} is better on {wins} and {second} on {losses} of the six metrics"
    if neither != "none":
        sentence += f", neither on {neither}"
    if seeds == 1:
        return f"{sentence}; one seed does not tell how much of that is chance."
    clear = _named(abs(mean) > _spread(gain))
    return f"{sentence}; the mean difference exceeds its standard deviation over {seeds} seeds on {clear}."


def draw(path: Path, runs: dict[str, Runs], title: str) -> None:
    """Learning curves beside the final metrics, as a PNG."""
    from matplotlib.figure import Figure  # who only measures needs none

    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")  # without pyplot it is Agg, and needs no display
    left, right = figure.subplots(1, 2)
    _draw_curves(left, runs)
    _draw_bars(right, runs)
    figure.suptitle(f"{title}{_over_seeds(len(_scores(runs)[0]))}", fontsize="x-large")
    figure.savefig(path, format="png")


def _draw_curves(axes: "Axes", runs: dict[str, Runs]) -> None:
    for name, run in runs.items():
        curves = np.array(run.curves)
        epochs, mean, spread = np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), _spread(curves)
        axes.plot(epochs, mean, label=name, color=COLOURS[name], marker=".", markersize=4)
        axes.fill_between(epochs, mean - spread, mean + spread, color=COLOURS[name], alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch", ylabel="subset accuracy on the test rows", title="Learning curves")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right")


def _draw_bars(axes: "Axes", runs: dict[str, Runs]) -> None:
    for offset, (name, scores) in zip((-0.2, 0.2), zip(runs, _scores(runs), strict=True), strict=True):
        places = np.arange(len(METRICS)) + offset
        axes.bar(places, scores.mean(axis=0), 0.38, yerr=_spread(scores), label=name, color=COLOURS[name], capsize=3)
    axes.set_xticks(range(len(METRICS)), [fill(name, width=9) for name in SHOWN])
    axes.set(xlabel="metric", ylabel="score on the test rows", ylim=(0, 1), title="After the last epoch")
    axes.legend(loc="upper right")


def _scores(runs: dict[str, Runs]) -> list[np.ndarray]:
    """For each loss, of shape (seeds, metrics)."""
    return [np.array(run.scores) for run in runs.values()]


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the seeds, which are the first axis; one seed has none."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _cell(values: np.ndarray, sign: str = "") -> str:
    mean = f"{values.mean():{sign}.3f}"
    return mean if len(values) == 1 else f"{mean} ± {_spread(values):.3f}"


def _over_seeds(seeds: int) -> str:
    return ": one seed" if seeds == 1 else f": mean ± standard deviation over {seeds} seeds"


def _named(chosen: Iterable[bool]) -> str:
    names = [name for name, is_chosen in zip(METRICS, chosen, strict=True) if is_chosen]
    return f"{len(names)} ({', '.join(names)})" if names else "none"
