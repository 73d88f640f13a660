"""The mean is over the examples that keep a cell, however the others are left out, on any backend of Keras."""

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
from zlpr_tf import RDropZLPR, SparseZLPRLoss, ZLPRLoss

RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(4, 3, 2)).astype("float32")
REAL = np.asarray([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)
STEPS[~REAL] = 0  # what `Masking` takes for padding
TARGETS = RNG.integers(0, 2, (4, 3, 5))
LEFT_OUT = np.where(REAL[..., None], TARGETS, -1)
PER_EXAMPLE, PER_STEP = np.asarray([[1.0], [0.0], [2.5], [3.0]]), RNG.random((4, 3)) + 0.1
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
every_reduction = pytest.mark.parametrize("reduction", [*MEANS, "sum", None])
every_weight = pytest.mark.parametrize(
    "sample_weight", [None, PER_EXAMPLE, PER_STEP, PER_STEP[..., None]], ids=["none", "example", "step", "step, 1"]
)
WAYS = {"mask": (True, TARGETS, None), "ignore_index": (False, LEFT_OUT, -1), "both": (True, LEFT_OUT, -1)}
every_way = pytest.mark.parametrize(("masked", "targets", "ignore_index"), WAYS.values(), ids=WAYS)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


def tagger(masked, dropout=0.0):
    keras.utils.set_random_seed(0)
    first = [keras.layers.Masking(0.0)] if masked else []
    layers = [*first, keras.layers.Dropout(dropout), keras.layers.Dense(5)]
    return keras.Sequential([keras.layers.Input((3, 2)), *layers])


def reduced(each, kept, sample_weight, reduction):
    """What Keras makes of losses, a mask and weights, by its documentation."""
    weight = 1.0 if sample_weight is None else np.reshape(sample_weight, sample_weight.shape[:2])
    weighted = np.where(kept, each, 0) * weight
    if reduction is None or reduction == "sum":
        return weighted if reduction is None else weighted.sum()
    return weighted.sum() / ((kept * weight).sum() if reduction == "mean_with_sample_weight" else kept.sum())


@every_way
@every_weight
@every_reduction
def test_every_way_to_leave_a_step_out(masked, targets, ignore_index, sample_weight, reduction):
    logits = tagger(masked)(STEPS)
    loss = ZLPRLoss(ignore_index=ignore_index, reduction=reduction)(targets, logits, sample_weight)
    each = zlpr_core.zlpr(numpy(logits), TARGETS)
    np.testing.assert_allclose(numpy(loss), reduced(each, REAL, sample_weight, reduction), rtol=1e-5)


@every_weight
@every_reduction
def test_a_mask_of_class_ids(sample_weight, reduction):
    """A step without ids has no label; it is the mask that leaves it out."""
    logits = tagger(masked=True)(STEPS)
    ids = np.where(TARGETS, np.arange(5), -1)
    loss = SparseZLPRLoss(reduction=reduction)(ids, logits, sample_weight)
    each = zlpr_core.zlpr(numpy(logits), TARGETS)
    np.testing.assert_allclose(numpy(loss), reduced(each, REAL, sample_weight, reduction), rtol=1e-5)


@every_reduction
def test_what_is_left_out_may_hold_anything(reduction):
    """Not 0 times NaN: labels of padding are often -1, and logits there may be anything."""
    model = tagger(masked=True)
    expected = numpy(ZLPRLoss(reduction=reduction)(TARGETS, model(STEPS)))
    np.testing.assert_array_equal(numpy(ZLPRLoss(reduction=reduction)(LEFT_OUT, model(STEPS))), expected)
    ids = np.where(REAL[..., None], np.where(TARGETS, np.arange(5), -1), -1)
    np.testing.assert_array_equal(numpy(SparseZLPRLoss(reduction=reduction)(ids, model(STEPS))), expected)


@pytest.mark.parametrize("reduction", MEANS)
def test_padding_a_batch_changes_nothing(reduction):
    logits, labels = RNG.normal(size=(3, 5)).astype("float32"), np.asarray([[1, 0, -1, 0, 1]] * 3)
    weight, loss = np.asarray([1.0, 2.0, 0.5]), ZLPRLoss(ignore_index=-1, reduction=reduction)
    for given in (None, weight):
        expected = numpy(loss(labels, logits, given))
        padded = np.vstack([labels, np.full((4, 5), -1)]), np.vstack([logits, np.full((4, 5), 7.0, "float32")])
        heavier = None if given is None else np.append(given, [9.0] * 4)
        np.testing.assert_allclose(numpy(loss(*padded, heavier)), expected, rtol=1e-6)
    np.testing.assert_array_equal(numpy(loss(np.full((3, 5), -1), logits)), 0)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 3, 5)], ids=str)
def test_a_mask_concerns_the_axes_that_it_has(shape):
    """Given by hand: of examples, of steps, or of single cells."""
    logits = RNG.normal(size=(4, 3, 5)).astype("float32")
    mask = np.random.default_rng(1).random(shape) < 0.6
    where = np.broadcast_to(mask.reshape(shape + (1,) * (3 - len(shape))), logits.shape)
    predictions = ops.convert_to_tensor(logits)
    predictions._keras_mask = ops.convert_to_tensor(mask)
    expected = zlpr_core.zlpr(logits, TARGETS, where=where).sum() / where.any(-1).sum()
    np.testing.assert_allclose(numpy(ZLPRLoss()(TARGETS, predictions)), expected, rtol=1e-5)


def test_several_outputs():
    """Each with its own loss, mask, weights and share of the whole."""
    inputs = keras.Input((3, 2))
    hidden = keras.layers.Masking(0.0)(inputs)
    heads = {name: keras.layers.Dense(5, name=name)(hidden) for name in ("tags", "topics")}
    model = keras.Model(inputs, heads)
    losses = {"tags": ZLPRLoss(ignore_index=-1), "topics": ZLPRLoss(reduction="mean_with_sample_weight")}
    model.compile("sgd", loss=losses, loss_weights={"tags": 1.0, "topics": 0.25})
    logits = {name: numpy(output) for name, output in model(STEPS).items()}
    some = TARGETS.copy()
    some[0, 0] = -1
    kept = REAL & (some != -1).any(-1)
    weights = {"tags": PER_STEP, "topics": PER_EXAMPLE * np.ones((4, 3))}
    tags = reduced(zlpr_core.zlpr(logits["tags"], np.maximum(some, 0)), kept, PER_STEP, "mean")
    each = zlpr_core.zlpr(logits["topics"], TARGETS)
    topics = reduced(each, REAL, weights["topics"], "mean_with_sample_weight")
    data = {"x": STEPS, "y": {"tags": some, "topics": TARGETS}, "sample_weight": weights, "verbose": 0}
    told = model.evaluate(**data, return_dict=True)["loss"]
    np.testing.assert_allclose(told, tags + 0.25 * topics, rtol=1e-5)
    model.fit(**data)


@every_way
@pytest.mark.parametrize("reduction", [*MEANS, "sum"])
@pytest.mark.parametrize("sample_weight", [None, PER_STEP], ids=["none", "step"])
def test_r_drop(masked, targets, ignore_index, reduction, sample_weight):
    """The same for the agreement of the two passes."""
    network = tagger(masked, dropout=0.5)
    model = RDropZLPR(network, alpha=3.0, scale=2.0)
    model.compile("sgd", loss=ZLPRLoss(ignore_index=ignore_index, reduction=reduction, threshold=0.5))
    passes, network_call = [], network.call
    network.call = lambda *args, **kwargs: passes.append(network_call(*args, **kwargs)) or passes[-1]
    first = model(STEPS, training=True)
    got = numpy(model.compute_loss(STEPS, targets, first, sample_weight, training=True))
    logits = [numpy(one) for one in passes]
    each = zlpr_core.rdrop_zlpr(*logits, TARGETS, alpha=3.0, scale=2.0, threshold=0.5)
    np.testing.assert_allclose(got, reduced(each, REAL, sample_weight, reduction), rtol=1e-5)


def test_r_drop_keeps_the_digits_of_the_threshold():
    """A threshold moves both passes alike, so that their distance is not rounded again."""
    model = RDropZLPR(keras.Sequential([keras.layers.Input((2,)), keras.layers.Dropout(0.5)]))
    model.compile("sgd", loss=ZLPRLoss(threshold=30.1))
    passes = RNG.normal(-40, 1, (2, 6, 2)).astype("float32")
    divergence = numpy(model._divergence(np.zeros((6, 2), int), *map(ops.convert_to_tensor, passes), None))
    exact = [one.astype("float64") - float(np.float32(30.1)) for one in passes]
    np.testing.assert_allclose(divergence, zlpr_core.symmetric_kl_divergence(*exact).mean(), rtol=5e-7)
