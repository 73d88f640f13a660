"""What only JAX has: jit, transformations, weak types, float64 switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PAIRS, TABLES
from harness.jax import Jax
from jax.experimental.sparse import BCOO
from jax.test_util import check_grads
from tolerances import grad_error, value_error
from truth import divergence, table

import zlpr_core
from zlpr_jax import (
    kl_divergence,
    multi_hot,
    predict,
    rdrop_zlpr_loss,
    sparse_zlpr_loss,
    symmetric_kl_divergence,
    zlpr_divergence,
    zlpr_loss,
)

RNG = np.random.default_rng(0)
LOGITS, SOFT = RNG.normal(0, 3, (6, 5)), RNG.random((6, 5))
HARD = RNG.random((6, 5)) < 0.4
LOSS = jax.jit(lambda logits, labels: zlpr_loss(logits, labels))
DIVERGENCES = {f.__name__: jax.jit(f) for f in (kl_divergence, symmetric_kl_divergence, zlpr_divergence)}


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_check_grads_to_second_order(labels):
    @jax.jit
    def loss(logits, weight, pos_weight, threshold):
        return zlpr_loss(logits, labels, weight=weight, pos_weight=pos_weight, threshold=threshold)

    inputs = (
        jnp.asarray(LOGITS),
        jnp.asarray(RNG.uniform(0.5, 2, 5)),
        jnp.asarray(RNG.uniform(0.5, 2, (6, 1))),
        jnp.asarray(RNG.normal(size=5)),
    )
    check_grads(loss, inputs, order=2, modes=("fwd", "rev"))


def test_check_grads_in_the_labels():
    check_grads(jax.jit(zlpr_loss), (jnp.asarray(LOGITS), jnp.asarray(0.1 + 0.8 * SOFT)), order=2, modes=("fwd", "rev"))


def test_vmap_and_jit_agree():
    each = zlpr_loss(LOGITS, HARD)
    np.testing.assert_allclose(jax.vmap(zlpr_loss)(LOGITS, HARD), each, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(zlpr_loss))(LOGITS, HARD), each, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(zlpr_loss, in_axes=(1, 1))(LOGITS.T, HARD.T), each, rtol=1e-14)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_one_row_that_is_far_out_leaves_the_others_alone(labels):
    """It makes all of them be computed again, where the sums are taken without a shift at first."""
    far = jnp.asarray(LOGITS).at[4].multiply(1e4)
    for loss in (jax.jit(zlpr_loss), jax.jit(jax.vmap(zlpr_loss))):
        both = jax.jit(jax.value_and_grad(lambda s, of=loss: of(s, labels).sum()))
        losses, slopes = loss(far, labels), both(far)[1]
        np.testing.assert_allclose(losses, zlpr_core.zlpr(np.asarray(far), labels), rtol=1e-13)
        np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(np.asarray(far), labels), rtol=1e-12, atol=1e-30)


def test_hessian_is_bounded():
    hessian = jax.hessian(zlpr_loss)(LOGITS[0], HARD[0])
    assert np.linalg.eigvalsh(hessian).max() <= 0.5 + 1e-12
    np.testing.assert_allclose(hessian, jax.jacrev(jax.jacrev(zlpr_loss))(LOGITS[0], HARD[0]), rtol=1e-9, atol=1e-12)


def test_integer_labels_are_not_differentiable():
    """A derivative that cannot be given raises."""
    with pytest.raises(TypeError, match="grad requires real- or complex-valued inputs"):
        jax.grad(lambda y: zlpr_loss(LOGITS, y).sum())(HARD.astype(int))


def test_what_jax_takes_is_taken():
    """NumPy arrays, lists, and options as lists."""
    lists = zlpr_loss(LOGITS.tolist(), HARD.tolist(), where=HARD.tolist(), weight=[1, 2, 3, 4, 5], threshold=[[0.5]])
    arrays = zlpr_loss(jnp.asarray(LOGITS), jnp.asarray(HARD), where=HARD, weight=np.arange(1.0, 6), threshold=0.5)
    np.testing.assert_array_equal(lists, arrays)
    assert isinstance(lists, jax.Array)


def test_options_can_be_traced():
    def loss(threshold, weight):
        return zlpr_loss(LOGITS, HARD, threshold=threshold, weight=weight).sum()

    np.testing.assert_allclose(jax.jit(loss)(0.5, 2.0), loss(0.5, 2.0), rtol=1e-14)
    assert jax.grad(loss)(0.5, 2.0).shape == ()


def test_without_float64():
    """JAX as it is by default: float64 input is float32, silently as everywhere in JAX, and nothing warns."""
    jax.config.update("jax_enable_x64", False)
    try:
        loss = jax.jit(zlpr_loss)(LOGITS, SOFT)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, zlpr_core.zlpr(LOGITS, SOFT), rtol=1e-6)
        grad = jax.grad(lambda s: zlpr_loss(s, SOFT).sum())(jnp.asarray(LOGITS))
        np.testing.assert_allclose(grad, zlpr_core.zlpr_grad(LOGITS, SOFT), rtol=1e-4, atol=1e-6)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_helpers_trace():
    """An id that cannot be read while tracing raises nothing and is left out."""
    hot = jax.jit(multi_hot, static_argnums=1)(jnp.asarray([[0, 7], [2, -1]]), 3)
    np.testing.assert_array_equal(hot, [[True, False, False], [False, False, True]])
    np.testing.assert_array_equal(jax.jit(predict)(jnp.asarray([[1.0, -1.0]])), [[True, False]])


def test_the_core_infers_jax():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(HARD)
    np.testing.assert_array_equal(zlpr_core.zlpr(logits, labels), zlpr_loss(logits, labels))
    grad = jax.grad(lambda s: zlpr_loss(s, labels).sum())(logits)
    np.testing.assert_allclose(zlpr_core.zlpr_grad(logits, labels), grad, rtol=1e-12, atol=1e-15)


def test_a_model_trains_with_optax():
    x = jnp.asarray(RNG.normal(size=(64, 4)), jnp.float32)
    labels = x[:, :3] > 0
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(carry, _):
        weights, state = carry
        loss, grads = jax.value_and_grad(lambda w: zlpr_loss(x @ w, labels).mean())(weights)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(weights, updates), state), loss

    weights = jnp.zeros((4, 3), jnp.float32)
    _, losses = jax.lax.scan(step, (weights, optimizer.init(weights)), length=100)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("n_batch", [0, 1])
@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_bcoo_labels(n_batch, kind):
    """Fixed shapes under jit; entries beyond the shape are BCOO's padding, and duplicates count once."""
    matrix = BCOO.fromdense(jnp.asarray(HARD.astype(kind)), nse=int(HARD.sum()) + 2).update_layout(
        n_batch=n_batch, on_inefficient=None
    )
    for loss in (sparse_zlpr_loss, jax.jit(sparse_zlpr_loss)):
        np.testing.assert_allclose(loss(LOGITS, matrix), zlpr_loss(LOGITS, HARD), rtol=1e-14)
    twice = BCOO((jnp.ones(2, kind), jnp.asarray([[0, 1], [0, 1]])), shape=(1, 5))
    np.testing.assert_allclose(
        sparse_zlpr_loss(LOGITS[:1], twice), zlpr_loss(LOGITS[:1], [[0, 1, 0, 0, 0]]), rtol=1e-14
    )


def test_ids_beyond_32_bits_are_no_other_class():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(IndexError, match="Received: 4294967297"):
            sparse_zlpr_loss(LOGITS[:1], np.asarray([[2**32 + 1]]))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_ids_of_uint32_without_x64():
    """Nothing warns that there is no int64 to widen them to."""
    jax.config.update("jax_enable_x64", False)
    try:
        loss = sparse_zlpr_loss(LOGITS[:1], jnp.asarray([[0, 1]], "uint32"))
        np.testing.assert_array_equal(loss, sparse_zlpr_loss(LOGITS[:1], [[0, 1]]))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_strengths_can_be_traced():
    """So that R-Drop's weight can be raised during training."""
    other = LOGITS[::-1].copy()
    traced = jax.jit(lambda alpha, scale: rdrop_zlpr_loss(LOGITS, other, HARD, alpha=alpha, scale=scale))(2.0, 2.0)
    np.testing.assert_allclose(traced, rdrop_zlpr_loss(LOGITS, other, HARD, alpha=2.0, scale=2.0), rtol=1e-13)
    by_name = kl_divergence(p_logits=LOGITS, q_logits=other)
    np.testing.assert_array_equal(by_name, kl_divergence(LOGITS, other))


def test_a_bcoo_that_is_not_multi_hot():
    soft = BCOO.fromdense(jnp.asarray([[1.0, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0]]))
    assert np.isnan(sparse_zlpr_loss(LOGITS[:2], soft)).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"`indices` as a sparse matrix must have the shape of `logits`"):
        sparse_zlpr_loss(LOGITS, soft)


@pytest.mark.parametrize("name", TABLES)
def test_the_loss_alone_matches_oracle(name, worst):
    """As evaluation computes it, without the gradient that the suite compiles beside it."""
    logits, targets, losses, *_ = table(name, "float32")
    worst("value", Jax(), "float32", value_error(np.asarray(LOSS(logits.astype("f4"), targets)), losses, "float32"))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("function", DIVERGENCES)
def test_a_divergence_alone_matches_oracle(function, name, worst):
    p, q, values, _ = divergence(function, name, "float32", None)
    got = np.asarray(DIVERGENCES[function](p.astype("f4"), q.astype("f4")))
    worst("value", Jax(), "float32", value_error(got, values, "float32"))


@pytest.mark.parametrize("name", ["random", "separable", "wrong", "soft", "soft and extreme"])
def test_eagerly_matches_oracle(name, worst):
    """Operation by operation, without what a compiler joins."""
    backend = Jax()
    logits, targets, losses, grads, sizes = table(name, "float32")
    got = backend.loss(logits, targets, "float32", mode="eager")
    worst("value", backend, "float32", value_error(got, losses, "float32"))
    got = backend.grad(logits, targets, "float32", mode="eager")
    worst("gradient", backend, "float32", grad_error(got, grads, sizes, "float32"))


@pytest.mark.parametrize("name", ["kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"])
def test_divergences_eagerly(name):
    other = LOGITS[::-1].copy()
    for wrt in ("p_logits", "q_logits"):
        slopes = [Jax().slope(name, wrt, mode=mode, p_logits=LOGITS, q_logits=other) for mode in ("eager", "jit")]
        np.testing.assert_allclose(*slopes, rtol=1e-12, atol=1e-15)
