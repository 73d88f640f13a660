"""The Keras loss class, on whichever backend Keras runs on."""

import keras
import numpy as np
import pytest
from cases import rounded
from keras import ops
from test_values import table
from tolerances import value_error

import zlpr_tf
from zlpr_tf import ZLPRLoss

RNG = np.random.default_rng(0)
LOGITS, SOFT = RNG.normal(0, 3, (6, 5)), RNG.random((6, 5))
HARD = (RNG.random((6, 5)) < 0.4).astype("int64")
X = RNG.normal(size=(96, 4)).astype("float32")
Y = (X[:, :3] > 0).astype("int64")
OPTIONS = {
    "axis": (-1,),
    "weight": [0.1, 2.0, 1.0, 0.0, 3.0],
    "pos_weight": 2.0,
    "threshold": [[0.3]],
    "label_smoothing": 0.1,
    "ignore_index": -100,
    "reduction": "sum",
    "name": "mine",
    "dtype": "float64",
}


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


@pytest.mark.parametrize("name", ["random", "separable", "wrong", "soft", "extreme"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_class_matches_oracle(name, dtype):
    """Whatever the dtype of the predictions, given a loss that computes in it or wider."""
    logits, targets, losses, *_ = table(name, dtype)
    loss = ZLPRLoss(reduction=None, dtype="float64" if dtype == "float64" else "float32")
    got = numpy(loss(targets, logits.astype(dtype)))
    assert value_error(got, losses, dtype).max() <= 1


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int64", "float16", "float32", "float64"])
def test_targets_of_every_kind(kind):
    expected = numpy(ZLPRLoss(reduction=None)(HARD, LOGITS))
    np.testing.assert_array_equal(numpy(ZLPRLoss(reduction=None)(HARD.astype(kind), LOGITS)), expected)


def test_targets_are_read_in_their_own_dtype():
    """Keras casts them to float32 first, where a half-precision rounding would no longer count as one."""
    rounding = np.asarray([[1 + 2**-9, -(2**-10)]], "float16")
    loss = ZLPRLoss()
    assert numpy(loss(rounding, [[2.0, -1.0]])) == numpy(loss([[1, 0]], [[2.0, -1.0]]))
    assert np.isnan(numpy(loss(rounding.astype("float32"), [[2.0, -1.0]])))
    assert np.isnan(numpy(loss(np.asarray([[255, 0]], "uint8"), [[2.0, -1.0]])))


def test_options_equal_the_function():
    targets = np.where(RNG.random((6, 5)) < 0.2, -100, HARD)
    options = {k: v for k, v in OPTIONS.items() if k not in ("reduction", "name", "dtype")}
    expected = numpy(zlpr_tf.zlpr_loss(targets, ops.convert_to_tensor(LOGITS, "float64"), **options))
    np.testing.assert_allclose(numpy(ZLPRLoss(**OPTIONS)(targets, LOGITS)), expected.sum(), rtol=1e-14)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", None])
def test_reductions_are_over_examples(reduction):
    each = numpy(zlpr_tf.zlpr_loss(HARD, LOGITS.astype("float32")))
    expected = {"sum": each.sum(), None: each}.get(reduction, each.mean())
    np.testing.assert_allclose(numpy(ZLPRLoss(reduction=reduction)(HARD, LOGITS)), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="Invalid value for argument `reduction`"):
        ZLPRLoss(reduction="avg")


def test_sample_weight():
    weight = np.asarray([1, 0, 2, 0, 0, 0.5])
    each = numpy(ZLPRLoss(reduction=None)(HARD, LOGITS))
    np.testing.assert_allclose(numpy(ZLPRLoss()(HARD, LOGITS, sample_weight=weight)), (each * weight).mean(), rtol=1e-6)


def test_config_is_complete():
    loss = ZLPRLoss(**OPTIONS)
    assert loss.get_config() == OPTIONS
    for again in (
        ZLPRLoss.from_config(loss.get_config()),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)),
    ):
        assert isinstance(again, ZLPRLoss)
        assert again.get_config() == OPTIONS
        np.testing.assert_array_equal(numpy(again(HARD, LOGITS)), numpy(loss(HARD, LOGITS)))
    assert ZLPRLoss(dtype="float16").get_config()["dtype"] == "float16"
    arrays = ZLPRLoss(weight=np.asarray([1.0, 2.0]), threshold=ops.convert_to_tensor([0.5, 1.0]))
    assert (arrays.weight, arrays.threshold) == ([1.0, 2.0], [0.5, 1.0])


def test_construction_checks():
    with pytest.raises(ValueError, match=r"`pos_weight` must be non-negative. Received: \[1, -2\]"):
        ZLPRLoss(pos_weight=[1, -2])
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\]. Received: 2"):
        ZLPRLoss(label_smoothing=2)


def test_a_variable_is_not_silently_frozen():
    with pytest.raises(TypeError, match="`threshold` of the class is a constant"):
        ZLPRLoss(threshold=keras.Variable(0.5))


def test_messages_name_what_keras_users_pass():
    with pytest.raises(ValueError, match=r"must have the same shape. Received: \(6, 5\) and \(6, 4\)"):
        ZLPRLoss()(HARD[:, :4], LOGITS)


def classifier(**compile_options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    metric = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
    model.compile(keras.optimizers.Adam(0.1), **{"loss": ZLPRLoss(), "metrics": [metric], **compile_options})
    return model


@pytest.mark.parametrize("jit", [False, True])
def test_fit_and_reload(tmp_path, jit):
    if jit and keras.backend.backend() == "torch":
        jit = "auto"  # Keras would hand the whole step to torch.compile
    model = classifier(jit_compile=jit)
    history = model.fit(X, Y, epochs=30, batch_size=32, verbose=0, sample_weight=np.ones(96)).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["accuracy"][-1] > 0.95
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.loss, ZLPRLoss)
    np.testing.assert_allclose(again.evaluate(X, Y, verbose=0)[0], model.evaluate(X, Y, verbose=0)[0], rtol=1e-6)
    again.fit(X, Y, epochs=1, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = classifier()
        losses = model.fit(X, Y, epochs=30, verbose=0).history["loss"]
        assert keras.backend.standardize_dtype(model(X[:1]).dtype) == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.4 * losses[0]


def test_half_precision_predictions_lose_nothing():
    logits = rounded(LOGITS * 100, "float16")
    np.testing.assert_array_equal(
        numpy(ZLPRLoss()(HARD, logits.astype("float16"))), numpy(ZLPRLoss()(HARD, logits.astype("float32")))
    )


def test_masked_time_steps_do_not_count():
    """A mask that a layer leaves on the predictions."""
    steps = np.asarray([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 1.0], [2.0, 5.0]]], "float32")
    model = keras.Sequential([keras.layers.Input((2, 2)), keras.layers.Masking(0.0), keras.layers.Dense(3)])
    model.compile("sgd", loss=ZLPRLoss())
    targets = RNG.integers(0, 2, (2, 2, 3))
    each = numpy(zlpr_tf.zlpr_loss(targets, model(steps)))
    np.testing.assert_allclose(model.evaluate(steps, targets, verbose=0), (each[0, 0] + each[1].sum()) / 3, rtol=1e-5)
