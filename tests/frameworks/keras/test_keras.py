"""The Keras loss class, on whichever backend Keras runs on."""

import keras
import numpy as np
import pytest
from cases import rounded
from keras import ops
from tolerances import VALUE_RTOL, value_error
from truth import table

import zlpr_tf
from zlpr_tf import RDropZLPR, SparseZLPRLoss, ZLPRLoss

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
    got = numpy(ZLPRLoss(reduction=None)(HARD.astype(kind), LOGITS))
    np.testing.assert_allclose(got, expected, rtol=VALUE_RTOL["float32"])  # hard and soft are summed in their own ways


def test_targets_are_read_in_their_own_dtype():
    """Keras casts them to float32 first, where a half-precision rounding would no longer count as one."""
    rounding = np.asarray([[1 + 2**-9, -(2**-10)]], "float16")
    loss = ZLPRLoss()
    assert numpy(loss(rounding, [[2.0, -1.0]])) == numpy(loss([[1.0, 0.0]], [[2.0, -1.0]]))
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
    with pytest.raises(ValueError, match=r"`pos_weight` must be non-negative and finite. Received: \[1, -2\]"):
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


IDS = np.where(HARD, np.arange(5), -1)
SPARSE_OPTIONS = {**OPTIONS, "pad": -100}
del SPARSE_OPTIONS["ignore_index"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_class_ids_equal_the_dense_loss(dtype):
    wide = "float64" if dtype == "float64" else "float32"
    logits = rounded(LOGITS * 100, dtype).astype(dtype)
    expected = numpy(ZLPRLoss(reduction=None, dtype=wide)(HARD, logits))
    np.testing.assert_array_equal(numpy(SparseZLPRLoss(reduction=None, dtype=wide)(IDS, logits)), expected)


def test_ids_are_not_rounded():
    """Keras casts targets to float32, where 16 777 217 does not exist."""
    with pytest.raises(IndexError, match="Received: 16777217 at"):
        SparseZLPRLoss()([[16777217]], LOGITS[:1])
    logits = np.zeros((1, 2**24 + 2), "float32")
    logits[0, 2**24 + 1] = 30.0
    loss = numpy(SparseZLPRLoss()(np.asarray([[2**24 + 1]]), logits))
    np.testing.assert_allclose(loss, np.log(2**24 + 2) + np.exp(-30.0), rtol=1e-6)


@pytest.fixture
def no_x64():
    """JAX as it is by default."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.usefixtures("no_x64")
def test_ids_of_uint32():
    """Nothing warns on JAX that there is no int64 to widen them to."""
    logits = LOGITS[:1].astype("float32")
    loss = zlpr_tf.sparse_zlpr_loss(np.asarray([[0, 1]], "uint32"), logits)
    np.testing.assert_array_equal(numpy(loss), numpy(zlpr_tf.sparse_zlpr_loss([[0, 1]], logits)))


def test_config_of_class_ids_is_complete():
    loss = SparseZLPRLoss(**SPARSE_OPTIONS)
    assert loss.get_config() == SPARSE_OPTIONS
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SparseZLPRLoss)
    ids = np.where(HARD, np.arange(5), -100)
    np.testing.assert_array_equal(numpy(again(ids, LOGITS)), numpy(loss(ids, LOGITS)))


def test_call_gives_one_value_an_example():
    logits = ops.convert_to_tensor(LOGITS.astype("float32"))
    np.testing.assert_array_equal(numpy(SparseZLPRLoss().call(IDS, logits)), numpy(ZLPRLoss().call(HARD, logits)))
    assert numpy(ZLPRLoss().call(HARD, logits)).shape == (6,)


@pytest.mark.parametrize("jit", [False, True])
def test_fit_on_class_ids(tmp_path, jit):
    if jit and keras.backend.backend() == "torch":
        jit = "auto"
    model = classifier(loss=SparseZLPRLoss(), metrics=[], jit_compile=jit)
    dense = classifier(jit_compile=jit)
    ids = np.where(Y, np.arange(3), -1)
    losses = model.fit(X, ids, epochs=5, verbose=0, shuffle=False).history["loss"]
    expected = dense.fit(X, Y, epochs=5, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.evaluate(X, ids, verbose=0), dense.evaluate(X, Y, verbose=0)[0], rtol=1e-5)


def dropout_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)])


def test_rdrop_leaves_out_ignored_cells():
    model = rdrop_model(loss=ZLPRLoss(ignore_index=-1))
    np.testing.assert_array_equal(
        numpy(model.compute_loss(x=X, y=np.full_like(Y, -1), y_pred=model(X, training=True), training=True)), 0
    )


def rdrop_model(alpha=4.0, loss=None, **options):
    model = RDropZLPR(dropout_network(), alpha=alpha, **options)
    model.compile(keras.optimizers.Adam(0.05), loss=loss or ZLPRLoss())
    return model


def test_rdrop_trains_and_reports_the_plain_loss(tmp_path):
    model = rdrop_model()
    losses = model.fit(X, Y, epochs=30, verbose=0, sample_weight=np.ones(96)).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    plain = numpy(ZLPRLoss()(Y, model.network(X)))
    np.testing.assert_allclose(model.evaluate(X, Y, verbose=0), plain, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.network.predict(X, verbose=0))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.alpha, again.scale) == (4.0, 1.0)
    np.testing.assert_allclose(again.evaluate(X, Y, verbose=0), plain, rtol=1e-5)
    again.fit(X, Y, verbose=0)


@pytest.mark.parametrize("loss", [ZLPRLoss(threshold=0.5), ZLPRLoss(reduction="sum")], ids=["threshold", "sum"])
def test_rdrop_loss_is_that_of_the_function(loss):
    """Of the two passes that the model made."""
    model = rdrop_model(alpha=3.0, loss=loss, scale=2.0)
    passes = []
    network_call = model.network.call
    model.network.call = lambda *args, **kwargs: passes.append(network_call(*args, **kwargs)) or passes[-1]
    first = model(X, training=True)
    got = numpy(model.compute_loss(x=X, y=Y, y_pred=first, training=True))
    each = numpy(zlpr_tf.rdrop_zlpr_loss(Y, *passes, alpha=3.0, scale=2.0, threshold=loss.threshold))
    assert not np.array_equal(numpy(passes[0]), numpy(passes[1]))
    np.testing.assert_allclose(got, each.sum() if loss.reduction == "sum" else each.mean(), rtol=1e-5)


def test_rdrop_construction_checks():
    with pytest.raises(ValueError, match="`alpha` must be a non-negative number"):
        RDropZLPR(dropout_network(), alpha=-1.0)
    with pytest.raises(ValueError, match="`scale` must be a positive number"):
        RDropZLPR(dropout_network(), scale=0.0)
