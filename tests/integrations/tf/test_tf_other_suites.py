"""What Keras's own tests ask of a loss: `fit` and `evaluate` with every form of weights and masks, and TensorFlow's alarms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zlpr_core
from zlpr_tf import RDropZLPR, SparseZLPRLoss, ZLPRLoss

RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(6, 3, 2)).astype("float32")
REAL = np.arange(3) < np.asarray([3, 1, 2, 0, 3, 2])[:, None]
STEPS[~REAL] = 0
HARD = RNG.integers(0, 2, (6, 3, 4))
IDS = np.where(HARD, np.arange(4), -1)
EXAMPLE, STEP = RNG.random((6, 1)) + 0.1, RNG.random((6, 3)) + 0.1
STILL = {"epochs": 1, "batch_size": 6, "shuffle": False, "verbose": 0}


def tagger(outputs=("tags",)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 2))
    hidden = keras.layers.Masking(0.0)(inputs)
    heads = {name: keras.layers.Dense(4, name=name)(hidden) for name in outputs}
    return keras.Model(inputs, heads if len(heads) > 1 else heads["tags"])


def mean(logits, weight):
    each = zlpr_core.zlpr(np.asarray(logits), HARD)
    return (each * np.broadcast_to(weight, (6, 3)))[REAL].sum() / REAL.sum()


def told(model, y, sample_weight=None):
    """By `fit` on arrays and on a data set, and by `evaluate`, which agree where nothing is learned."""
    data = tuple(part for part in (STEPS, y, sample_weight) if part is not None)
    losses = [
        model.fit(STEPS, y, sample_weight=sample_weight, **STILL).history["loss"][0],
        model.fit(tf.data.Dataset.from_tensor_slices(data).batch(6), **STILL | {"batch_size": None}).history["loss"][0],
        model.evaluate(STEPS, y, sample_weight=sample_weight, batch_size=6, verbose=0, return_dict=True)["loss"],
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
    return losses[0]


@pytest.mark.parametrize("weight", [None, EXAMPLE, STEP], ids=["none", "example", "step"])
@pytest.mark.parametrize(("loss", "targets"), [(ZLPRLoss, HARD), (SparseZLPRLoss, IDS)])
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "xla", "eager"])
def test_weights_and_a_mask(loss, targets, weight, options):
    model = tagger()
    model.compile(keras.optimizers.SGD(0.0), loss=loss(), **options)
    expected = mean(model(STEPS), 1.0 if weight is None else weight)
    np.testing.assert_allclose(told(model, targets, weight), expected, rtol=1e-5)


def test_weights_of_several_outputs_by_name():
    model = tagger(("tags", "topics"))
    model.compile(keras.optimizers.SGD(0.0), loss={"tags": ZLPRLoss(), "topics": SparseZLPRLoss()})
    logits = model(STEPS)
    weights = {"tags": STEP, "topics": EXAMPLE}
    expected = mean(logits["tags"], STEP) + mean(logits["topics"], EXAMPLE)
    np.testing.assert_allclose(told(model, {"tags": HARD, "topics": IDS}, weights), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bool", "int32", "float32"])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_the_alarms_stay_silent_while_a_model_is_fitted(kind, options):
    tf.debugging.enable_check_numerics()
    try:
        model = RDropZLPR(keras.Sequential([keras.layers.Dropout(0.2), keras.layers.Dense(4)]))
        for one in (model, keras.Sequential([keras.layers.Dense(4)])):
            one.compile("sgd", loss=ZLPRLoss(ignore_index=-1), jit_compile=False, **options)
            one.fit(STEPS[:, 0] * 30, HARD[:, 0].astype(kind), verbose=0)
        one.compile("sgd", loss=ZLPRLoss(), jit_compile=False, **options)
        one.fit(STEPS[:, 0] * 30, HARD[:, 0].astype(kind), verbose=0)
    finally:
        tf.debugging.disable_check_numerics()
