"""R-Drop as a Keras model: two passes that one can count, and the plain loss where there is nothing to drop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_descent import FIT, HARD, PADDED, RATE, SAMPLE_WEIGHT, SOFT, X, by_hand, check, network, two_devices

import zlpr_core
from zlpr_tf import RDropZLPR, SparseZLPRLoss, ZLPRLoss

every_target = pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])


def dropping(rate=0.3):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((4,)), layers.Dense(32), layers.Dropout(rate, seed=1), layers.Dense(3)])


@pytest.mark.parametrize(("targets", "jit"), [(HARD, False), (SOFT, True)], ids=["hard", "soft, by XLA"])
def test_without_dropout_it_is_the_plain_loss(targets, jit):
    model = RDropZLPR(network())
    model.compile(keras.optimizers.SGD(RATE), loss=ZLPRLoss(), jit_compile=jit)
    losses = model.fit(X, targets, sample_weight=SAMPLE_WEIGHT, **FIT).history["loss"]
    check(by_hand(targets, SAMPLE_WEIGHT), losses, model.network.get_weights())


def test_on_class_ids_and_two_devices():
    with two_devices().scope():
        model = RDropZLPR(network())
        model.compile(keras.optimizers.SGD(RATE), loss=SparseZLPRLoss())
    model.test_on_batch(X[:2], PADDED[:2])
    check(by_hand(HARD), model.fit(X, PADDED, **FIT).history["loss"], model.network.get_weights())


class Remembers(keras.layers.Layer):
    """Passes its input on and keeps it, for the test to look at. Run eagerly, so that it has values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, logits):
        self.seen.append(logits)
        return logits


@every_target
@pytest.mark.parametrize("options", [{}, {"threshold": 0.5, "pos_weight": 2.0}], ids=["plain", "options"])
def test_a_step_costs_what_its_two_passes_say(targets, options):
    memory = Remembers()
    model = RDropZLPR(keras.Sequential([dropping(), memory]), alpha=3.0, scale=2.0)
    model.compile(keras.optimizers.SGD(0.0), loss=ZLPRLoss(**options), run_eagerly=True)
    model.build(X.shape)
    memory.seen.clear()
    loss = model.train_on_batch(X, targets)
    first, second = (np.asarray(logits) for logits in memory.seen)
    assert abs(first - second).max() > 0.1
    expected = zlpr_core.rdrop_zlpr(first, second, targets, alpha=3.0, scale=2.0, **options)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def trained(alpha):
    model = RDropZLPR(dropping(0.5), alpha=alpha)
    model.compile(keras.optimizers.Adam(0.02), loss=ZLPRLoss())
    many = np.tile(X, (10, 1)), np.tile(HARD, (10, 1))
    return model, model.fit(*many, epochs=3, batch_size=24, verbose=0, validation_data=(X, HARD)).history


def disagreement(model):
    passes = (model(X, training=True).numpy() for _ in range(2))
    return zlpr_core.symmetric_kl_divergence(*passes).mean()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_training_lowers_the_loss_and_the_disagreement(policy):
    keras.config.set_dtype_policy(policy)
    try:
        (model, history), (indifferent, _) = trained(8.0), trained(0.0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["val_loss"][-1] < 0.8 * history["val_loss"][0]
    assert disagreement(model) < 0.7 * disagreement(indifferent)
    logits = model.network.predict(X, verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), logits)
    plain = zlpr_core.zlpr(logits, HARD).mean()  # one pass, without dropout and divergence
    np.testing.assert_allclose([model.evaluate(X, HARD, verbose=0), history["val_loss"][-1]], plain, rtol=1e-5)


def test_saved_and_exported(tmp_path):
    model = RDropZLPR(network(), alpha=3.0, scale=2.0, name="mine")
    model.compile(keras.optimizers.Adam(0.02), loss=ZLPRLoss(threshold=0.5))
    model.fit(X, HARD, **FIT)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, RDropZLPR)
    assert (again.alpha, again.scale, again.name, again.loss.threshold) == (3.0, 2.0, "mine", 0.5)
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))
    for either in (again, model):
        either.fit(X, HARD, **FIT)  # with the moments of Adam
    np.testing.assert_allclose(again.evaluate(X, HARD, verbose=0), model.evaluate(X, HARD, verbose=0), rtol=1e-5)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), model.predict(X, verbose=0), rtol=1e-5)
