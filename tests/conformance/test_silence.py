"""Healthy input sets off no tool by which people look for a NaN, an infinity or an overflow of their own.

On logits within 80 of 0, and where a label of 1 or 0 stands by itself, nothing of the kind arises on the way either.
"""

import numpy as np
import pytest
from harness.base import ARRAYS, LOGITS

RNG = np.random.default_rng(80)
FAR = np.asarray([[3.0, -100.0, 0.0, 80.0], [80.0, -80.0, 79.0, -79.0], [-80.0] * 4, [80.0] * 4, [0.0] * 4])
OTHER = np.asarray(
    [[2.0, -80.0, 0.0, -80.0], [80.0, -80.0, 79.5, 79.0], [-80.0] * 4, [80.0, 0.0, 1.0, -80.0], [1e-4] * 4]
)
ONES = np.asarray([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [0.0, 0.0, 1.0, 0.0]])
TARGETS = {"hard": ONES.astype(int), "bool": ONES > 0, "floating": ONES, "soft": RNG.random((5, 4))}
SOME, WEIGHTS = RNG.random((5, 4)) < 0.6, np.asarray([0.0, 1.0, 2.0, 0.5])
OPTIONS = {
    "none": {},
    "a mask and weights": {"where": SOME, "weight": WEIGHTS, "pos_weight": WEIGHTS + 0.5},
    "nothing kept": {"where": np.zeros((5, 4), bool)},
    "a threshold": {"threshold": np.asarray([0.5, -1.0, 0.0, 2.0])},
}
EVERY = {"where": SOME, "weight": WEIGHTS, "pos_weight": WEIGHTS + 0.5, "threshold": np.asarray([[0.5]])}
IDS = np.asarray([[0, -1], [1, 2], [-1, -1], [3, 3], [2, 0]])


def run(backend, name, dtype, mode, **arguments):
    """Values, and slopes where there are any, as somebody would compute them who is after a NaN."""
    with backend.silent():
        backend.native_value(name, dtype, mode=mode, **arguments)
        if backend.autodiff or name == "zlpr":
            for wrt in [array for array in ARRAYS[name] if array in LOGITS and name != "zlpr_terms"]:
                backend.native_slope(name, wrt, dtype, mode=mode, **arguments)


@pytest.mark.alarmed
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", TARGETS)
def test_the_loss(backend, mode, kind, options):
    run(backend, "zlpr", "float32", mode, logits=FAR, targets=TARGETS[kind], **OPTIONS[options])


@pytest.mark.spare
@pytest.mark.parametrize("kind", TARGETS)
def test_the_halves_and_r_drop(backend, mode, kind):
    run(backend, "zlpr_terms", "float32", mode, logits=FAR, targets=TARGETS[kind], **EVERY)
    run(backend, "rdrop_zlpr", "float32", mode, logits1=FAR, logits2=OTHER, targets=TARGETS[kind], **EVERY)


@pytest.mark.spare
@pytest.mark.parametrize("options", [{}, EVERY], ids=["none", "every"])
def test_class_ids(backend, mode, options):
    run(backend, "sparse_zlpr", "float32", mode, logits=FAR, indices=IDS, **options)


@pytest.mark.spare
@pytest.mark.parametrize("name", ["kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"])
def test_divergences(backend, mode, name):
    for where in (None, SOME):
        run(backend, name, "float32", mode, p_logits=FAR, q_logits=OTHER, where=where)
        run(backend, name, "float32", mode, p_logits=FAR, q_logits=FAR, where=where)


@pytest.mark.spare
def test_half_precision_and_double(backend, dtype):
    for kind in TARGETS:
        run(backend, "zlpr", dtype, None, logits=FAR, targets=TARGETS[kind])


def test_helpers(backend):
    logits, ids = backend.native(FAR, "float32"), backend.native(IDS, "int64")
    with backend.silent():
        for targets in TARGETS.values():
            native = backend.native(targets, "float32" if targets.dtype == float else targets.dtype.name)
            backend.helper("zlpr_entropy")(native)
            backend.helper("check_targets")(native)
            for mode in ("symmetric", "positive"):
                backend.helper("smooth_labels")(native, 0.1, mode=mode)
        backend.helper("predict")(logits, threshold=0.5, at_least_one=True)
        backend.helper("probabilities")(logits)
        backend.helper("multi_hot")(ids, 4)


@pytest.mark.needs("autodiff")
def test_the_alarms_go_off(backend):
    """Where there is something to report; without this the file would show nothing."""
    with pytest.raises(Exception, match=r"(?i)\bnan"):
        run(backend, "zlpr", "float32", None, logits=FAR, targets=np.full((5, 4), np.nan))
