"""JAX with Flax NNX and optax: a classifier of one hidden layer, trained with ZLPR or with binary cross-entropy."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax
from data import Split
from flax import nnx

from zlpr_jax import predict, zlpr_loss

LOSSES = {"ZLPR": zlpr_loss, "BCE": optax.sigmoid_binary_cross_entropy}
HIDDEN, DROPOUT, LEARNING_RATE, BATCH_SIZE = 256, 0.5, 1e-3, 64
ADAM = optax.adam(LEARNING_RATE)  # made once, so that every run shares one compiled step


class Classifier(nnx.Module):
    """It ends in raw logits: no sigmoid, for either loss."""

    def __init__(self, *, features: int, classes: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(features, HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(DROPOUT, rngs=rngs)
        self.output = nnx.Linear(HIDDEN, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """One logit for each class."""
        return self.output(self.dropout(nnx.relu(self.hidden(x))))


def train(split: Split, loss_name: str, *, seed: int, epochs: int, report: Callable) -> None:
    """After each epoch, ``report(logits, labels)`` gets what the model says of the test rows, as NumPy arrays."""
    x, y, shuffle = split.x_train, split.y_train, np.random.default_rng(seed)
    # one seed, one start: the initial weights do not depend on the loss
    model = Classifier(features=x.shape[1], classes=y.shape[1], rngs=nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    for _ in range(epochs):
        model.train()
        order = shuffle.permutation(len(x))
        for start in range(0, len(x), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            train_step(model, optimizer, x[batch], y[batch], loss=LOSSES[loss_name])
        logits = evaluate(model, split.x_test)
        report(np.asarray(logits), np.asarray(predict(logits)))


@partial(nnx.jit, static_argnames="loss")
def train_step(model: Classifier, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array, *, loss: Callable) -> None:
    """One step of Adam, in place."""

    def mean_loss(model: Classifier) -> jax.Array:
        return loss(model(x), y).mean()

    optimizer.update(model, nnx.grad(mean_loss)(model))


def evaluate(model: Classifier, x: np.ndarray) -> jax.Array:
    """Logits without dropout."""
    model.eval()
    return compute_logits(model, x)


@nnx.jit
def compute_logits(model: Classifier, x: jax.Array) -> jax.Array:
    """The model's call, compiled once."""
    return model(x)
