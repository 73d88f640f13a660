"""The data sets: Yeast out of the river wheel, any folder of .npz files, or those of Mulan that OpenML has."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from data import DataError, Dataset, load_npz, load_yeast
from sklearn.datasets import fetch_openml

# An id names one version. These are the ten of Probst et al., "Multilabel Classification with R Package mlr", 2017.
NAMES = ("birds", "emotions", "enron", "genbase", "image", "langlog", "reuters", "scene", "slashdot", "yeast")
OPENML = {name: 40588 + number for number, name in enumerate(NAMES)}


def load(names: Iterable[str], folder: Path | None) -> Iterator[Dataset]:
    """One after the other, so that only one is in memory."""
    if folder is None:
        return map(from_openml, names) if names else iter([load_yeast()])
    there = sorted(folder.glob("*.npz"), key=lambda path: (path.stat().st_size, path.name))
    unknown = sorted(set(names) - {path.stem for path in there})
    if unknown or not there:
        msg = f"{folder} has no {unknown[0] if unknown else '*'}.npz, but {', '.join(p.stem for p in there) or 'none'}."
        raise DataError(msg)
    return map(load_npz, [path for path in there if not names or path.stem in names])


def from_openml(name: str) -> Dataset:
    """From scikit-learn's cache, or from the net the first time."""
    if name not in OPENML:
        msg = f"OpenML is asked for {', '.join(OPENML)}, but not for {name}; --data DIR reads other sets."
        raise DataError(msg)
    try:
        found = fetch_openml(data_id=OPENML[name], as_frame=False, parser="liac-arff")
    except OSError as problem:  # every urllib error is one
        msg = f"{name} is not in scikit-learn's cache, and OpenML cannot be reached ({problem}); try --data DIR."
        raise DataError(msg) from None
    x = np.asarray(found.data, np.float32)
    y = np.isin(found.target, ("TRUE", "1")).astype(np.int64)
    return Dataset(name, x, y, dense=not np.isin(x, (0, 1)).all(), rows=None)
