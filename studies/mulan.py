"""Sets in Mulan's form as .npz files: ``python -m studies.mulan FOLDER... --output DIR``.

A folder holds NAME-train.arff, NAME-test.arff and NAME.xml, which names the labels. The seven sets of the committed run
are in data/multi-label of https://github.com/tsoumakas/mulan, some of them packed.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import arff
import numpy as np
from data import DataError
from scipy.sparse import csr_array

Cell = tuple[int, float]
"""A column and what it holds."""


class Table(NamedTuple):
    """One ARFF file."""

    attributes: list[tuple[str, Any]]  # with the values of a nominal one
    rows: list[list[Any]]
    sparse: bool


def convert(folder: Path) -> dict[str, np.ndarray]:
    """What ``data.load_npz`` reads: train rows first, and a column for each value of a nominal feature."""
    (header,) = _only(folder, "*.xml")
    parts = [read(folder / f"{header.stem}-{part}.arff") for part in ("train", "test")]
    labels = [unescape(name) for name in re.findall(r'<label\s+name="([^"]*)"', header.read_text(encoding="utf-8"))]
    x, names = _matrix(parts, lambda name: name not in labels)
    y, found = _matrix(parts, lambda name: name in labels)
    if sorted(found) != sorted(labels):
        msg = f"{header} names labels that {header.stem}-train.arff has not: {', '.join(sorted({*labels} - {*found}))}."
        raise DataError(msg)
    rows = np.split(np.arange(len(parts[0].rows) + len(parts[1].rows)), [len(parts[0].rows)])
    kept = {"X_data": x.data, "X_indices": x.indices, "X_indptr": x.indptr, "X_shape": np.array(x.shape)}
    features = kept if parts[0].sparse else {"X": x.toarray()}
    split = dict(zip(("train_idx", "test_idx"), rows, strict=True))
    return features | split | {"Y": y.toarray().astype(np.uint8), "feature_names": names, "label_names": found}


def read(path: Path) -> Table:
    """Whole rows; what a sparse one leaves out is 0 or the first value."""
    text = path.read_text(encoding="utf-8", errors="replace")
    loaded = arff.loads(text)
    return Table(loaded["attributes"], loaded["data"], bool(re.search(r"@data\s*\{", text, flags=re.IGNORECASE)))


def _only(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        msg = f"{folder} must hold one {pattern} beside the train and test files, but has {len(found)}."
        raise DataError(msg)
    return found


def _matrix(parts: Sequence[Table], wanted: Any) -> tuple[csr_array, np.ndarray]:
    """The columns of the attributes that are wanted, and their names."""
    columns: dict[int, tuple[int, list[str]]] = {}
    names: list[str] = []
    for number, (name, kind) in enumerate(parts[0].attributes):
        if wanted(name):
            values = kind if isinstance(kind, list) and sorted(kind) != ["0", "1"] else []
            columns[number] = len(names), values
            names += [f"{name}={value}" for value in values] or [name]
    cells = [list(_cells(row, columns)) for part in parts for row in part.rows]
    ends = np.cumsum([0, *map(len, cells)])
    flat = [cell for row in cells for cell in row]
    data = np.array([value for _, value in flat], np.float32), np.array([column for column, _ in flat], np.int64), ends
    return csr_array(data, shape=(len(cells), len(names))), np.array(names)


def _cells(row: Sequence[Any], columns: dict[int, tuple[int, list[str]]]) -> Iterator[Cell]:
    for number, value in enumerate(row):
        if number in columns:
            first, values = columns[number]
            cell = (first + values.index(value), 1.0) if values else (first, float(value))
            if cell[1]:
                yield cell


def main(argv: list[str] | None = None) -> int:
    """Write a file for each folder; 0 if all went well, 2 after a complaint."""
    parser = argparse.ArgumentParser(description="Multi-label sets in Mulan's form, as .npz files.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        for folder in arguments.folders:
            np.savez_compressed(arguments.output / f"{folder.name}.npz", **convert(folder))
    except (DataError, OSError) as problem:
        print(f"studies: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
