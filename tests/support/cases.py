"""Inputs worth computing everywhere: tables of examples that share a number of classes.

Each is ``(logits, targets)`` with one row an example; integer targets are hard, floating ones soft. ``rounded`` makes
them exact in a dtype, so that the oracle sees what the package sees. The tables share a few shapes, because JAX and XLA
compile anew for each.
"""

import ml_dtypes
import numpy as np

GOLDEN_LOGITS = [1.2, -0.7, 0.3, -2.0, 0.5]
GOLDEN_HARD = [1, 0, 1, 0, 0]
GOLDEN_SOFT = [0.9, 0.2, 0.6, 0.05, 0.5]

_rng = np.random.default_rng(2208)


def _random(rows, classes, scale, density=0.3):
    return _rng.normal(0, scale, (rows, classes)), (_rng.random((rows, classes)) < density).astype(int)


def _separable(margins, classes=12):
    """Every label on the right side of 0, by each of these margins: losses from log 2 down to 1e-30."""
    targets = np.tile(np.arange(classes) < 3, (len(margins), 1)).astype(int)
    spread = 1 + _rng.random((len(margins), classes)) / 50
    return np.where(targets, 1, -1) * np.asarray(margins)[:, None] * spread, targets


def _wide():
    """10 000 classes, where sums lose digits: equal terms, small ones, a few large ones, all extreme."""
    classes = 10_000
    logits = np.stack([
        np.full(classes, -7.3),
        _rng.normal(-12, 1, classes),
        _rng.uniform(-60, 30, classes),
        _rng.uniform(-1e4, 1e4, classes),
    ])  # fmt: skip
    targets = (_rng.random(logits.shape) < 0.02).astype(int)
    targets[0] = 0
    return logits, targets


def _wrong():
    """Labels on the wrong side of 0 by up to 1e4, with and without positives."""
    logits = np.outer([1.0, 30.0, 88.0, 104.0, 1e3, 1e4], [1.0, -1.0, 0.5, -0.25, 0.99])
    return logits, np.asarray(
        [[0, 1, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 1, 1, 0, 1]]
    )


TABLES = {
    "golden": (np.asarray([GOLDEN_LOGITS] * 6), np.asarray([GOLDEN_HARD, [0] * 5, [1] * 5, *np.eye(5, dtype=int)[:3]])),
    "golden soft": (np.asarray([GOLDEN_LOGITS]), np.asarray([GOLDEN_SOFT])),
    "one class": (np.asarray([[-80.0], [-1.0], [0.0], [2.0], [1e4]] * 2), np.asarray([[0]] * 5 + [[1]] * 5)),
    "one class soft": (np.asarray([[-80.0], [-1.0], [0.0], [2.0], [1e4]]), np.asarray([[0.3], [0.0], [1.0], [0.5], [0.9]])),
    "random": _random(6, 12, 3.0),
    "extreme": _random(6, 12, 4e3),
    "none positive": (_random(6, 12, 20.0)[0], np.zeros((6, 12), int)),
    "all positive": (_random(6, 12, 20.0)[0], np.ones((6, 12), int)),
    "separable": _separable([0.0, 1.0, 10.0, 30.0, 45.0, 67.0]),
    "wrong": _wrong(),
    "soft": (_random(6, 12, 5.0)[0], _rng.random((6, 12))),
    "soft with hard cells": (_random(6, 12, 50.0)[0], np.clip(_rng.normal(0.5, 1, (6, 12)), 0, 1)),
    "soft and extreme": (_random(6, 12, 4e3)[0], _rng.random((6, 12))),
    "soft and tiny": (_rng.uniform(-75, 75, (6, 12)), 10.0 ** _rng.uniform(-30, 0, (6, 12))),
    "soft, tiny and far": (-_rng.uniform([1.0, 69.5], [2.0, 71.0], (9, 2)), np.tile([0.9, 1e-30], (9, 1))),
    "wide": _wide(),
    "float16 range": (_rng.uniform(-6e4, 6e4, (6, 12)), _random(6, 12, 1.0)[1]),
}  # fmt: skip

_pairs_rng = np.random.default_rng(9039)
PAIR_LOGITS = _pairs_rng.normal(0, 3, (6, 8))


def _mixed():
    """Confident labels that differ by units beside unsure ones that differ by thousandths."""
    confident = _pairs_rng.random(PAIR_LOGITS.shape) < 0.4
    gap = np.where(confident, _pairs_rng.normal(0, 4, PAIR_LOGITS.shape), _pairs_rng.normal(0, 1e-3, PAIR_LOGITS.shape))
    p = np.where(confident, 15 * PAIR_LOGITS, PAIR_LOGITS)
    return p, p + gap


_APART = _pairs_rng.uniform(-4, 4, (60, 1))
PAIRS = {  # of the same few shapes
    "random": (PAIR_LOGITS, _pairs_rng.normal(0, 3, PAIR_LOGITS.shape)),
    "equal": (PAIR_LOGITS, PAIR_LOGITS),
    "many": (_pairs_rng.normal(0, 4, (200, 8)), _pairs_rng.normal(0, 4, (200, 8))),
    "near": (PAIR_LOGITS, PAIR_LOGITS + _pairs_rng.normal(0, 1e-3, PAIR_LOGITS.shape)),
    "a rounding apart": (PAIR_LOGITS, np.nextafter(PAIR_LOGITS.astype(np.float32), np.float32(9)).astype(float)),
    "shifted": (PAIR_LOGITS, PAIR_LOGITS + 0.01),
    "mixed": _mixed(),
    "one label": (_pairs_rng.uniform(-9, 9, (60, 1)), _pairs_rng.uniform(-9, 9, (60, 1))),
    "confident": (_sure := _pairs_rng.choice([-1, 1], (60, 1)) * _pairs_rng.uniform(12, 20, (60, 1)), _sure - _APART),
    "confident together": tuple(x[:48].reshape(6, 8) for x in (_sure, _sure - _APART)),
    "saturated": (_pairs_rng.uniform(-60, 60, (6, 8)), _pairs_rng.uniform(-60, 60, (6, 8))),
    "extreme": (_pairs_rng.uniform(-1e4, 1e4, (6, 8)), _pairs_rng.uniform(-1e4, 1e4, (6, 8))),
    "extreme and near": (np.resize([1e4, -1e4, 30.0], (6, 8)), np.resize([1e4, -1e4, 30.0], (6, 8)) + 1.0),
    "wide": (_wide := _pairs_rng.normal(0, 3, (1, 500)), _pairs_rng.normal(0, 3, (1, 500))),
    "wide and shifted": (_wide, _wide + 0.01),
}


def rounded(values, dtype):
    """The nearest float64 numbers that ``dtype`` holds; integers and bools stay."""
    values = np.asarray(values)
    return values if values.dtype.kind in "biu" else values.astype(ml_dtypes.finfo(dtype).dtype).astype(np.float64)
