"""What surrounds a loss in JAX: rematerialisation, scans, donated buffers, static options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zlpr_core
from zlpr_jax import zlpr_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (16, 40)).astype("float32")
HARD, SOFT = RNG.random((16, 40)) < 0.2, RNG.random((16, 40)).astype("float32")
every_label = pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])


def residual_bytes(function, *primals):
    """What reverse mode keeps between the two passes."""
    kept = jax.eval_shape(lambda *p: jax.vjp(function, *p)[1], *primals)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@every_label
def test_checkpoint_keeps_only_the_inputs(labels):
    def mean_loss(logits, labels):
        return zlpr_loss(logits, labels).mean()

    again = jax.checkpoint(mean_loss)
    gradient = jax.jit(jax.grad(again))(LOGITS, labels)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(mean_loss))(LOGITS, labels), rtol=1e-6)
    np.testing.assert_allclose(gradient, zlpr_core.zlpr_grad(LOGITS, labels) / 16, rtol=1e-4, atol=1e-8)
    assert residual_bytes(lambda s: again(s, labels), LOGITS) == LOGITS.nbytes + labels.nbytes


@every_label
def test_reverse_mode_keeps_one_array_of_the_logits_size(labels):
    """The gradient, and a few numbers for each example."""
    kept = residual_bytes(lambda s: zlpr_loss(s, labels).mean(), LOGITS)
    assert LOGITS.nbytes <= kept <= LOGITS.nbytes + 4 * 16


def test_checkpoint_around_head_and_loss_keeps_no_logits():
    """A model with very many classes can compute its logits again in the backward pass, and keep none."""
    features, kernel = RNG.normal(size=(16, 4)).astype("float32"), RNG.normal(size=(4, 40)).astype("float32")

    def mean_loss(features, kernel):
        return zlpr_loss(features @ kernel, HARD).mean()

    again = jax.checkpoint(mean_loss)
    gradients = [jax.jit(jax.grad(loss, (0, 1)))(features, kernel) for loss in (again, mean_loss)]
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    assert residual_bytes(again, features, kernel) == features.nbytes + kernel.nbytes + HARD.nbytes
    assert residual_bytes(mean_loss, features, kernel) > features.nbytes + kernel.nbytes + LOGITS.nbytes


X = RNG.normal(size=(6, 8, 4)).astype("float32")
BATCHES = {"hard": X[..., :3] > 0, "soft": RNG.random((6, 8, 3)).astype("float32")}
ADAM = optax.adam(0.1)


@jax.jit
def step(carry, batch):
    kernel, state = carry
    x, labels = batch
    loss, gradient = jax.value_and_grad(lambda k: zlpr_loss(x @ k, labels).mean())(kernel)
    updates, state = ADAM.update(gradient, state)
    return (optax.apply_updates(kernel, updates), state), loss


def start():
    kernel = jnp.zeros((4, 3), "float32")
    return kernel, ADAM.init(kernel)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
def test_scan_over_batches_is_the_loop(labels):
    (kernel, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, (X, labels)))(start())
    carry, expected = start(), []
    for batch in zip(X, labels, strict=True):
        carry, loss = step(carry, batch)
        expected.append(loss)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(kernel, carry[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
def test_gradient_through_a_scan_is_that_of_the_whole(labels):
    """Gradient accumulation, with rematerialised micro-batches."""

    def by_scan(kernel):
        body = jax.checkpoint(lambda total, batch: (total + zlpr_loss(batch[0] @ kernel, batch[1]).sum(), None))
        return jax.lax.scan(body, 0.0, (X, labels))[0]

    kernel = jnp.asarray(RNG.normal(size=(4, 3)), "float32")
    loss, gradient = jax.jit(jax.value_and_grad(by_scan))(kernel)
    logits = np.asarray(X @ kernel)
    np.testing.assert_allclose(loss, zlpr_core.zlpr(logits, labels).sum(), rtol=1e-5)
    score = zlpr_core.zlpr_grad(logits, labels)
    np.testing.assert_allclose(gradient, np.einsum("nbf,nbc->fc", X, score), rtol=1e-4, atol=1e-5)


def test_donated_state():
    carry, batch = start(), (X[0], BATCHES["hard"][0])
    (expected, _), _ = step(carry, batch)
    (kernel, _), _ = jax.jit(step, donate_argnums=0)(carry, batch)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)
    assert carry[0].is_deleted()


@every_label
def test_donated_logits_become_their_gradient(labels):
    def mean_loss(logits):
        return zlpr_loss(logits, labels).mean()

    compiled = jax.jit(jax.value_and_grad(mean_loss), donate_argnums=0).lower(LOGITS).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == LOGITS.nbytes
    logits = jax.device_put(LOGITS)
    loss, gradient = compiled(logits)
    assert logits.is_deleted()
    np.testing.assert_allclose(loss, zlpr_core.zlpr(LOGITS, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, zlpr_core.zlpr_grad(LOGITS, labels) / 16, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
def test_static_options(axis):
    compiled = jax.jit(zlpr_loss, static_argnames=("axis", "label_smoothing", "ignore_index"))
    unknown = RNG.random(HARD.shape) < 0.1
    labels, options = np.where(unknown, 7, HARD), {"label_smoothing": 0.1, "ignore_index": 7}
    got = compiled(LOGITS, labels, axis=axis, **options, threshold=0.5, pos_weight=jnp.full(40, 2.0))
    smoothed = 0.9 * HARD + 0.05
    expected = zlpr_core.zlpr(LOGITS, smoothed, axis=axis, where=~unknown, threshold=0.5, pos_weight=2.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_smoothing_must_be_static():
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\].*static under `jit`"):
        jax.jit(zlpr_loss)(LOGITS, HARD, label_smoothing=0.1)


def test_one_program_serves_every_traced_option():
    traced = []

    @jax.jit
    def loss(threshold, weight):
        traced.append(1)
        return zlpr_loss(LOGITS, HARD, threshold=threshold, weight=weight)

    for threshold, weight in ((0.0, 1.0), (0.5, 2.0), (-3.0, 0.0)):
        expected = zlpr_core.zlpr(LOGITS, HARD, threshold=threshold, weight=weight)
        np.testing.assert_allclose(loss(threshold, weight), expected, rtol=1e-6)
    assert len(traced) == 1
