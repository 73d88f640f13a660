"""Descent by hand of a Keras model, from the closed-form score, and what it learns: rows of 0 and 1, soft ones, class ids."""

from functools import cache

import keras
import numpy as np
import tensorflow as tf

import zlpr_core
from zlpr_tf import ZLPRLoss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
HARD = (X @ RNG.normal(size=(4, 3)) > 0.3).astype("uint8")
SOFT = np.where(HARD, 0.9, 0.2).astype("float32")
SAMPLE_WEIGHT, NO_WEIGHT = RNG.integers(0, 4, 24).astype("float32"), np.ones(24, "float32")
RATE, EPOCHS, BATCH = 0.5, 3, 8
FIT = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "verbose": 0}
PADDED = tf.ragged.constant([np.flatnonzero(row) for row in HARD], dtype=tf.int64).to_tensor(default_value=-1).numpy()


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(3, name="logits")])


def compiled(loss=None, **options):
    model = network()
    model.compile(keras.optimizers.SGD(RATE), loss=loss or ZLPRLoss(), **options)
    return model


def batches():
    return [slice(start, start + BATCH) for start in range(0, len(X), BATCH)]


def by_hand(targets, sample_weight=NO_WEIGHT, threshold=0.0, learned=False, **options):
    """Loss of each epoch and last weights: TensorFlow differentiates the network only, the loss is NumPy's.

    A threshold that is learned is the last of the weights.
    """
    model, losses, options["threshold"] = network(), [], np.zeros(3) + threshold
    for _ in range(EPOCHS):
        for rows in batches():
            with tf.GradientTape() as tape:
                logits = model(X[rows])
            importance = sample_weight[rows] / BATCH
            losses.append(importance @ zlpr_core.zlpr(logits.numpy(), targets[rows], **options))
            score = importance[:, None] * zlpr_core.zlpr_grad(logits.numpy(), targets[rows], **options)
            gradients = tape.gradient(logits, model.trainable_variables, tf.constant(score))
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
                variable.assign_sub(RATE * gradient)
            options["threshold"] = options["threshold"] + learned * RATE * score.sum(0)
    weights = model.get_weights() + [options["threshold"]] * learned
    return np.reshape(losses, (EPOCHS, -1)).mean(1), weights


def check(expected, losses, weights):
    assert expected[0][-1] < 0.95 * expected[0][0]
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    for got, by_hand in zip(weights, expected[1], strict=True):
        np.testing.assert_allclose(got, by_hand, rtol=1e-4, atol=1e-5)


@cache
def two_devices():
    # one for all tests: another would number its collectives from the start, and TensorFlow keeps their shapes
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
