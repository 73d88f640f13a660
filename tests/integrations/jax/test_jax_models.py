"""Models as their users write them, trained with optax, against descent by hand from the closed-form score."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import zlpr_core
from zlpr_jax import zlpr_loss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
HARD = X @ RNG.normal(size=(4, 3)) > 0.3
HIDDEN, STEPS, DESCENT = 8, 20, optax.sgd(0.5)
PARAMS = {
    "hidden": {"kernel": jnp.asarray(RNG.normal(size=(4, HIDDEN)), "float32"), "bias": jnp.zeros(HIDDEN)},
    "output": {"kernel": jnp.asarray(RNG.normal(size=(HIDDEN, 3)), "float32"), "bias": jnp.zeros(3)},
}
every_label = pytest.mark.parametrize(
    "labels",
    [HARD, HARD.astype("uint8"), np.where(HARD, 0.9, 0.2).astype("float32")],
    ids=["bool", "uint8", "soft"],
)


def network(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def by_hand(labels):
    """Losses and last parameters. JAX differentiates the network alone; loss and score come from NumPy."""
    params, losses = PARAMS, []
    for _ in range(STEPS):
        logits, pull = jax.vjp(lambda p: network(p, X), params)
        losses.append(zlpr_core.zlpr(np.asarray(logits), labels).mean())
        (gradient,) = pull(zlpr_core.zlpr_grad(np.asarray(logits), labels) / len(X))
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
    assert losses[-1] < 0.8 * losses[0]
    return losses, params


def check(labels, losses, params):
    expected_losses, expected_params = by_hand(labels)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=1e-4, atol=1e-5), params, expected_params)


@every_label
def test_plain_pytree(labels):
    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(lambda p: zlpr_loss(network(p, X), labels).mean())(params)
        updates, state = DESCENT.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = PARAMS, DESCENT.init(PARAMS), []
    for _ in range(STEPS):
        params, state, loss = step(params, state)
        losses.append(loss)
    check(labels, losses, params)


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="output")(jnp.tanh(linen.Dense(HIDDEN, name="hidden")(x)))


@every_label
def test_flax_linen(labels):
    @jax.jit
    def step(state):
        def mean_loss(params):
            return zlpr_loss(state.apply_fn({"params": params}, X), labels).mean()

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        return state.apply_gradients(grads=gradient), loss

    state, losses = TrainState.create(apply_fn=LinenNetwork().apply, params=PARAMS, tx=DESCENT), []
    for _ in range(STEPS):
        state, loss = step(state)
        losses.append(loss)
    check(labels, losses, state.params)


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.output = nnx.Linear(4, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, 3, rngs=rngs)

    def __call__(self, x):
        return self.output(jnp.tanh(self.hidden(x)))


@every_label
def test_flax_nnx(labels):
    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda model: zlpr_loss(model(X), labels).mean())(model)
        optimizer.update(model, gradient)
        return loss

    model = NNXNetwork(nnx.Rngs(0))
    nnx.update(model, PARAMS)
    optimizer = nnx.Optimizer(model, DESCENT, wrt=nnx.Param)
    losses = [step(model, optimizer) for _ in range(STEPS)]
    check(labels, losses, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


class EquinoxNetwork(eqx.Module):
    hidden: eqx.nn.Linear
    output: eqx.nn.Linear

    def __call__(self, x):
        return self.output(jnp.tanh(self.hidden(x)))


def equinox_linear(layer):
    """Equinox keeps the kernel transposed."""
    rows, columns = layer["kernel"].shape
    blank = eqx.nn.Linear(rows, columns, key=jax.random.key(0))
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias), blank, (layer["kernel"].T, layer["bias"]))


@every_label
def test_equinox(labels):
    @eqx.filter_jit
    def step(model, state):
        loss, gradient = eqx.filter_value_and_grad(lambda m: zlpr_loss(jax.vmap(m)(X), labels).mean())(model)
        updates, state = DESCENT.update(gradient, state)
        return eqx.apply_updates(model, updates), state, loss

    model, losses = EquinoxNetwork(**{name: equinox_linear(layer) for name, layer in PARAMS.items()}), []
    state = DESCENT.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(STEPS):
        model, state, loss = step(model, state)
        losses.append(loss)
    params = {name: {"kernel": getattr(model, name).weight.T, "bias": getattr(model, name).bias} for name in PARAMS}
    check(labels, losses, params)


def test_equinox_for_one_example_at_a_time():
    """Inside the ``vmap``, where Equinox users often put the loss too."""
    model = EquinoxNetwork(**{name: equinox_linear(layer) for name, layer in PARAMS.items()})
    inside = eqx.filter_jit(eqx.filter_vmap(lambda x, y: zlpr_loss(model(x), y)))(X, HARD)
    np.testing.assert_allclose(inside, zlpr_loss(network(PARAMS, X), HARD), rtol=1e-6)
