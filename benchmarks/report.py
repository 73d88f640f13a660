"""What came out: a table of ratios, and the CSV files that the documentation takes its figure and tables from."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from measure import Candidate, Field
from rich import box
from rich.table import Table

Row = dict[str, Any]
SETTING = ("shape", "targets", "dtype")
MEMORY = ("saved_bytes", "peak_bytes")
WIDEST = 12  # candidates side by side
LONGEST = ("forward+backward", "training step", "device")
STEP = ("step",)  # on a GPU: wall time, beside that of the device
SHARES = {"share_of_one_pass": (2, 1), "share_of_two_passes": (3, 2)}
"""Least traffic of a step: how often it touches each logit, its gradient included, and each target."""

# short tables, for documentation: what a cell is
SHORT: dict[str, Callable[[Row], str]] = {
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "copies": lambda row: f"{row['copies']:.1f}",
    "bytes": lambda row: " / ".join(f"{row[key] / row['logits']:.1f}" for key in MEMORY if row[key] is not None),
}


# and on a GPU: wall time, and per cent of the bandwidth of a copy, were a target read once and twice
SHORT_ON_GPU: dict[str, Callable[[Row], str]] = {
    "step": SHORT["ratio"],
    "share": lambda row: " / ".join(f"{100 * row[share]:.0f}" for share in SHARES),
}


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
            if field.copied:
                row |= shares(case, row, field.copied)
            found.append(row | {f"{key}_bytes": value for key, value in memory.items()})
    return found


def shares(case: Case, row: Row, copied: int) -> Row:
    """What the least traffic of a step takes at the bandwidth of the copy, as a share of what the step took."""
    per_byte = row["copy_us"] / copied
    traffic = {name: a * case.logit_bytes + b * case.target_bytes for name, (a, b) in SHARES.items()}
    return {name: case.size * moved * per_byte / row["median_us"] for name, moved in traffic.items()}


def timing(candidate: Candidate, name: str, times: Mapping[Any, np.ndarray]) -> Row:
    """Quantiles, and the median beside those of the peer and of a copy."""
    own = times[candidate.name, name]
    low, median, high = np.quantile(own, [0.2, 0.5, 0.8])
    peer, copy = np.median(times[candidate.peer, name]), np.median(times["copy"])
    microseconds = {"q20_us": low, "median_us": median, "q80_us": high, "copy_us": copy}
    scaled = {key: float(1e6 * value) for key, value in microseconds.items()}
    return {"rounds": len(own), **scaled, "ratio": float(median / peer), "copies": float(median / copy)}


def write(folder: Path, name: str, found: Sequence[Row], setting: Row) -> None:
    """All numbers, and the short tables; with many candidates and few cases, these have a line a candidate."""
    folder.mkdir(parents=True, exist_ok=True)
    full = [row | setting for row in found]
    save(folder / f"{name}.csv", [full[0], *(map(plain, row.values()) for row in full)])
    save(folder / f"{name}-machine.csv", [setting, setting.values()])
    for cell in SHORT:
        save(folder / f"{name}-{cell}.csv", short(found, cell))
    if "share_of_one_pass" in found[0]:
        save(folder / f"{name}-step.csv", short(found, "step", STEP))
        save(folder / f"{name}-share.csv", short(found, "share"))


def save(path: Path, lines: Iterable[Iterable[Any]]) -> None:
    """As CSV, with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def plain(value: Any) -> Any:
    """Six digits are more than a clock gives."""
    return f"{value:.6g}" if isinstance(value, float) else value


def short(found: Sequence[Row], name: str, passes: Sequence[str] = LONGEST) -> list[list[str]]:
    """A line a case and a column a candidate, of the longest pass of each; of many candidates the other way round."""
    whole, cell = [row for row in found if row["pass"] in passes], (SHORT | SHORT_ON_GPU)[name]
    cells = {(tuple(row[key] for key in SETTING), row["candidate"]): cell(row) for row in whole}
    cases, candidates = (list(dict.fromkeys(part)) for part in zip(*cells, strict=True))
    if len(candidates) <= WIDEST:
        lines = ([*case, *(cells.get((case, c), "") for c in candidates)] for case in cases)
        return [[*SETTING, *candidates], *lines]
    peers = {row["candidate"]: row["peer"] for row in whole}
    lines = ([c, peers[c], *(cells.get((case, c), "") for case in cases)] for c in candidates)
    return [["of", "beside", *(case[0] for case in cases)], *lines]


def table(found: Sequence[Row], setting: Row) -> Table:
    """The ratios, for reading."""
    header, *lines = short(found, "ratio")
    what = f"Median time of {' or '.join(LONGEST)}, divided by that of the peer."
    caption = f"{what}\n{described(setting)}, {setting['versions']}"
    view = Table(caption=caption, box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in header:
        view.add_column(name, justify="left" if name in (*SETTING, "of", "beside") else "right")
    for line in lines:
        view.add_row(*line)
    return view
