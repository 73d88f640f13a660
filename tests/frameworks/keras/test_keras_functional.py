"""Losses as steps of a model, on any backend of Keras: functional models, and layers that add them."""

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
import zlpr_tf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
LOGITS, OTHER = RNG.normal(0, 3, (2, 6, 5)).astype("float32")
SOFT, HARD = RNG.random((6, 5)).astype("float32"), RNG.random((6, 5)) < 0.4
Y = (X[:, :3] > 0).astype("int32")
IDS = np.where(Y, np.arange(3), -1).astype("int32")


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def test_options_may_be_symbolic_too(tmp_path):
    logits, labels, row = keras.Input((5,)), keras.Input((5,)), keras.Input((1,))
    where, cells = keras.Input((5,), dtype="bool"), keras.Input((5,))
    options = {"where": where, "weight": cells, "pos_weight": [1.0, 2.0, 3.0, 1.0, 0.5], "threshold": row}
    loss = zlpr_tf.zlpr_loss(labels, logits=logits, label_smoothing=0.1, **options)
    model = keras.Model([labels, logits, row, where, cells], loss)
    given = SOFT, LOGITS, RNG.normal(size=(6, 1)).astype("float32"), HARD, RNG.random((6, 5)).astype("float32")
    known = {"where": given[3], "weight": given[4], "pos_weight": np.asarray(options["pos_weight"], "float32")}
    soft = zlpr_core.smooth_labels(SOFT, 0.1)
    expected = zlpr_core.zlpr(LOGITS, soft, threshold=given[2], **known)
    for one in (model, reloaded(model, tmp_path)):
        np.testing.assert_allclose(ops.convert_to_numpy(one(list(map(ops.convert_to_tensor, given)))), expected, 1e-5)


def test_two_halves_are_two_outputs():
    labels, logits = keras.Input((5,), dtype="int32"), keras.Input((5,))
    model = keras.Model([labels, logits], zlpr_tf.zlpr_terms(labels, logits))
    got = model([ops.convert_to_tensor(HARD.astype("int32")), ops.convert_to_tensor(LOGITS)])
    for half, expected in zip(got, zlpr_core.zlpr_terms(LOGITS, HARD), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(half), expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [-1, [1], (-2, -1)], ids=repr)
def test_axes_and_unknown_lengths(axis, tmp_path):
    """A model of token pairs, whose length is known when it is called."""
    logits, labels = keras.Input((None, None)), keras.Input((None, None), dtype="bool")
    model = keras.Model([labels, logits], zlpr_tf.zlpr_loss(labels, logits, axis=axis))
    for length in (4, 3):
        s = RNG.normal(size=(2, length, length)).astype("float32")
        got = reloaded(model, tmp_path)([ops.convert_to_tensor(s > 1), ops.convert_to_tensor(s)])
        expected = zlpr_core.zlpr(s, s > 1, axis=tuple(axis) if isinstance(axis, list) else axis)
        np.testing.assert_allclose(ops.convert_to_numpy(got), expected, rtol=1e-5)


def test_wrong_arguments_are_refused_while_the_model_is_built():
    with pytest.raises(ValueError, match=r"`logits` and `labels` must have the same shape"):
        zlpr_tf.zlpr_loss(keras.Input((4,)), keras.Input((5,)))
    with pytest.raises(TypeError, match=r"missing .* 'logits'"):
        zlpr_tf.zlpr_loss(keras.Input((4,)))


@keras.saving.register_keras_serializable(package="tests")
class AddsTheLoss(keras.layers.Layer):
    """A head that takes its targets as an input and leaves its loss with the model."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function, self.dense = function, keras.layers.Dense(3)

    def build(self, shapes):
        self.dense.build(shapes[0])
        self.built = True

    def call(self, inputs):
        logits = self.dense(inputs[0])
        self.add_loss(ops.mean(getattr(zlpr_tf, self.function)(inputs[1], logits)))
        return logits

    def get_config(self):
        return {**super().get_config(), "function": self.function}


@pytest.mark.parametrize(("function", "targets"), [("zlpr_loss", Y), ("sparse_zlpr_loss", IDS)])
@pytest.mark.parametrize("slots", [3, None], ids=["known", "any number of slots"])
@pytest.mark.parametrize("eagerly", [False, True])
def test_a_layer_adds_the_loss(function, targets, slots, eagerly, tmp_path):
    slots = 3 if function == "zlpr_loss" else slots
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,)), keras.Input((slots,), dtype="int32")
    model = keras.Model(inputs, AddsTheLoss(function)(inputs))
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=eagerly)
    losses = model.fit([X, targets], epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    again = reloaded(model, tmp_path)
    expected = zlpr_core.zlpr(model.predict([X, targets], verbose=0), Y).mean()
    for one in (model, again):
        np.testing.assert_allclose(one.evaluate([X, targets], verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(zlpr_tf.__all__) - {"check_targets"}))
def test_every_name_is_registered_with_keras(name):
    if isinstance(getattr(zlpr_tf, name), type):
        assert keras.saving.get_registered_name(getattr(zlpr_tf, name)) == f"zlpr>{name}"
        return
    told = keras.saving.serialize_keras_object(getattr(zlpr_tf, name))
    assert keras.saving.deserialize_keras_object(told) is getattr(zlpr_tf, name)


LOSSES = ("zlpr_loss", "kl_divergence", "symmetric_kl_divergence", "zlpr_divergence")


@pytest.mark.parametrize("name", LOSSES)
def test_compile_with_a_function(name, tmp_path):
    """It trains, and the saved model finds it again."""
    keras.utils.set_random_seed(0)
    function, targets = getattr(zlpr_tf, name), Y if name == "zlpr_loss" else 4.0 * Y - 2
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.5), loss=function)
    losses = model.fit(X, targets, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    again = reloaded(model, tmp_path)
    assert again.loss is function
    np.testing.assert_allclose(again.evaluate(X, targets, verbose=0), model.evaluate(X, targets, verbose=0), 1e-6)
    again.fit(X, targets, verbose=0)


def test_ids_that_keras_made_floats_are_told_from_wrong_ones():
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=zlpr_tf.sparse_zlpr_loss)
    fix = r"`indices` must be integer class ids. Received dtype: float32. .*SparseZLPRLoss\(\)`"
    with pytest.raises(TypeError, match=fix):
        model.fit(X, IDS, verbose=0)
    with pytest.raises(TypeError, match=fix):
        zlpr_tf.sparse_zlpr_loss(ops.zeros((1, 2)), LOGITS[:1])
