"""SavedModels: the logits, and the loss, in a program without this package's code."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zlpr_core
from zlpr_tf import ZLPRLoss, predict, zlpr_loss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")
HARD, SOFT = RNG.random((6, 3)) < 0.4, RNG.random((6, 3)).astype("float32")
every_target = pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
KERNEL, THRESHOLD = RNG.normal(size=(4, 3)).astype("float32"), np.asarray([0.0, 0.5, -1.0], "float32")
INPUT = tf.TensorSpec([None, 4], tf.float32)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=ZLPRLoss())
    model.fit(X, SOFT, verbose=0)
    return model


def test_exported_model_serves_the_logits(model, tmp_path):
    model.export(tmp_path, verbose=False)
    again = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(again.serve(X), model(X), rtol=1e-6)
    np.testing.assert_array_equal(predict(again.serve(X)), predict(model(X)))


@every_target
def test_export_archive_with_an_endpoint_for_the_loss(model, targets, tmp_path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    specs = [INPUT, tf.TensorSpec([None, 3], targets.dtype)]
    archive.add_endpoint("loss", lambda x, y: zlpr_loss(y, model(x)), input_signature=specs)
    archive.write_out(tmp_path, verbose=False)
    again = tf.saved_model.load(tmp_path)
    for rows in (6, 2, 0):
        expected = zlpr_core.zlpr(np.asarray(model(X[:rows])), targets[:rows])
        np.testing.assert_allclose(again.loss(X[:rows], targets[:rows]), expected, rtol=1e-6)


class Linear(tf.Module):
    """Plain TensorFlow, with a threshold that was learned."""

    def __init__(self, kind):
        super().__init__()
        self.kernel, self.threshold = tf.Variable(KERNEL), tf.Variable(THRESHOLD)
        specs = [INPUT, tf.TensorSpec([None, 3], kind)]
        self.loss = tf.function(self.loss, input_signature=specs)

    def loss(self, x, labels):
        return {"loss": zlpr_loss(labels, x @ self.kernel, threshold=self.threshold)}


@every_target
def test_module_with_a_signature_for_the_loss(targets, tmp_path):
    module = Linear(targets.dtype)
    tf.saved_model.save(module, tmp_path, signatures={"loss": module.loss})
    again, logits = tf.saved_model.load(tmp_path), X @ KERNEL
    served = again.signatures["loss"](x=tf.constant(X), labels=tf.constant(targets))["loss"]
    np.testing.assert_allclose(served, module.loss(X, targets)["loss"], rtol=1e-6)
    np.testing.assert_allclose(served, zlpr_core.zlpr(logits, targets, threshold=THRESHOLD), rtol=1e-6)
    with tf.GradientTape() as tape:
        loss = again.loss(tf.constant(X), tf.constant(targets))["loss"]
    kernel, threshold = tape.gradient(loss, [again.kernel, again.threshold])
    score = zlpr_core.zlpr_grad(logits, targets, threshold=THRESHOLD)
    np.testing.assert_allclose(kernel, X.T @ score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(threshold, -score.sum(0), rtol=1e-4, atol=1e-5)
