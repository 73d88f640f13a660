"""Every number of docs/does-it-help.md: ``python -m studies.page`` writes them from the CSV files in studies/results.

A number stands between ``<!-- study: NAME -->`` and ``<!-- end -->``, where NAME is a function of this module.
README has one such place too. A test compares pages and files.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, product
from statistics import fmean

import numpy as np
from markdown_tables import markdown

from studies import ROOT, figures
from studies.additions import ADDED
from studies.metrics import BETTER, METRICS, RANKING
from studies.readings import AS_TRAINED, ONE_MODEL, TUNED
from studies.results import read
from studies.statistics import Paired, gains, pick, ranks, record

RESULTS = ROOT / "studies" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "does-it-help.md")
MARKED = re.compile(r"(<!-- study: (\S+) -->\n\n).*?(\n<!-- end -->)", flags=re.DOTALL)
MODEL = "MLP"  # of what the page shows; the tables of the linear model say so
SHOWN = ("subset accuracy", "micro F1", "macro F1", "average precision")
RANKED = [metric for metric, is_ranking in zip(METRICS, RANKING, strict=True) if is_ranking]
LOWER = {metric: f"{metric} (lower is better)" for metric, sign in zip(METRICS, BETTER, strict=True) if sign < 0}
FRAMEWORKS = {"torch": "PyTorch eager", "jax": "JAX `jit`", "tf": "TensorFlow XLA"}
MEASURED = {"dtype": "float32", "targets": "3 %", "candidate": "zlpr", "pass": "forward+backward"}
Lines = Iterable[Sequence[str]]


def main() -> None:
    """Both pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """The page with every such place written anew."""
    return MARKED.sub(lambda found: found[1] + NAMES[found[2]]() + found[3], text)


@cache
def rows(name: str = "scores") -> list[dict[str, str]]:
    """One file of the run."""
    return read(RESULTS / f"{name}.csv")


@cache
def scores(metric: str, reading: str = AS_TRAINED, model: str = MODEL) -> dict[tuple[str, str], np.ndarray]:
    """By set and loss, over the seeds; higher is better. A ranking has no threshold to tune."""
    if reading == TUNED and metric in RANKED:
        reading = AS_TRAINED
    return pick(rows(), model=model, reading=reading, metric=metric)


def sets_by_classes() -> list[dict[str, str]]:
    """From few classes to many."""
    return sorted(rows("sets"), key=lambda row: int(row["classes"]))


def losses() -> list[str]:
    """In the order of the table of losses."""
    trained = {row["loss"] for row in rows()}
    return [row["loss"] for row in rows("losses") if row["loss"] in trained]


def over_bce(metric: str, reading: str = AS_TRAINED, model: str = MODEL) -> dict[str, Paired]:
    """ZLPR less BCE, by set."""
    return gains(scores(metric, reading, model), "ZLPR", "BCE")


def signed(gain: Paired) -> str:
    """In bold where the interval leaves 0 out."""
    number = f"{gain.gain:+.3f}"
    return f"{number if gain.verdict == 'tie' else f'**{number}**'} ± {gain.half:.3f}"


def counted(found: Mapping[str, int]) -> str:
    """Sets where it is better, even and worse."""
    return "{win}, {tie}, {loss}".format(**found)


def verdict() -> Iterator[Sequence[str]]:
    """ZLPR against BCE: on how many sets it is better, even and worse, and the mean gain, by two readings."""
    count = len(over_bce(SHOWN[0]))
    yield (f"ZLPR against BCE on {count} sets", "better, even, worse", "mean gain", "thresholds tuned", "mean gain")
    for metric in SHOWN:
        readings = (AS_TRAINED,) if metric in RANKED else (AS_TRAINED, TUNED)
        found = [cell for reading in readings for cell in _against_bce(metric, reading)]
        yield (metric, *found, *[""] * (4 - len(found)))


def _against_bce(metric: str, reading: str) -> tuple[str, str]:
    mean = fmean(gain.gain for gain in over_bce(metric, reading).values())
    return counted(record(scores(metric, reading), "ZLPR", "BCE")), f"{mean:+.3f}"


def scope() -> str:
    """What was run, in a sentence."""
    seeds, sets = ({row[key] for row in rows()} for key in ("seed", "set"))
    settings = {row["setting"]: row["value"] for row in rows("settings")}
    (tuned,) = {row["configurations"] for row in rows("losses")}
    every = int(settings["steps"]) // int(settings["checkpoints"])
    size = f"{len(losses())} losses, {len(sets)} sets, {len(seeds)} seeds"
    search = f"{tuned} configurations of each loss, a checkpoint every {every} of {settings['steps']} steps"
    return f"{size}, {search}; {settings['cpu']}, {settings['versions']}.\n"


def datasets() -> Iterator[Sequence[str]]:
    """What the sets are like."""
    yield ("set", "rows: train, validation, test", "features", "classes", "labels a row", "dependence")
    for row in sets_by_classes():
        sizes = ", ".join(row[key] for key in ("train", "validation", "test"))
        numbers = (f"{float(row[key]):.2f}" for key in ("labels_a_row", "dependence"))
        yield (row["set"], sizes, row["features"], row["classes"], *numbers)


def by_set() -> Iterator[Sequence[str]]:
    """ZLPR less BCE on each set, of the MLP."""
    return _by_set(MODEL)


def by_set_linear() -> Iterator[Sequence[str]]:
    """The same of the linear model."""
    return _by_set("linear")


def _by_set(model: str) -> Iterator[Sequence[str]]:
    yield ("set", "classes", "subset accuracy", "the same, thresholds tuned", *SHOWN[1:])
    wanted = (SHOWN[0], AS_TRAINED), (SHOWN[0], TUNED), *((metric, AS_TRAINED) for metric in SHOWN[1:])
    columns = [over_bce(*each, model) for each in wanted]
    for row in sets_by_classes():
        yield (row["set"], row["classes"], *(signed(column[row["set"]]) for column in columns))


def by_loss() -> Iterator[Sequence[str]]:
    """Means over the sets and average ranks, as trained."""
    return _by_loss(AS_TRAINED)


def by_loss_tuned() -> Iterator[Sequence[str]]:
    """The same, with thresholds tuned."""
    return _by_loss(TUNED)


def by_loss_one_model() -> Iterator[Sequence[str]]:
    """The same, by one model for all metrics."""
    return _by_loss(ONE_MODEL)


def _by_loss(reading: str) -> Iterator[Sequence[str]]:
    names = losses()
    yield ("loss", *(LOWER.get(metric, metric) for metric in METRICS))
    columns = [_column(metric, reading, names) for metric in METRICS]
    for name, *cells in zip(names, *columns, strict=True):
        yield (name, *cells)


def _column(metric: str, reading: str, names: Sequence[str]) -> list[str]:
    """The mean over the sets and the average rank of each loss; the best of either in bold."""
    found, sign = scores(metric, reading), BETTER[METRICS.index(metric)]
    places = ranks(found, names).average
    means = {name: fmean(part.mean() for (_, loss), part in found.items() if loss == name) for name in names}
    best, first = max(means.values()), min(places.values())
    return [_cell(sign * means[name], places[name], means[name] == best, places[name] == first) for name in names]


def _cell(mean: float, place: float, best: bool, first: bool) -> str:
    texts = [f"**{text}**" if bold else text for text, bold in ((f"{mean:.3f}", best), (f"{place:.1f}", first))]
    return "{} ({})".format(*texts)


def friedman() -> Iterator[Sequence[str]]:
    """Whether the losses differ at all over the sets, and which are then worse than the best one."""
    yield ("metric", "reading", "Friedman's p", "best", "critical difference", "worse than the best by more")
    for metric, reading in product(figures.PANELS, (AS_TRAINED, TUNED)):
        if reading == AS_TRAINED or metric not in RANKED:
            found = figures.of(rows(), MODEL, reading, metric)
            (best, least), *others = found.average.items()
            worse = [name for name, place in others if place - least >= found.critical]
            shown = f"{best}, {least:.1f}", f"{found.critical:.1f}", ", ".join(worse) or "none"
            yield (metric, reading, f"{found.p:.2g}", *shown)


def rivals() -> Iterator[Sequence[str]]:
    """On how many sets ZLPR wins, ties and loses against each other loss."""
    yield ("ZLPR against", *METRICS, "subset accuracy, tuned", "micro F1, tuned", "macro F1, tuned")
    readings = [(metric, AS_TRAINED) for metric in METRICS]
    readings += [(metric, TUNED) for metric in SHOWN[:3]]
    for name in losses():
        if name != "ZLPR":
            yield (name, *(counted(record(scores(*each), "ZLPR", name)) for each in readings))


def labels_in_a_row() -> Iterator[Sequence[str]]:
    """Question 1: subset accuracy by kind of row, mean over the seeds."""
    found = rows("rows_by_labels")
    kinds, names = (list(dict.fromkeys(row[key] for row in found)) for key in ("labels", "loss"))
    yield ("set", "labels in the row", "rows", *names)
    for name in dict.fromkeys(row["set"] for row in found):
        for kind in kinds:
            there = [row for row in found if (row["set"], row["labels"]) == (name, kind)]
            if there:
                count = fmean(int(row["rows"]) for row in there if row["loss"] == names[0])
                yield (name, kind, f"{count:.0f}", *_means(there, names))


def _means(there: Iterable[Mapping[str, str]], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"{fmean(float(row['subset accuracy']) for row in there if row['loss'] == name):.3f}"


def population() -> Iterator[Sequence[str]]:
    """Question 2, without data."""
    columns = ("subset accuracy", "Hamming loss", "example F1", "labels predicted")
    yield ("labels, label sets", "rule", *columns)
    for row in rows("dependence_population"):
        yield (f"{row['classes']}, {row['label sets']}", row["rule"], *(f"{float(row[key]):.3f}" for key in columns))


def shared_noise() -> Iterator[Sequence[str]]:
    """Question 2, by training: subset accuracy, mean over the seeds."""
    found = rows("dependence_trained")
    names = list(dict.fromkeys(row["loss"] for row in found))
    yield ("noise that labels share", *names)
    for share, group in groupby(found, key=lambda row: row["shared noise"]):
        yield (f"{100 * float(share):.0f} %", *_means(list(group), names))


def cost() -> Iterator[Sequence[str]]:
    """Question 3, from the benchmark: ratio to BCE, and in brackets nanoseconds a logit and core, by shape."""
    found = {name: dict(_measured(name)) for name in FRAMEWORKS}
    yield ("batch x classes", *FRAMEWORKS.values())
    for shape in found["torch"]:
        yield (shape, *(found[name][shape] for name in FRAMEWORKS))


def _measured(framework: str) -> Iterator[tuple[str, str]]:
    for row in read(ROOT / "benchmarks" / "results" / f"{framework}.csv"):
        if MEASURED.items() <= row.items() and row["shape"].count("x") == 1:
            yield row["shape"], f"{float(row['ratio']):.2f} ({float(row['ns_per_logit_per_core']):.1f})"


def additions() -> Iterator[Sequence[str]]:
    """Question 4: the gain in subset accuracy of each addition over the loss without it, by set."""
    return _added("subset accuracy")


def additions_micro() -> Iterator[Sequence[str]]:
    """The same in micro F1."""
    return _added("micro F1")


def _added(metric: str) -> Iterator[Sequence[str]]:
    yield ("added", *(f"{row['set']}, {row['classes']}" for row in sets_by_classes()))
    for loss, over in ADDED.items():
        found = gains(scores(metric), loss, over)
        yield (loss, *(signed(found[row["set"]]) for row in sets_by_classes()))


TABLES: tuple[Callable[[], Lines], ...] = (
    verdict,
    datasets,
    by_set,
    by_set_linear,
    by_loss,
    by_loss_tuned,
    by_loss_one_model,
    friedman,
    rivals,
    labels_in_a_row,
    population,
    shared_noise,
    cost,
    additions,
    additions_micro,
)
NAMES: dict[str, Callable[[], str]] = {
    scope.__name__: scope,
    **{table.__name__: lambda table=table: markdown(table()) for table in TABLES},
}


if __name__ == "__main__":
    main()
