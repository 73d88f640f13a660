"""The order facts and invariances, on whatever hypothesis can think of."""

from math import log

import hypothesis.extra.numpy as hnp
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# one shape, so that a compiler meets one program; rows vary instead
ROWS, CLASSES = 4, 6
SLACK = 1e-12

numbers = st.one_of(
    st.floats(-5, 5, allow_subnormal=False),
    st.floats(-1e4, 1e4),
    st.sampled_from([0.0, -0.0, 1e-8, 88.8, -88.8, 709.8, 1e4, -1e4]),
)
logits = hnp.arrays(np.float64, (ROWS, CLASSES), elements=numbers)
hard = hnp.arrays(np.int64, (ROWS, CLASSES), elements=st.integers(0, 1))
fractions = st.one_of(st.floats(0, 1, allow_subnormal=False), st.sampled_from([0.0, 1.0, 1e-30, 0.5, 1 - 2**-53]))
# no subnormal numbers, which XLA takes as zero
soft = hnp.arrays(np.float64, (ROWS, CLASSES), elements=fractions)
either = st.one_of(hard, soft)
examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def less_or_equal(left, right):
    left, right = np.asarray(left, float), np.asarray(right, float)
    assert (left <= right + SLACK * np.maximum(1, np.abs(right))).all(), (left, right)


def per_row(function, s, t):
    return [float(function(a, b)) for a, b in zip(s.tolist(), t.tolist(), strict=True)]


@examples
@given(s=logits, t=hard)
def test_hard_order(backend, s, t):
    """log 2 · 1[wrong set] ≤ ZLPR ≤ summed BCE, and LSEP ≤ ZLPR."""
    got = backend.loss(s, t)
    less_or_equal(0, got)
    less_or_equal(log(2) * ((s > 0) != t).any(axis=1), got)
    less_or_equal(got, per_row(oracle.bce, s, t))
    less_or_equal(per_row(oracle.lsep, s, t), got)


@examples
@given(s=logits, t=hard)
def test_hard_gradient_signs(backend, s, t):
    grad = backend.grad(s, t)
    assert (grad[t == 1] <= 0).all()
    assert (grad[t == 0] >= 0).all()


@examples
@given(s=logits, t=either)
def test_gradient_budget(backend, s, t):
    """‖∂/∂s‖₁ < 2; equality only by rounding, where 1/(1 + total) is 1."""
    less_or_equal(np.abs(backend.grad(s, t)).sum(axis=1), 2)


@examples
@given(s=logits, t=soft)
def test_soft_is_above_its_floor(backend, s, t):
    less_or_equal([float(oracle.zlpr_entropy(row)) for row in t.tolist()], backend.loss(s, t))


@examples
@given(t=hnp.arrays(np.float64, (ROWS, CLASSES), elements=st.floats(1e-6, 1 - 1e-6)))
def test_soft_touches_its_floor_at_half_the_log_odds(backend, t):
    got = backend.loss(0.5 * np.log(t / (1 - t)), t)
    np.testing.assert_allclose(got, [float(oracle.zlpr_entropy(row)) for row in t.tolist()], rtol=1e-12)


@examples
@given(s=logits, t=either, theta=st.floats(-100, 100))
def test_threshold_is_a_shift(backend, s, t, theta):
    shifted = [
        float(oracle.zlpr(row, y, threshold=[theta] * CLASSES)) for row, y in zip(s.tolist(), t.tolist(), strict=True)
    ]
    np.testing.assert_allclose(backend.loss(s, t, threshold=np.full((1, 1), theta)), shifted, rtol=1e-12, atol=1e-30)


@examples
@given(s=logits, t=either, order=st.permutations(range(CLASSES)))
def test_order_of_classes_is_irrelevant(backend, s, t, order):
    np.testing.assert_allclose(backend.loss(s[:, order], t[:, order]), backend.loss(s, t), rtol=1e-13)


@examples
@given(s=logits, positive=st.integers(0, CLASSES - 1))
def test_one_positive_is_above_softmax_cross_entropy(backend, s, positive):
    t = np.tile(np.arange(CLASSES) == positive, (ROWS, 1)).astype(int)
    less_or_equal([float(oracle.softmax_cross_entropy(row, positive)) for row in s.tolist()], backend.loss(s, t))


@examples
@given(s=logits, t=hard)
def test_hard_is_soft_at_the_ends(backend, s, t):
    np.testing.assert_allclose(backend.loss(s, t), backend.loss(s, t.astype(float)), rtol=1e-14)
    rtol = 0 if backend.rounds_alike else 1e-15
    np.testing.assert_allclose(backend.loss(s, t), backend.loss(s, t.astype(bool)), rtol=rtol)


@examples
@given(s=logits, t=either, u=logits)
def test_convex_in_the_logits(backend, s, t, u):
    less_or_equal(backend.loss((s + u) / 2, t), (backend.loss(s, t) + backend.loss(u, t)) / 2)


dyadic = hnp.arrays(
    np.float64, (ROWS, CLASSES), elements=st.integers(0, 2**20).map(lambda n: n / 2**20)
)  # exact midpoints


@examples
@given(s=logits, t=dyadic, u=dyadic)
def test_concave_in_the_targets(backend, s, t, u):
    less_or_equal((backend.loss(s, t) + backend.loss(s, u)) / 2, backend.loss(s, (t + u) / 2))


@examples
@given(s=logits, t=either, where=hnp.arrays(bool, (ROWS, CLASSES)))
def test_masked_cells_do_not_matter(backend, s, t, where):
    dirty = np.where(where, s, np.nan)
    np.testing.assert_array_equal(
        backend.loss(dirty, t, where=where), backend.loss(np.where(where, s, 3.0), t, where=where)
    )


@pytest.mark.parametrize("seed", range(3))
def test_matches_oracle_on_adversarial_rows(backend, dtype, seed, worst):
    """Magnitudes from 1e-8 to 1e4 side by side, soft and hard."""
    from cases import rounded
    from tolerances import value_error

    rng = np.random.default_rng(seed)
    s = rounded(rng.choice([-1, 1], (40, CLASSES)) * 10.0 ** rng.uniform(-8, 4, (40, CLASSES)), dtype)
    for t in ((rng.random(s.shape) < 0.4).astype(int), rounded(10.0 ** rng.uniform(-20, 0, s.shape), dtype)):
        worst("value", backend, dtype, value_error(backend.loss(s, t, dtype), per_row(oracle.zlpr, s, t), dtype))
