"""Class ids in ``fit``, from arrays and pipelines, against the same descent by hand on rows of 0 and 1."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_descent import BATCH, FIT, HARD, PADDED, SAMPLE_WEIGHT, X, by_hand, check, compiled, network, two_devices

import zlpr_core
from zlpr_tf import SparseZLPRLoss, multi_hot, predict, sparse_zlpr_loss

LISTS = [np.flatnonzero(row).tolist() for row in HARD]
RAGGED = tf.ragged.constant(LISTS, dtype=tf.int64)


def from_slices(targets):
    return tf.data.Dataset.from_tensor_slices((X, targets)).batch(BATCH)


SOURCES = {
    "arrays": (X, PADDED),
    "small arrays": (X, PADDED.astype("int8")),
    "ragged, padded in the pipeline": (from_slices(RAGGED).map(lambda x, ids: (x, ids.to_tensor(default_value=-1))),),
    "ragged": (from_slices(RAGGED),),
    "a sparse matrix": (from_slices(tf.sparse.from_dense(HARD)),),
}


def fit(model, source, **more):
    options = FIT if len(source) == 2 else FIT | {"batch_size": None}
    return model.fit(*source, **options, **more).history["loss"]


EVERY_WAY = [(name, False) for name in SOURCES] + [(name, True) for name in SOURCES if name != "ragged"]


@pytest.mark.parametrize(("name", "jit"), EVERY_WAY)
def test_fit(name, jit):
    model = compiled(SparseZLPRLoss(), jit_compile=jit)
    check(by_hand(HARD), fit(model, SOURCES[name]), model.get_weights())


def test_xla_wants_the_padding_in_the_pipeline():
    """XLA does not compile the conversion of ragged ids to padded ones, so the pipeline has to make it."""
    with pytest.raises(tf.errors.InvalidArgumentError, match="RaggedTensorToTensor"):
        fit(compiled(SparseZLPRLoss(), jit_compile=True), SOURCES["ragged"])


def test_fit_with_options_and_sample_weight():
    options = {"weight": [1.0, 2.0, 0.5], "pos_weight": [3.0, 1.0, 10.0], "threshold": [0.5, 0.0, -0.5]}
    model = compiled(SparseZLPRLoss(**options))
    expected = by_hand(HARD, SAMPLE_WEIGHT, **{name: np.asarray(option) for name, option in options.items()})
    check(expected, fit(model, SOURCES["arrays"], sample_weight=SAMPLE_WEIGHT), model.get_weights())


def test_gradient_tape_over_ragged_rows():
    model = network()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(sparse_zlpr_loss(RAGGED, model(X)))
    gradient = tape.gradient(loss, model.get_layer("logits").bias)
    logits = model(X).numpy()
    np.testing.assert_allclose(loss, zlpr_core.zlpr(logits, HARD).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, zlpr_core.zlpr_grad(logits, HARD).mean(0), rtol=1e-4, atol=1e-6)


def subset_accuracy(y_true, y_pred):
    return keras.ops.all(multi_hot(y_true, 3) == predict(y_pred), axis=-1)


def test_metric_on_ids():
    model = compiled(SparseZLPRLoss(), metrics=[subset_accuracy])
    fit(model, SOURCES["arrays"])
    exact = ((model.predict(X, verbose=0) > 0) == HARD).all(1).mean()
    np.testing.assert_allclose(model.evaluate(X, PADDED, verbose=0)[1], exact, rtol=1e-6)
    assert 0 < exact < 1


def test_saved_with_the_model(tmp_path):
    model = compiled(SparseZLPRLoss(pos_weight=[1.0, 2.0, 3.0], pad=-100))
    ids = np.where(PADDED == -1, -100, PADDED)
    model.fit(X, ids, **FIT)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.loss, SparseZLPRLoss)
    assert again.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(again.evaluate(X, ids, verbose=0), model.evaluate(X, ids, verbose=0), rtol=1e-6)
    for network_again in (again, model):
        network_again.fit(X, ids, **FIT)
    np.testing.assert_allclose(again.get_weights()[0], model.get_weights()[0], rtol=1e-5)


def test_mirrored_fit_wants_a_batch_first():
    """Keras builds a model under a strategy from the mean of the replicas' rows, which makes floats of ids."""
    with two_devices().scope():
        model = compiled(SparseZLPRLoss())
    with pytest.raises(TypeError, match=r"must be integer class ids. Received dtype: float64"):
        fit(model, SOURCES["arrays"])
    model.test_on_batch(X[:2], PADDED[:2])
    check(by_hand(HARD), fit(model, SOURCES["arrays"]), model.get_weights())
