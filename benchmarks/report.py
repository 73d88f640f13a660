"""What came out: a table of ratios, CSV files and a figure."""

import csv
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cases import Case
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from measure import Candidate, Field
from rich import box
from rich.table import Table

Row = dict[str, Any]
SETTING = ("shape", "targets", "dtype")
COLOURS = ("#0072B2", "#56B4E9", "#000000", "#999999", "#E69F00", "#CC79A7", "#D55E00", "#009E73")  # Okabe and Ito's
MEMORY = ("saved_bytes", "peak_bytes")
LONGEST = ("forward+backward", "training step")
# short tables, for documentation: what a cell is
SHORT = {
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "copies": lambda row: f"{row['copies']:.1f}",
    "bytes": lambda row: " / ".join(f"{row[key] / row['logits']:.1f}" for key in MEMORY if row[key] is not None),
}


def machine(versions: dict[str, str], threads: int) -> Row:
    """What the numbers depend on."""
    stated = ", ".join(f"{name} {number}" for name, number in ({"zlpr": version("zlpr")} | versions).items())
    return {"cpu": cpu(), "threads": threads, "python": platform.python_version(), "versions": stated}


def cpu() -> str:
    """Its name and its widest vectors, where the system tells them: a ratio depends on both."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    facts = {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    widest = next((vectors for vectors in ("avx512f", "avx2", "sve", "asimd") if vectors in flags), "")
    return " ".join(filter(None, (facts.get("model name", platform.processor()), widest)))


def described(setting: Row) -> str:
    """The machine in a few words."""
    return f"{setting['cpu']}, {setting['threads']} threads"


def rows(case: Case, field: Field, times: Mapping[Any, np.ndarray], threads: int) -> list[Row]:
    """One for each candidate and pass."""
    found = []
    for candidate in field.candidates:
        memory = candidate.memory()._asdict()
        for name in candidate.passes:
            setting = {**case.describe(), "logits": case.size, "candidate": candidate.name, "peer": candidate.peer}
            row = setting | {"pass": name} | timing(candidate, name, times)
            row["ns_per_logit_per_core"] = row["median_us"] * 1000 * threads / case.size
            found.append(row | {f"{key}_bytes": value for key, value in memory.items()})
    return found


def timing(candidate: Candidate, name: str, times: Mapping[Any, np.ndarray]) -> Row:
    """Quantiles, and the median beside those of the peer and of a copy."""
    own = times[candidate.name, name]
    low, median, high = np.quantile(own, [0.2, 0.5, 0.8])
    peer, copy = np.median(times[candidate.peer, name]), np.median(times["copy"])
    microseconds = {"q20_us": low, "median_us": median, "q80_us": high, "copy_us": copy}
    scaled = {key: float(1e6 * value) for key, value in microseconds.items()}
    return {"rounds": len(own), **scaled, "ratio": float(median / peer), "copies": float(median / copy)}


def write(folder: Path, framework: str, found: Sequence[Row], setting: Row) -> None:
    """All numbers, the short tables and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    full = [row | setting for row in found]
    save(folder / f"{framework}.csv", [full[0], *(map(plain, row.values()) for row in full)])
    save(folder / f"{framework}-machine.csv", [setting, setting.values()])
    for name in SHORT:
        save(folder / f"{framework}-{name}.csv", short(found, name))
    draw(folder / f"{framework}.svg", found, setting)


def save(path: Path, lines: Iterable[Iterable[Any]]) -> None:
    """As CSV, with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def plain(value: Any) -> Any:
    """Six digits are more than a clock gives."""
    return f"{value:.6g}" if isinstance(value, float) else value


def short(found: Sequence[Row], name: str) -> list[list[str]]:
    """A line a case and a column a candidate, of the longest pass that each has."""
    whole = [row for row in found if row["pass"] in LONGEST]
    candidates = list(dict.fromkeys(row["candidate"] for row in whole))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in whole:
        lines.setdefault(tuple(row[key] for key in SETTING), {})[row["candidate"]] = SHORT[name](row)
    return [[*SETTING, *candidates], *([*key, *(line.get(c, "") for c in candidates)] for key, line in lines.items())]


def table(found: Sequence[Row], setting: Row) -> Table:
    """The ratios, for reading."""
    header, *lines = short(found, "ratio")
    what = f"Median time of {' or '.join(LONGEST)}, divided by that of the peer."
    caption = f"{what}\n{described(setting)}, {setting['versions']}"
    view = Table(caption=caption, box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in header:
        view.add_column(name, justify="left" if name in SETTING else "right")
    for line in lines:
        view.add_row(*line)
    return view


def draw(path: Path, found: Sequence[Row], setting: Row) -> None:
    """Ratios by case: a panel for each pass and dtype."""
    mpl.rcParams["svg.hashsalt"] = "zlpr"  # the same numbers give the same file
    passes, dtypes, names = (list(dict.fromkeys(row[key] for row in found)) for key in ("pass", "dtype", "candidate"))
    figure = Figure(figsize=(6.5 * len(passes), 4.5 * len(dtypes) + 1), layout="constrained")
    grid = figure.subplots(len(dtypes), len(passes), squeeze=False)
    colours = dict(zip(names, COLOURS, strict=False))
    for dtype, line in zip(dtypes, grid, strict=True):
        for name, axes in zip(passes, line, strict=True):
            panel(axes, [row for row in found if (row["dtype"], row["pass"]) == (dtype, name)], colours)
            axes.set_title(f"{name}, {dtype}")
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"Time divided by that of the peer: {described(setting)}")
    figure.savefig(path, metadata={"Date": None})


def panel(axes: Axes, found: Sequence[Row], colours: Mapping[str, str]) -> None:
    """A dot a candidate and case, with a line from its 20 % to its 80 % quantile."""
    cases = list(dict.fromkeys(case_of(row) for row in found))
    offsets = dict(zip(colours, np.linspace(-0.35, 0.35, len(colours)), strict=True))
    for row in found:
        below, above = (abs(row["ratio"] * (row[key] / row["median_us"] - 1)) for key in ("q20_us", "q80_us"))
        place, colour = cases.index(case_of(row)) + offsets[row["candidate"]], colours[row["candidate"]]
        axes.errorbar(place, row["ratio"], [[below], [above]], fmt="o", markersize=4, linewidth=1, color=colour)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(yscale="log", ylabel="ratio to the peer")
    axes.set_xticks(range(len(cases)), cases, rotation=60, fontsize="small")
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.set_visible(bool(found))


def case_of(row: Row) -> str:
    """As it is written under a panel."""
    return f"{row['shape']}\n{row['targets']}"
