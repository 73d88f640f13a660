"""Keras's mixed float16: what the loss scale does when something overflows."""

import keras
import numpy as np
import pytest

import zlpr_core
from zlpr_tf import ZLPRLoss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype("float32")
HARD = RNG.random((8, 3)) < 0.4
SOFT = RNG.random((8, 3)).astype("float32")
every_target = pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])


@pytest.fixture(autouse=True)
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def compiled(initial_scale=2.0**10, growth_steps=2000):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    descent = keras.optimizers.SGD(0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(descent, initial_scale, dynamic_growth_steps=growth_steps)
    model.compile(optimizer, loss=ZLPRLoss())
    return model


def scale(model):
    return float(model.optimizer.dynamic_scale)


@every_target
def test_the_scale_leaves_the_step_as_it_is(targets):
    """Keras multiplies the loss by the scale, for small gradients to survive in float16, and divides by it after."""
    model = compiled()
    kernel, bias = model.get_weights()
    logits = np.asarray(model(X))
    assert logits.dtype == "float16"
    loss = model.train_on_batch(X, targets)
    np.testing.assert_allclose(loss, zlpr_core.zlpr(logits, targets).mean(), rtol=1e-6)
    score = zlpr_core.zlpr_grad(logits.astype("float32"), targets) / len(X)
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.5 * X.T @ score, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(model.get_weights()[1], bias - 0.5 * score.sum(0), rtol=2e-3, atol=1e-3)


@every_target
def test_a_step_whose_gradient_overflows_is_skipped(targets):
    """The loss is finite; scaled by 2^20 its gradient is not, until the scale has been halved often enough."""
    model = compiled(initial_scale=2.0**20)
    before = model.get_weights()
    assert np.isfinite(model.train_on_batch(X, targets))
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert scale(model) == 2.0**19
    losses = [model.train_on_batch(X, targets) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert 2.0**10 < scale(model) < 2.0**19


@every_target
def test_a_step_with_an_infinite_input_is_skipped(targets):
    """An infinite loss, and a gradient that is not finite."""
    model, broken = compiled(), np.where(np.arange(4) == 1, np.inf, X).astype("float32")
    before = model.get_weights()
    assert model.train_on_batch(broken, targets) == np.inf
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert scale(model) == 2.0**9
    assert np.isfinite(model.train_on_batch(X, targets))
    assert (model.get_weights()[0] != before[0]).any()


def test_a_logit_that_overflowed_has_no_gradient():
    """The loss says so by being infinite; the step is taken with what the other examples say, and stays finite."""
    model, wide = compiled(), np.vstack([np.full(4, 200), X[1:]]).astype("float32")
    kernel, bias = np.zeros((4, 3), "float32"), np.zeros(3, "float32")
    kernel[:, 0] = 200.0
    model.set_weights([kernel, bias])
    targets = HARD.copy()
    targets[0] = False
    logits = np.asarray(model(wide))
    assert logits[0, 0] == np.inf
    assert model.train_on_batch(wide, targets) == np.inf
    assert scale(model) == 2.0**10
    score = zlpr_core.zlpr_grad(logits.astype("float32"), targets) / len(X)
    assert score[0, 0] == 0
    np.testing.assert_allclose(model.get_weights()[1], bias - 0.5 * score.sum(0), rtol=2e-3, atol=1e-3)


def test_the_scale_grows_again():
    model = compiled(growth_steps=3)
    for _ in range(3):
        model.train_on_batch(X, HARD)
    assert scale(model) == 2.0**11
