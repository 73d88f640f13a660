"""Texts and their label sets from CSV or TSV files: several labels to a cell, or one column a label."""

import csv
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple, NoReturn

import numpy as np
from data import DataError

INSTALL = "in a clone, pip install '.[torch]' --group text"
TRUTHS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
SET_ASIDE = 0.1  # of the training rows, where there is no file to validate or to test on


class Layout(NamedTuple):
    """How the files are laid out, all of them alike."""

    text: str  # a column by its name, or by its number where there is no header
    labels: list[str]  # one column or several; "first:last" are all from one to the other
    header: bool
    separator: str  # of several labels in a cell


class Row(NamedTuple):
    """One example, as it came."""

    place: str  # file and line, for messages
    text: str
    labels: list[str]


class Texts(NamedTuple):
    """What a model trains on or is tested on."""

    texts: list[str]
    labels: np.ndarray  # int64 (rows, classes), 0 or 1


class Corpus(NamedTuple):
    """All that was read."""

    classes: list[str]
    train: Texts
    validation: Texts
    test: Texts


def load(train: Path, others: list[Path | None], layout: Layout, *, names: Path | None, seed: int) -> Corpus:
    """``others`` are the files to validate and to test on. The classes are those of ``names``, or all in ``train``."""
    columns, rows = read(train, layout)
    classes = read_names(names) if names else columns if len(columns) > 1 else _found(rows)
    _require(len(classes) > 1, names or train, f"there must be two labels or more, but there are {len(classes)}")
    known = {name: i for i, name in enumerate(classes)}
    if names:  # a number is the id of a class, unless it is the name of one
        known = {str(i): i for i in range(len(classes))} | known
    parts = [path and encode(read(path, layout)[1], known, len(classes)) for path in others]
    return Corpus(classes, *_filled(encode(rows, known, len(classes)), parts, train, seed=seed))


def read(path: Path, layout: Layout) -> tuple[list[str], list[Row]]:
    """The names of the columns with labels, and the rows."""
    lines = list(_lines(path))
    _require(lines, path, "the file is empty")
    names = lines[0][1] if layout.header else [str(number) for number in range(len(lines[0][1]))]
    (text,), columns = _find([layout.text], names, path, layout), _find(layout.labels, names, path, layout)
    rows = []
    for place, cells in lines[layout.header :]:
        _require(len(cells) == len(names), place, f"there must be {len(names)} cells, but there are {len(cells)}")
        labels = _listed(cells[columns[0]], layout) if len(columns) == 1 else _ticked(cells, columns, names, place)
        rows.append(Row(place, cells[text], labels))
    _require(rows, path, "there is no row below the header")
    return [names[column] for column in columns], rows


def read_names(path: Path) -> list[str]:
    """The names of the classes, one a line, in the order of their ids."""
    names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    _require(not twice, path, f"every name must stand there once, but {', '.join(twice)} does not")
    return names


def encode(rows: list[Row], known: dict[str, int], classes: int) -> Texts:
    """Rows of 0 and 1 in place of names and ids."""
    labels = np.zeros((len(rows), classes), np.int64)
    for row, target in zip(rows, labels, strict=True):
        for label in row.labels:
            _require(label in known, row.place, f"the label {label!r} is neither in the training file nor in --names")
            target[known[label]] = 1
    return Texts([row.text for row in rows], labels)


def _filled(train: Texts, others: list[Texts | None], path: Path, *, seed: int) -> list[Texts]:
    """The same parts, of which a missing one gets a tenth of the training rows, by chance."""
    rest = np.random.default_rng(seed).permutation(len(train.texts))
    share = math.ceil(SET_ASIDE * len(rest))
    filled = []
    for part in others:
        if part is None:
            part, rest = _take(train, rest[:share]), rest[share:]
        filled.append(part)
    _require(len(rest), path, "too few rows to set some aside for validation and test")
    return [_take(train, rest), *filled]


def _take(part: Texts, rows: np.ndarray) -> Texts:
    return Texts([part.texts[row] for row in rows], part.labels[rows])


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each line that is not blank."""
    csv.field_size_limit(sys.maxsize)  # a text may be long
    tabs = path.suffix == ".tsv"
    lines = csv.reader(io.StringIO(_text(path)), delimiter="\t" if tabs else ",")
    try:
        for cells in lines:
            place = f"{path}, line {lines.line_num}"
            # a quote that is never closed takes in all that follows, row after row
            _require(not tabs or "\t" not in "".join(cells), place, "a quotation mark is not closed; double or drop it")
            if cells:
                yield place, cells
    except csv.Error as problem:
        _refuse(f"{path}, line {lines.line_num}", str(problem))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        _refuse(path, f"the file cannot be opened ({problem.strerror or problem})")
    except UnicodeDecodeError:
        _refuse(path, "the file must be UTF-8")


def _find(wanted: list[str], names: list[str], path: Path, layout: Layout) -> list[int]:
    """The places of the columns that are asked for."""
    found = []
    for name in wanted:
        first, _, last = (name, "", name) if name in names else name.partition(":")
        for end in (first, last):
            _require(end in names, path, f"there is no column {end!r}; {_hint(end, names, layout)}")
        found += range(names.index(first), names.index(last) + 1)
    return list(dict.fromkeys(found))


def _hint(name: str, names: list[str], layout: Layout) -> str:
    if not layout.header:
        return f"they are numbered 0 to {names[-1]}"
    hint = f"the first line has {shorten(', '.join(names), 100, placeholder=' ...')}"
    return f"{hint}; if that is no header, say --no-header" if name.isdecimal() else hint


def _listed(cell: str, layout: Layout) -> list[str]:
    """``joy,love`` and, as pandas writes lists, ``['joy', 'love']``."""
    labels = (label.strip(" '\"") for label in cell.strip(" []").split(layout.separator))
    return [label for label in labels if label]


def _ticked(cells: list[str], columns: list[int], names: list[str], place: str) -> list[str]:
    for column in columns:
        said = f"column {names[column]!r} must be 0 or 1, but is {cells[column]!r}"
        _require(cells[column].lower() in TRUTHS, place, said)
    return [names[column] for column in columns if TRUTHS[cells[column].lower()]]


def _found(rows: list[Row]) -> list[str]:
    """All labels in the order of their numbers, else of the alphabet."""
    labels = {label for row in rows for label in row.labels}
    return sorted(labels, key=lambda label: (int(label) if label.isdecimal() else math.inf, label))


def _require(condition: object, place: object, problem: str) -> None:
    if not condition:
        _refuse(place, problem)


def _refuse(place: object, problem: str) -> NoReturn:
    msg = f"{place}: {problem}."
    raise DataError(msg) from None
