"""The layer that owns the kernel: trained without logits, and logits in inference, on any backend of Keras."""

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
from zlpr_tf import LinearZLPR, SparseZLPRLoss, ZLPRLoss

RNG = np.random.default_rng(0)
ROWS, FEATURES, CLASSES = 96, 4, 300
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
DENSE = X @ RNG.normal(size=(FEATURES, CLASSES)) > 4
IDS = np.full((ROWS, DENSE.sum(1).max()), -1)
for slots, row in zip(IDS, DENSE, strict=True):
    slots[: row.sum()] = np.flatnonzero(row)
LABELS = {False: DENSE, True: IDS}
sparse_or_not = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "ids"])
CHUNK = 128  # which does not divide the classes


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


def trained(model, labels, **compiled):
    model.compile(keras.optimizers.SGD(0.5), **compiled)
    history = model.fit(X, labels, batch_size=40, epochs=2, shuffle=False, verbose=0).history  # a last batch of 16
    return history["loss"], [numpy(weight) for weight in model.get_weights()]


def network(**options):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((FEATURES,)), keras.layers.Dense(8, "tanh", **options)])


@sparse_or_not
@pytest.mark.parametrize("options", [{}, {"threshold": 0.5, "pos_weight": 2.0, "label_smoothing": 0.01}])
def test_fit_is_that_of_a_dense_layer_and_the_loss(sparse, options):
    """Each step, whichever number of examples it has."""
    labels, kind = LABELS[sparse], SparseZLPRLoss if sparse else ZLPRLoss
    one = trained(LinearZLPR(CLASSES, network(), sparse=sparse, chunk=CHUNK, **options), labels)
    other = trained(keras.Sequential([network(), keras.layers.Dense(CLASSES)]), labels, loss=kind(**options))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    for found, expected in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@sparse_or_not
def test_fit_predict_save_and_go_on(sparse, tmp_path):
    labels = LABELS[sparse]
    options = {
        "weight": np.linspace(0.5, 1, CLASSES),
        "chunk": CHUNK,
        "kernel_regularizer": keras.regularizers.L2(1e-4),
    }
    model = LinearZLPR(CLASSES, network(), sparse=sparse, **options)
    model.compile(keras.optimizers.Adam(0.1))
    losses = model.fit(X, labels, epochs=20, validation_data=(X, labels), verbose=0).history
    assert losses["loss"][-1] < 0.5 * losses["loss"][0]
    logits = model.predict(X, verbose=0)
    regular = 1e-4 * (numpy(model.kernel) ** 2).sum()
    expected = zlpr_core.zlpr(logits.astype("float64"), DENSE, weight=options["weight"]).mean() + regular
    np.testing.assert_allclose(model.evaluate(X, labels, verbose=0), expected, rtol=1e-5)
    np.testing.assert_allclose(losses["val_loss"][-1], expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), logits)
    more = [one.fit(X, labels, shuffle=False, verbose=0).history["loss"] for one in (model, again)]
    np.testing.assert_allclose(*more, rtol=1e-5)  # the optimizer has its moments


@keras.saving.register_keras_serializable(package="test")
class Network(keras.Model):
    """Subclassed as users do it: without `build` and `compute_output_shape`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hidden, self.dropout = keras.layers.Dense(8, "tanh"), keras.layers.Dropout(0.1)

    def call(self, inputs, training=None):
        x = inputs["a"] + inputs["b"] if isinstance(inputs, dict) else inputs
        return self.dropout(self.hidden(x), training=training)


@pytest.mark.parametrize("x", [X, {"a": X, "b": X}], ids=["one input", "two"])
def test_a_subclassed_network(x, tmp_path):
    model = LinearZLPR(CLASSES, Network(), chunk=CHUNK)
    model.compile(keras.optimizers.Adam(0.1))
    losses = model.fit(x, DENSE, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert len(model.get_weights()) == 4
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_config_is_complete():
    options = {"use_bias": False, "kernel_initializer": "zeros", "bias_regularizer": keras.regularizers.L1(0.1)}
    options |= {"weight": 2.0, "pos_weight": [1.0] * CLASSES, "threshold": 0.3, "label_smoothing": 0.1, "pad": -7}
    layer = LinearZLPR(CLASSES, sparse=True, reduction="sum", chunk=5, dtype="float64", name="head", **options)
    again = LinearZLPR.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.criterion.pad, again.chunk, again.name, again.criterion.reduction) == (-7, 5, "head", "sum")
    assert again.criterion.dtype == again.compute_dtype == "float64"
    assert LinearZLPR.from_config(LinearZLPR(3, ignore_index=-1).get_config()).criterion.ignore_index == -1


def test_a_trained_dense_layer_loads():
    dense = keras.layers.Dense(CLASSES)
    expected = dense(X)
    layer = LinearZLPR(CLASSES)
    layer.build(X.shape)
    layer.set_weights(dense.get_weights())
    assert [weight.name for weight in layer.weights] == ["kernel", "bias"] == [weight.name for weight in dense.weights]
    np.testing.assert_array_equal(numpy(layer(X)), numpy(expected))
    np.testing.assert_array_equal(numpy(layer(X, training=True)), numpy(expected))  # not compiled: a layer like another


@sparse_or_not
def test_as_a_layer_of_a_functional_model(sparse, tmp_path):
    """Labels are an input of the model that is trained; the model for use has the same layers."""
    labels = LABELS[sparse].astype("int32")
    x, y = keras.Input((FEATURES,)), keras.Input(labels.shape[1:], dtype="int32", name="labels")
    head = LinearZLPR(CLASSES, sparse=sparse, chunk=CHUNK, name="head")
    hidden = keras.layers.Dense(8, "tanh", name="hidden")(x)
    trainer, model = keras.Model([x, y], head(hidden, y)), keras.Model(x, head(hidden))
    trainer.compile(keras.optimizers.Adam(0.1))
    losses = trainer.fit([X, labels], epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    each = zlpr_core.zlpr(model.predict(X, verbose=0).astype("float64"), DENSE)
    np.testing.assert_allclose(trainer.evaluate([X, labels], verbose=0), each.mean(), rtol=1e-5)
    np.testing.assert_allclose(trainer.predict([X, labels], verbose=0), each, rtol=1e-5)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    np.testing.assert_allclose(again.evaluate([X, labels], verbose=0), each.mean(), rtol=1e-5)
    used = keras.Model(again.inputs[0], again.get_layer("head")(again.get_layer("hidden").output))
    assert used.output.shape == (None, CLASSES)


def test_sample_weight_metrics_and_what_is_ignored():
    labels = np.where(RNG.random(DENSE.shape) < 0.3, -1, DENSE)
    labels[:7] = -1  # examples that keep no cell do not count
    weight = RNG.random(ROWS).astype("float32")
    model = LinearZLPR(CLASSES, network(), ignore_index=-1, chunk=CHUNK)
    model.compile(keras.optimizers.SGD(0.0), metrics=[keras.metrics.BinaryAccuracy(threshold=0)])
    history = model.fit(
        X, labels, sample_weight=weight, batch_size=ROWS, validation_data=(X, labels), verbose=0
    ).history
    assert set(history) == {"loss", "val_loss", "val_binary_accuracy"}
    each = zlpr_core.zlpr(model.predict(X, verbose=0).astype("float64"), labels == 1, where=labels != -1)
    np.testing.assert_allclose(history["loss"], [(each * weight).sum() / (ROWS - 7)], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [each.sum() / (ROWS - 7)], rtol=1e-5)


def test_a_mask_of_the_network():
    """Padding changes nothing, in training as in the evaluation."""
    tokens = RNG.integers(1, 6, (4, 7)) * (np.arange(7) < [[7], [5], [3], [6]])
    labels = (RNG.random((4, 7, CLASSES)) < 0.02).astype("int32")
    keras.utils.set_random_seed(0)
    model = LinearZLPR(CLASSES, keras.layers.Embedding(6, 8, mask_zero=True), chunk=CHUNK)
    model.compile(keras.optimizers.SGD(0.0))
    loss = model.fit(tokens, labels, verbose=0).history["loss"]
    each = zlpr_core.zlpr(model.predict(tokens, verbose=0).astype("float64"), labels)
    for found in (*loss, model.evaluate(tokens, labels, verbose=0)):
        np.testing.assert_allclose(found, each[tokens > 0].mean(), rtol=1e-5)


def test_mixed_precision():
    model = LinearZLPR(CLASSES, network(dtype="mixed_bfloat16"), chunk=CHUNK, dtype="mixed_bfloat16")
    model.compile(keras.optimizers.Adam(0.1))
    losses = model.fit(X, DENSE, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert keras.backend.standardize_dtype(model(X).dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(model.kernel.dtype) == "float32"


def test_messages():
    model = LinearZLPR(CLASSES, network())
    model.compile(loss=ZLPRLoss())
    with pytest.raises(ValueError, match=r"^`LinearZLPR` has its loss: compile it without one. Received: loss=<"):
        model.fit(X, DENSE, verbose=0)
    with pytest.raises(ValueError, match=r"^`chunk` must be a number of classes, 1 or more. Received: 0.$"):
        LinearZLPR(CLASSES, chunk=0)
    with pytest.raises(ValueError, match=r"^`pos_weight` must be non-negative and finite. Received: -1.$"):
        LinearZLPR(CLASSES, pos_weight=-1)
    model = LinearZLPR(CLASSES, network())
    model.compile()
    with pytest.raises(ValueError, match=r"For class ids, call `sparse_linear_zlpr_loss`."):
        model.fit(X, IDS, verbose=0)
