"""The digits that subtracting a threshold loses count wherever the loss is an exponential of the difference.

Rounding ``s - θ`` is off by up to half a unit in its last place: at 60 that is 2e-6 of ``e^60`` in float32, four times
what a value is allowed. The packages keep what was rounded off and correct the term by it; a correction of the wrong sign
would double the error, and fail here.
"""

import numpy as np
import oracle
import pytest
from cases import rounded
from tolerances import grad_error, value_error
from truth import dense

RNG = np.random.default_rng(2**24 + 1)
HARD = np.tile(np.arange(12) < 6, (6, 1)).astype(int)
RIGHT = np.where(HARD == 1, 1.0, -1.0)  # the side of the threshold on which a label costs little
SMALL, LARGE = RNG.uniform(-3, 3, 12), RIGHT[0] * RNG.uniform(40, 60, 12)
PASS = RIGHT * RNG.uniform(33, 40, (6, 12))
FURTHER = RNG.uniform(1.0, 1.5, (6, 12))
FAR = RNG.uniform(300, 3000, (6, 1)) + RNG.uniform(-2, 2, (6, 12))
CASES = {  # logits and thresholds
    "right, by the logit": (RIGHT * RNG.uniform(40, 66, (6, 12)), SMALL),
    "right, by the threshold": (RIGHT * RNG.uniform(0, 4, (6, 12)), -LARGE),
    "wrong by far": (-RIGHT * FAR, SMALL),
    "wrong by far, the threshold too": (-RIGHT * FAR, 100 * SMALL),
}
by_case = pytest.mark.parametrize("name", CASES)
by_kind = pytest.mark.parametrize("kind", [int, float])


def read(name, dtype):
    """Logits exact in ``dtype``, and thresholds in the dtype that computes."""
    logits, threshold = CASES[name]
    return rounded(logits, dtype), rounded(threshold, "float64" if dtype == "float64" else "float32")


def is_rounded(name):
    """Whether subtracting the threshold in float32 rounds in every column. If not, the tests below could not fail."""
    logits, threshold = (x.astype(np.float32) for x in read(name, "float32"))
    return ((logits - threshold).astype(float) != logits.astype(float) - threshold).mean(axis=0).min() > 0.3


@by_case
def test_these_differences_are_rounded(name):
    assert is_rounded(name)


@pytest.mark.spare
@by_case
@by_kind
def test_the_loss_keeps_them(backend, dtype, mode, name, kind, worst):
    """In either half, hard and soft, in value and gradient."""
    logits, threshold = read(name, dtype)
    targets = HARD.astype(kind)
    losses, grads, sizes = dense(logits, targets, {"threshold": threshold})
    got = backend.loss(logits, targets, dtype, mode=mode, threshold=threshold)
    worst("value", backend, dtype, value_error(got, losses, dtype))
    got = backend.grad(logits, targets, dtype, mode=mode, threshold=threshold)
    worst("gradient", backend, dtype, grad_error(got, grads, sizes, dtype))


@pytest.mark.spare
@by_case
def test_both_halves_keep_them(backend, name, worst):
    """Each half alone, where the other half cannot hide it."""
    logits, threshold = read(name, "float32")
    terms = backend.terms(**backend.problem(logits, HARD, "float32", threshold=threshold))
    rows = zip(logits.tolist(), HARD.tolist(), strict=True)
    true = np.asarray([[float(h.value) for h in oracle.halves(s, t, threshold=threshold)] for s, t in rows])
    for half, expected in zip(terms, true.T, strict=True):
        worst("value", backend, "float32", value_error(backend.numpy(half), expected, "float32"))


@pytest.mark.spare
@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("further", [0.5, 6.0])
@pytest.mark.parametrize("surer", ["logits1", "logits2"])
def test_rdrop_keeps_them(backend, dtype, mode, surer, further, scale, worst):
    """The agreement of two passes that are right by far, worth so much that the losses do not hide it."""
    sure, sures = (rounded(x, dtype) for x in (PASS, PASS + RIGHT * further * FURTHER))
    s, u = (sures, sure) if surer == "logits1" else (sure, sures)
    threshold = rounded(SMALL, "float64" if dtype == "float64" else "float32")
    options = {"alpha": 1e20, "scale": scale, "threshold": threshold}
    got = backend.value("rdrop_zlpr", dtype, mode=mode, logits1=s, logits2=u, targets=HARD, **options)
    rows = zip(s.tolist(), u.tolist(), HARD.tolist(), strict=True)
    true = [float(oracle.rdrop(*row, alpha=1e20, scale=scale, threshold=threshold.tolist())) for row in rows]
    worst("value", backend, dtype, value_error(got, true, dtype))


NEAR = RNG.uniform(40, 62, (6, 12))
REGRET = {  # logits of p and q: of one sign, so that only what 2p - q loses counts
    "both right": (RIGHT * NEAR, RIGHT * (NEAR + RNG.uniform(3, 6, (6, 12)))),
    "all on": (NEAR, NEAR + RNG.uniform(2.5, 5, (6, 12))),
    "all off": (-NEAR, -NEAR - RNG.uniform(2.5, 5, (6, 12))),
    "far apart": (RIGHT * RNG.uniform(0.1, 3, (6, 12)), RIGHT * FAR),
}


@pytest.mark.spare
@pytest.mark.parametrize("name", REGRET)
def test_the_regret_keeps_them(backend, dtype, mode, name, worst):
    p, q = (rounded(x, dtype) for x in REGRET[name])
    rows = list(zip(p.tolist(), q.tolist(), strict=True))
    got = backend.value("zlpr_divergence", dtype, mode=mode, p_logits=p, q_logits=q)
    worst("value", backend, dtype, value_error(got, [float(oracle.zlpr_divergence(*row)) for row in rows], dtype))
    if backend.autodiff:
        for wrt, place in (("p_logits", 0), ("q_logits", 1)):
            cells = [oracle.zlpr_divergence_grad_parts(*row)[place] for row in rows]
            true = np.asarray([[float(sum(cell)) for cell in row] for row in cells])
            sizes = np.asarray([[float(sum(map(abs, cell))) for cell in row] for row in cells])
            got = backend.slope("zlpr_divergence", wrt, dtype, mode=mode, p_logits=p, q_logits=q)
            worst("gradient", backend, dtype, grad_error(got, true, sizes, dtype))


def test_the_regret_of_one_label_that_differs_among_many(backend, worst):
    """Its exponential is large, and yet the value is not: so the rounding error of centring the exponent shows."""
    p, q = np.zeros((2, 20_000)), np.zeros((2, 20_000))
    q[:, 0] = -9.015254, -9.411864
    p, q = (rounded(x, "float32") for x in (p, q))
    got = backend.value("zlpr_divergence", "float32", p_logits=p, q_logits=q)
    true = [float(oracle.zlpr_divergence(*row)) for row in zip(p.tolist(), q.tolist(), strict=True)]
    worst("value", backend, "float32", value_error(got, true, "float32"))
