"""Multi-label data sets as NumPy arrays: Yeast out of the river wheel, or an .npz file of your own."""

import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np

SPARSE = ("X_data", "X_indices", "X_indptr", "X_shape")
ROWS = ("train_idx", "test_idx")
TRAIN_SHARE = 1500 / 2417  # of Yeast in the literature


class DataError(Exception):
    """One sentence for whoever brought the data."""


class Dataset(NamedTuple):
    """Features and labels as they came."""

    name: str
    features: np.ndarray  # float32 (rows, features)
    labels: np.ndarray  # int64 (rows, classes), 0 or 1; some tools count wrongly in uint8
    dense: bool  # as measured, so worth standardising
    rows: tuple[np.ndarray, np.ndarray] | None  # train and test, where the set brings its own split


class Split(NamedTuple):
    """What a model trains on and what it is tested on."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_yeast() -> Dataset:
    """2417 genes, 103 features of each, 14 functions (Elisseeff and Weston, NIPS 2001)."""
    try:
        from river.datasets import Yeast
    except ModuleNotFoundError as missing:
        msg = f"Yeast comes with river, but {missing.name} is missing: pip install river, or pass --data FILE.npz."
        raise DataError(msg) from None
    features, labels = zip(*Yeast(), strict=True)
    x = np.array([list(row.values()) for row in features], dtype=np.float32)
    y = np.array([list(row.values()) for row in labels], dtype=np.int64)
    return Dataset("Yeast", x, y, dense=True, rows=None)


def load_npz(path: Path) -> Dataset:
    """Keys: X, or CSR in X_data, X_indices, X_indptr and X_shape; Y; where there is a split, train_idx and test_idx."""
    try:
        arrays = _read(path)
        features, labels = _features(arrays), _labels(arrays)
        counts = len(features), len(labels)
        _require(counts[0] == counts[1] > 1, f"`X` and `Y` must have as many rows, two or more, but have {counts}")
        return Dataset(path.stem, features, labels, "X" in arrays, _rows(arrays, len(labels)))
    except DataError as problem:
        msg = f"{path}: {problem}."
        raise DataError(msg) from None


def split(dataset: Dataset, seed: int) -> Split:
    """Train and test rows: those of the data set, else random ones. Dense features are standardised."""
    order = np.random.default_rng(seed).permutation(len(dataset.labels))
    train, test = dataset.rows or np.split(order, [round(TRAIN_SHARE * len(order))])
    x_train, x_test = dataset.features[train], dataset.features[test]
    if dataset.dense:
        x_train, x_test = standardised(x_train, by=x_train), standardised(x_test, by=x_train)
    return Split(x_train, dataset.labels[train], x_test, dataset.labels[test])


def standardised(x: np.ndarray, *, by: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 on the rows of ``by``; a feature that is constant there only loses its mean."""
    mean, deviation = by.mean(axis=0, dtype=np.float64), by.std(axis=0, dtype=np.float64)
    constant = by.min(axis=0) == by.max(axis=0)  # rounding may leave its deviation just above zero
    return ((x - mean) / np.where(constant, 1, deviation)).astype(np.float32)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            return _read_archive(file)
    except OSError as problem:
        msg = f"the file cannot be opened ({problem.strerror or problem})"
        raise DataError(msg) from None


def _read_archive(file: BinaryIO) -> dict[str, np.ndarray]:
    try:
        archive = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):
        archive = None
    _require(isinstance(archive, np.lib.npyio.NpzFile), "the file is not an .npz archive; numpy.savez writes one")
    keys = [key for key in ("X", *SPARSE, "Y", *ROWS) if key in archive]
    return {key: _read_array(archive, key) for key in keys}


def _read_array(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array = np.asarray(archive[key])
    except (ValueError, OSError, EOFError, MemoryError, RuntimeError, BadZipFile, zlib.error) as problem:
        said = " ".join(str(problem).split()).rstrip(".")  # in one line
        msg = f"`{key}` must be a plain array of numbers, but NumPy says: {said}"
        raise DataError(msg) from None
    _require(array.dtype.kind in "buif", f"`{key}` must hold real numbers, but has dtype {array.dtype}")
    return array


def _features(arrays: dict[str, np.ndarray]) -> np.ndarray:
    has_sparse = all(key in arrays for key in SPARSE)
    _require("X" in arrays or has_sparse, f"`X` is missing, or for sparse features one of {', '.join(SPARSE)}")
    x = arrays["X"] if "X" in arrays else _from_csr(*(arrays[key] for key in SPARSE))
    _require(x.ndim == 2 and x.shape[1] > 0, f"`X` must have shape (rows, features), but has {x.shape}")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    strange = np.argwhere(~np.isfinite(x))
    _forbid(strange, "`X` must be finite in float32, but is not at row and column {}; fill such cells in")
    return x


def _from_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: np.ndarray) -> np.ndarray:
    for name, array in zip(SPARSE[1:], (indices, indptr, shape), strict=True):
        _require_integers(name, array)
    _require(shape.shape == (2,) and shape.min() >= 0, f"`X_shape` must be (rows, features), but is {shape.tolist()}")
    _require(data.shape == indices.shape, f"`X_data` {data.shape} and `X_indices` {indices.shape} must be equally long")
    _require_range("X_indices", indices, shape[1])
    rows = _csr_rows(indptr, int(shape[0]), cells=len(indices))
    try:
        x = np.zeros(shape, np.float64)
    except (MemoryError, ValueError):
        msg = f"`X_shape` {shape.tolist()} is too large for this example, which makes `X` dense"
        raise DataError(msg) from None
    np.add.at(x, (rows, indices), data)  # CSR adds up repeated cells
    return x


def _csr_rows(indptr: np.ndarray, count: int, *, cells: int) -> np.ndarray:
    steps = np.diff(indptr.astype(np.int64), prepend=0, append=cells)
    climbs = len(indptr) == count + 1 and steps[0] == steps[-1] == 0 and steps.min() >= 0
    _require(climbs, f"`X_indptr` must climb from 0 to {cells} in {count} steps, one for each row")
    return np.repeat(np.arange(count), steps[1:-1])


def _labels(arrays: dict[str, np.ndarray]) -> np.ndarray:
    _require("Y" in arrays, "`Y` is missing: one row of zeros and ones per example, one column per class")
    y = arrays["Y"]
    _require(y.ndim == 2 and y.shape[1] > 1, f"`Y` must have shape (rows, two classes or more), but has {y.shape}")
    strange = y[(y != 0) & (y != 1)]
    _forbid(strange, "`Y` must hold only 0 and 1, but holds {}; multi-hot encode class ids first")
    return y.astype(np.int64)


def _rows(arrays: dict[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray] | None:
    given = [key for key in ROWS if key in arrays]
    if not given:
        return None
    _require(len(given) == 2, f"`train_idx` and `test_idx` must come together, but there is only `{given[0]}`")
    for key in given:
        _require_integers(key, arrays[key])
        _require(len(arrays[key]), f"`{key}` must name at least one row, but is empty")
        _require_range(key, arrays[key], count)
    train, test = (arrays[key].astype(np.int64) for key in given)
    twice = np.flatnonzero(np.bincount(np.concatenate([train, test])) > 1)
    _forbid(twice, "`train_idx` and `test_idx` must name a row once at most, but repeat {}")
    return train, test


def _require_integers(name: str, array: np.ndarray) -> None:
    is_list = array.ndim == 1 and array.dtype.kind in "ui"
    _require(is_list, f"`{name}` must be a 1-D array of integers, but is {array.dtype} of shape {array.shape}")


def _require_range(name: str, indices: np.ndarray, count: int) -> None:
    outside = indices[(indices < 0) | (indices >= count)]
    _forbid(outside, f"`{name}` must lie from 0 to {count - 1}, but holds {{}}; count from 0")


def _forbid(found: np.ndarray, problem: str) -> None:
    if len(found):
        msg = problem.format(found[0].tolist())
        raise DataError(msg)


def _require(condition: object, problem: str) -> None:
    if not condition:
        raise DataError(problem)
