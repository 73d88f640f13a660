"""Class ids, divergences and R-Drop under ``jit``, ``grad``, ``vmap`` and ``scan``, against the closed forms in NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import zlpr_core
import zlpr_jax

RNG = np.random.default_rng(0)
BATCHES, ROWS, CLASSES = 4, 6, 10
S, U = RNG.normal(0, 3, (2, BATCHES, ROWS, CLASSES)).astype("float32")
IDS = RNG.integers(-1, CLASSES, (BATCHES, ROWS, 4))
HARD = zlpr_core.multi_hot(IDS, CLASSES)
SOFT = RNG.random(HARD.shape).astype("float32")


class Case(NamedTuple):
    """A function of two arrays, and NumPy's value and derivative in the first."""

    function: callable
    arguments: tuple
    value: np.ndarray
    slope: np.ndarray


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype("float64")))


def slope_of_kl(s, u, scale):
    probability = sigmoid(scale * s)
    return scale**2 * probability * (1 - probability) * (s - u)


def slope_of_symmetric_kl(s, u, scale=1.0):
    return slope_of_kl(s, u, scale) + scale * (sigmoid(scale * s) - sigmoid(scale * u))


def sparse(scores, ids):
    return zlpr_jax.sparse_zlpr_loss(scores, ids, threshold=0.5, pos_weight=2.0)


def kl(scores, others):
    return zlpr_jax.kl_divergence(scores, others, scale=2.0)


def regret(scores, truth):
    return zlpr_jax.zlpr_divergence(truth, scores)


def rdrop(scores, others, labels):
    return zlpr_jax.rdrop_zlpr_loss(scores, others, labels, alpha=3.0)


def rdrop_case(labels):
    slope = zlpr_core.zlpr_grad(S, labels) / 2 + 3 / 4 * slope_of_symmetric_kl(S, U)
    return Case(rdrop, (U, labels), zlpr_core.rdrop_zlpr(S, U, labels, alpha=3.0), slope)


OPTIONS = {"threshold": 0.5, "pos_weight": 2.0}
CASES = {
    "sparse": Case(sparse, (IDS,), zlpr_core.zlpr(S, HARD, **OPTIONS), zlpr_core.zlpr_grad(S, HARD, **OPTIONS)),
    "kl": Case(kl, (U,), zlpr_core.kl_divergence(S, U, scale=2.0), slope_of_kl(S, U, 2.0)),
    "symmetric kl": Case(
        zlpr_jax.symmetric_kl_divergence, (U,), zlpr_core.symmetric_kl_divergence(S, U), slope_of_symmetric_kl(S, U)
    ),
    "regret": Case(
        regret, (U,), zlpr_core.zlpr_divergence(U, S), zlpr_core.zlpr_grad(S.astype("float64"), sigmoid(2 * U))
    ),
    "rdrop hard": rdrop_case(HARD),
    "rdrop soft": rdrop_case(SOFT),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def check(value, slope, case):
    np.testing.assert_allclose(value, case.value.sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, case.slope, rtol=1e-4, atol=1e-5)


@every_case
def test_jit_and_grad(case):
    def total(s):
        values = case.function(s, *case.arguments)
        return values.sum(), values

    (loss, values), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(S)
    np.testing.assert_allclose(values, case.value, rtol=1e-5)
    check(loss, slope, case)


@every_case
def test_vmap_of_value_and_grad(case):
    """One example at a time."""
    each = jax.vmap(jax.vmap(jax.value_and_grad(case.function)))
    values, slope = jax.jit(each)(S, *case.arguments)
    np.testing.assert_allclose(values, case.value, rtol=1e-5)
    check(values.sum(), slope, case)


@every_case
def test_grad_through_a_scan_with_rematerialisation(case):
    def total(s):
        body = jax.checkpoint(lambda total, batch: (total + case.function(*batch).sum(), None))
        return jax.lax.scan(body, 0.0, (s, *case.arguments))[0]

    check(*jax.jit(jax.value_and_grad(total))(S), case)


def test_training_on_ids_is_training_on_rows():
    x, ids, adam = RNG.normal(size=(32, 4)).astype("float32"), RNG.integers(-1, 3, (32, 2)), optax.adam(0.1)

    def train(mean_loss):
        def step(carry, _):
            kernel, state = carry
            loss, gradient = jax.value_and_grad(mean_loss)(kernel)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(kernel, updates), state), loss

        start = jnp.zeros((4, 3))
        (kernel, _), losses = jax.jit(lambda: jax.lax.scan(step, (start, adam.init(start)), length=20))()
        return kernel, losses

    rows = jnp.asarray(zlpr_core.multi_hot(ids, 3))
    from_ids = train(lambda kernel: zlpr_jax.sparse_zlpr_loss(x @ kernel, ids).mean())
    from_rows = train(lambda kernel: zlpr_jax.zlpr_loss(x @ kernel, rows).mean())
    assert from_ids[1][-1] < 0.99 * from_ids[1][0]
    for got, expected in zip(from_ids, from_rows, strict=True):
        np.testing.assert_array_equal(got, expected)


class Dropped(nnx.Module):
    def __init__(self, rngs):
        self.output = nnx.Linear(16, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.output(self.dropout(x))


def disagreement_after_training(alpha):
    x = np.random.default_rng(1).normal(size=(64, 16)).astype("float32")
    labels = x[:, :3] > 0
    model = Dropped(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def mean_loss(model):
            return zlpr_jax.rdrop_zlpr_loss(model(x), model(x), labels, alpha=alpha).mean()

        loss, gradient = nnx.value_and_grad(mean_loss)(model)
        optimizer.update(model, gradient)
        return loss

    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.9 * losses[0]
    return nnx.jit(lambda model: zlpr_jax.symmetric_kl_divergence(model(x), model(x)).mean())(model)


def test_rdrop_makes_two_passes_agree():
    assert disagreement_after_training(alpha=8.0) < 0.6 * disagreement_after_training(alpha=0.0)
