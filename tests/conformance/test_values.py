"""Values and gradients against the oracle, at the promised accuracy, in every dtype and mode."""

import numpy as np
import oracle
import pytest
from cases import GOLDEN_HARD, GOLDEN_LOGITS, GOLDEN_SOFT, TABLES
from tolerances import grad_error, value_error
from truth import table

GOLDEN = {
    "hard": (GOLDEN_HARD, {}, "1.9019748997470065"),
    "soft": (GOLDEN_SOFT, {}, "2.1964619290853217"),
    "threshold": (GOLDEN_HARD, {"threshold": 0.4}, "1.8655855099158937"),
    "none": ([0] * 5, {}, "2.0732496096792694"),
    "all": ([1] * 5, {}, "2.4891768444078737"),
}
GOLDEN_GRAD = {
    "hard": [-0.14749871602378161, 0.15136833745555378, -0.36278830082374868, 0.041252684415339561, 0.5025605787526805],
    "soft": [
        0.0059169229186367661,
        -0.021008724765866988,
        0.0083155980491495975,
        -0.092469846340528228,
        0.14718462017132354,
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_value_matches_oracle(backend, dtype, mode, name, worst):
    logits, targets, losses, _, _ = table(name, dtype)
    got = backend.loss(logits, targets, dtype, mode=mode)
    worst("value", backend, dtype, value_error(got, losses, dtype))


@pytest.mark.parametrize("name", TABLES)
def test_gradient_matches_oracle(backend, dtype, mode, name, worst):
    logits, targets, _, grads, sizes = table(name, dtype)
    got = backend.grad(logits, targets, dtype, mode=mode)
    worst("gradient", backend, dtype, grad_error(got, grads, sizes, dtype))


@pytest.mark.spare
@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int32", "int64", "float32"])
@pytest.mark.parametrize("name", ["random", "separable", "wrong"])
def test_hard_targets_of_every_kind_agree(backend, dtype, name, kind):
    logits, targets, losses, grads, sizes = table(name, dtype)
    got = backend.loss(logits, targets.astype(kind), dtype, target_dtype=kind)
    assert value_error(got, losses, dtype).max() <= 1
    got = backend.grad(logits, targets.astype(kind), dtype, target_dtype=kind)
    assert grad_error(got, grads, sizes, dtype).max() <= 1


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(backend, name):
    targets, options, true = GOLDEN[name]
    np.testing.assert_allclose(backend.loss([GOLDEN_LOGITS], [targets], **options), [float(true)], rtol=1e-15)


@pytest.mark.parametrize("name", GOLDEN_GRAD)
def test_golden_gradients(backend, name):
    """To a few units in the last place of the two parts, which nearly cancel in the first soft cell."""
    targets = GOLDEN[name][0]
    got = backend.grad([GOLDEN_LOGITS], [targets])
    parts = [float(negative + positive) for positive, negative in oracle.zlpr_grad_parts(GOLDEN_LOGITS, targets)]
    assert (abs(got[0] - GOLDEN_GRAD[name]) <= 2e-15 * np.asarray(parts)).all()


def test_golden_far_out(backend):
    got = backend.loss([[1000.0, -1000.0, -1000.0]] * 2, [[0, 1, 1], [1, 0, 0]])
    np.testing.assert_allclose(got, [2000.6931471805599, 0.0], rtol=1e-15)


def test_result_and_gradient_dtypes(backend, dtype):
    logits, targets, *_ = table("random", dtype)
    wide = "float64" if dtype == "float64" else "float32"
    assert backend.dtype_name(backend.native_value("zlpr", dtype, logits=logits, targets=targets)) == wide
    assert backend.dtype_name(backend.native_slope("zlpr", "logits", dtype, logits=logits, targets=targets)) == dtype


def test_terms_sum_to_the_loss(backend, dtype):
    logits, targets, *_ = table("soft", dtype)
    halves = [oracle.halves(s, t) for s, t in zip(logits, targets, strict=True)]
    got = backend.terms(**backend.problem(logits, targets, dtype))
    for half, term in zip(zip(*halves, strict=True), got, strict=True):
        assert value_error(backend.numpy(term), [float(h.value) for h in half], dtype).max() <= 1
