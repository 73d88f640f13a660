"""``zlpr_divergence`` compiled by XLA: blocks of rows, some of them far out, and derivatives of the second order."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
import truth
from cases import PAIRS as CASES
from tolerances import grad_error, value_error

from zlpr_tf import _regret, zlpr_divergence

RNG = np.random.default_rng(11)
NEAR = RNG.standard_normal((2, 7, 6))
FAR = NEAR.copy()
FAR[0, 3, 1], FAR[1, 5, 2] = 400.0, -300.0
PAIRS = {"near": NEAR, "two rows far out": FAR}


@pytest.fixture(autouse=True)
def blocks_of_three_rows(monkeypatch):
    monkeypatch.setattr(_regret, "BLOCK", 12)


def values_and_slopes(p, q, **axis):
    """The latter of values that are weighed differently."""
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        values = zlpr_divergence(p, q, **axis)
        total = tf.reduce_sum(tf.sin(values))
    return values, *tape.gradient(total, [p, q])


@partial(tf.function, jit_compile=True)
def of_the_sum(p, q):
    """Values, and the slopes of their sum. Kept for all cases, of which many have one shape."""
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        values = zlpr_divergence(p, q)
    return values, *tape.gradient(values, [p, q])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_matches_oracle(case, dtype):
    """XLA has a program of its own for this divergence alone, so that no other backend shows the same."""
    p, q, true, slopes = truth.divergence("zlpr_divergence", case, dtype, None)
    values, *got = of_the_sum(tf.constant(p, dtype), tf.constant(q, dtype))
    assert value_error(values, true, dtype).max() <= 1
    assert grad_error(got[0], *slopes["p_logits"], dtype).max() <= 1
    assert grad_error(got[1], *slopes["q_logits"], dtype).max() <= 1


@pytest.mark.parametrize(
    ("pair", "axis", "rows"),
    [("near", -1, None), ("near", 0, "known"), ("two rows far out", -1, "known"), ("two rows far out", 0, None)],
)
def test_blocks_of_rows(pair, axis, rows):
    """As eagerly, where the core's formula is differentiated."""
    p, q = map(tf.constant, PAIRS[pair] if axis else np.swapaxes(PAIRS[pair], 1, 2))
    shape = list(p.shape) if rows else [None, 6] if axis else [6, None]
    signature = [tf.TensorSpec(shape, tf.float64)] * 2
    compiled = tf.function(lambda p, q: values_and_slopes(p, q, axis=axis), signature, jit_compile=True)
    for got, true in zip(compiled(p, q), values_and_slopes(p, q, axis=axis), strict=True):
        np.testing.assert_allclose(got, true, rtol=1e-12, atol=1e-15)


def test_a_small_gap_keeps_its_digits():
    p = tf.constant(NEAR[0])
    got = tf.function(zlpr_divergence, jit_compile=True)(p, p + 1e-7)
    np.testing.assert_allclose(got, zlpr_divergence(p, p + 1e-7), rtol=1e-8)
    assert not tf.function(zlpr_divergence, jit_compile=True)(p, p).numpy().any()


@pytest.mark.parametrize(("pair", "compiled"), [("near", "slopes"), ("two rows far out", "all")])
def test_second_order_where_the_upstream_gradient_depends_on_the_logits(pair, compiled):
    """With both tapes in the compiled function, and with the outer one outside, of which it does not know."""

    def second_order(p, q, compiled=lambda function: function):
        slopes_of = compiled(values_and_slopes)
        with tf.GradientTape() as tape:
            tape.watch([p, q])
            _, *slopes = slopes_of(p, q)
            total = sum(tf.reduce_sum(tf.cos(slope)) for slope in slopes)
        return tape.gradient(total, [p, q])

    p, q = map(tf.constant, PAIRS[pair])
    jitted = partial(tf.function, jit_compile=True)
    got = jitted(second_order)(p, q) if compiled == "all" else second_order(p, q, jitted)
    for slope, true in zip(got, second_order(p, q), strict=True):
        np.testing.assert_allclose(slope, true, rtol=1e-9, atol=1e-13)


def test_forward_mode():
    p, q = map(tf.constant, NEAR)

    def along(p, q):
        with tf.autodiff.ForwardAccumulator(p, tf.ones_like(p)) as accumulator:
            values = zlpr_divergence(p, q)
        return accumulator.jvp(values)

    np.testing.assert_allclose(tf.function(along, jit_compile=True)(p, q), along(p, q), rtol=1e-12)


def test_float32_and_bfloat16_together():
    p, q = tf.constant(NEAR[0], tf.float32), tf.constant(NEAR[1], tf.bfloat16)
    values, in_p, in_q = tf.function(values_and_slopes, jit_compile=True)(p, q)
    assert (values.dtype, in_p.dtype, in_q.dtype) == (tf.float32, tf.float32, tf.bfloat16)
