"""Every way of training a Keras model, against descent by hand from the closed-form score."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_descent import (
    BATCH,
    EPOCHS,
    FIT,
    HARD,
    RATE,
    SAMPLE_WEIGHT,
    SOFT,
    X,
    batches,
    by_hand,
    check,
    compiled,
    network,
    two_devices,
)

import zlpr_core
from zlpr_tf import LinearZLPR, ZLPRLoss, zlpr_loss

every_target = pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])


@pytest.mark.parametrize("targets", [HARD, HARD.astype(bool), SOFT], ids=["uint8", "bool", "soft"])
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "xla", "eager"])
def test_fit(targets, options):
    model = compiled(**options)
    check(by_hand(targets), model.fit(X, targets, **FIT).history["loss"], model.get_weights())
    np.testing.assert_allclose(
        model.evaluate(X, targets, batch_size=BATCH, verbose=0),
        zlpr_core.zlpr(model.predict(X, verbose=0), targets).mean(),
        rtol=1e-5,
    )


def test_fit_from_a_data_set():
    model, data = compiled(), tf.data.Dataset.from_tensor_slices((X, HARD, SAMPLE_WEIGHT)).batch(BATCH)
    losses = model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0).history["loss"]
    check(by_hand(HARD, SAMPLE_WEIGHT), losses, model.get_weights())


@every_target
def test_sample_weight_multiplies_the_loss_of_an_example(targets):
    model = compiled()
    losses = model.fit(X, targets, sample_weight=SAMPLE_WEIGHT, **FIT).history["loss"]
    check(by_hand(targets, SAMPLE_WEIGHT), losses, model.get_weights())


@pytest.mark.parametrize("kind", ["arrays", "data set"])
def test_class_weight_weighs_examples_by_their_first_label(kind):
    """Keras takes ``argmax`` of the targets, so the other labels of an example never count, and no label is label 0."""
    targets, weights = np.vstack([np.zeros((1, 3), "uint8"), HARD[1:]]), np.asarray([1.0, 10.0, 100.0])
    assert (targets.sum(1) > 1).any()
    data = (X, targets) if kind == "arrays" else (tf.data.Dataset.from_tensor_slices((X, targets)).batch(24),)
    model = compiled()
    each = zlpr_core.zlpr(model.predict(X, verbose=0), targets)
    options = FIT | {"epochs": 1, "batch_size": 24 if kind == "arrays" else None}
    told = model.fit(*data, class_weight=dict(enumerate(weights)), **options).history["loss"][0]
    np.testing.assert_allclose(told, (weights[targets.argmax(1)] * each).mean(), rtol=1e-5)


@every_target
def test_weights_of_the_loss_are_what_class_weight_is_not(targets):
    options = {"weight": [1.0, 2.0, 0.5], "pos_weight": [3.0, 1.0, 10.0]}
    model = compiled(ZLPRLoss(**options))
    expected = by_hand(targets, **{name: np.asarray(weight) for name, weight in options.items()})
    check(expected, model.fit(X, targets, **FIT).history["loss"], model.get_weights())


@every_target
@pytest.mark.parametrize("jit", [False, True])
def test_gradient_tape_loop(targets, jit):
    model, optimizer = network(), keras.optimizers.SGD(RATE)

    @tf.function(jit_compile=jit)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(zlpr_loss(y, model(x, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    optimizer.build(model.trainable_variables)
    losses = [step(X[rows], targets[rows]) for _ in range(EPOCHS) for rows in batches()]
    check(by_hand(targets), np.reshape(losses, (EPOCHS, -1)).mean(1), model.get_weights())


class ThresholdInTheLoss(keras.Model):
    """On any backend of Keras."""

    def __init__(self, scorer):
        super().__init__()
        self.scorer = scorer
        self.threshold = self.add_weight(shape=(3,), initializer="zeros", name="threshold")

    def call(self, x):
        return self.scorer(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(zlpr_loss(y, y_pred, threshold=self.threshold))


class ThresholdInTheStep(ThresholdInTheLoss):
    """With a tape of one's own."""

    def __init__(self, scorer):
        super().__init__(scorer)
        self.mean = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(zlpr_loss(y, self(x, training=True), threshold=self.threshold))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.mean.update_state(loss)
        return {"loss": self.mean.result()}


@pytest.mark.parametrize("kind", [ThresholdInTheLoss, ThresholdInTheStep])
@pytest.mark.parametrize(("targets", "jit"), [(HARD, False), (SOFT, True)], ids=["hard", "soft, by XLA"])
def test_learned_threshold(kind, targets, jit):
    model = kind(network())
    model.compile(keras.optimizers.SGD(RATE), jit_compile=jit)
    losses = model.fit(X, targets, **FIT).history["loss"]
    weights = [*model.scorer.get_weights(), model.threshold.numpy()]
    check(by_hand(targets, learned=True), losses, weights)
    assert abs(weights[-1]).min() > 1e-3


@every_target
def test_mirrored_fit_is_fit_on_one_device(targets):
    strategy = two_devices()
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = compiled()
    losses = model.fit(X, targets, sample_weight=SAMPLE_WEIGHT, **FIT).history["loss"]
    check(by_hand(targets, SAMPLE_WEIGHT), losses, model.get_weights())


@pytest.mark.parametrize("loss", [ZLPRLoss(), keras.losses.BinaryCrossentropy(from_logits=True)], ids=["zlpr", "bce"])
def test_mirrored_fit_cannot_take_bool_targets(loss):
    """With any loss, as Keras sums the targets of the replicas. If this fails, docs/keras.md need not warn of it."""
    with two_devices().scope():
        model = compiled(loss)
    with pytest.raises(tf.errors.InvalidArgumentError, match="of bool is not in the list"):
        model.fit(X, HARD.astype(bool), **FIT)


@pytest.mark.parametrize("rows", [8, 7])
def test_mirrored_loop_of_ones_own(rows):
    """One value per example is what ``compute_average_loss`` wants; the replicas may have unequal shares."""
    strategy = two_devices()
    with strategy.scope():
        logits = tf.Variable(tf.zeros(3))
    data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(HARD[:rows]).batch(rows))

    @tf.function
    def replica(targets):
        with tf.GradientTape() as tape:
            losses = zlpr_loss(targets, tf.broadcast_to(logits, tf.shape(targets)))
            loss = tf.nn.compute_average_loss(losses, global_batch_size=rows)
        return loss, tape.gradient(loss, logits)

    both = strategy.run(replica, args=(next(iter(data)),))
    loss, gradient = (strategy.reduce("sum", part, axis=None) for part in both)
    zeros = np.zeros((rows, 3), "float32")
    np.testing.assert_allclose(loss, zlpr_core.zlpr(zeros, HARD[:rows]).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, zlpr_core.zlpr_grad(zeros, HARD[:rows]).mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
@pytest.mark.parametrize("as_layer", [False, True], ids=["model", "layer"])
def test_mirrored_fit_of_a_linear_layer(as_layer, reduction):
    """A regularizer, and the loss that the layer adds, count once and not once a replica."""

    def trained(strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            head = LinearZLPR(3, chunk=2, reduction=reduction, kernel_regularizer="l2")
            x, y = keras.Input((4,)), keras.Input((3,), dtype="uint8")
            model = keras.Model([x, y], head(x, y)) if as_layer else head
            model.compile(keras.optimizers.SGD(RATE))
        losses = model.fit(*([[X, HARD]] if as_layer else [X, HARD]), **FIT).history["loss"]
        return losses, model.get_weights()

    one, two = trained(tf.distribute.get_strategy()), trained(two_devices())
    for found, expected in zip([two[0], *two[1]], [one[0], *one[1]], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
