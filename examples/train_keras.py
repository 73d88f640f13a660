"""Keras, on whichever backend it runs: a classifier of one hidden layer, trained with ZLPR or with cross-entropy."""

from collections.abc import Callable

import keras
import numpy as np
from data import Split

from zlpr_tf import ZLPRLoss, predict

LOSSES = {"ZLPR": ZLPRLoss, "BCE": lambda: keras.losses.BinaryCrossentropy(from_logits=True)}
HIDDEN, DROPOUT, LEARNING_RATE, BATCH_SIZE = 256, 0.5, 1e-3, 64


def train(split: Split, loss_name: str, *, seed: int, epochs: int, report: Callable) -> None:
    """After each epoch, ``report(logits, labels)`` gets what the model says of the test rows, as NumPy arrays."""
    keras.utils.set_random_seed(seed)  # one seed, one start: the initial weights do not depend on the loss
    model = classifier(features=split.x_train.shape[1], classes=split.y_train.shape[1])
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=LOSSES[loss_name]())
    model.fit(
        split.x_train,
        split.y_train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        callbacks=[TestLogits(split.x_test, report)],
        verbose=0,
    )


def classifier(*, features: int, classes: int) -> keras.Model:
    """It ends in raw logits: no sigmoid, for either loss."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(HIDDEN, activation="relu"),
            keras.layers.Dropout(DROPOUT),
            keras.layers.Dense(classes),
        ]
    )


class TestLogits(keras.callbacks.Callback):
    """Reports the test rows after each epoch."""

    def __init__(self, x_test: np.ndarray, report: Callable) -> None:
        super().__init__()
        self.x_test, self.report = x_test, report

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """What the model says of the test rows by now."""
        logits = self.model(self.x_test, training=False)  # by way of self, which has the newest weights on JAX
        self.report(keras.ops.convert_to_numpy(logits), keras.ops.convert_to_numpy(predict(logits)))
