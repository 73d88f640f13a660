"""What the classes take for an option, how they refuse what they cannot take, and that Keras writes and reads them."""

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_tf
from zlpr_tf import RDropZLPR, SparseZLPRLoss, ZLPRLoss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 5)).astype("float32")
HARD = (RNG.random((6, 5)) < 0.4).astype("int64")
IDS = np.where(HARD, np.arange(5), -1)
NONE = dict.fromkeys(("axis", "weight", "pos_weight", "threshold", "label_smoothing"))
GIVEN = {
    "axis": np.int64(-1),
    "weight": np.float32(2),
    "pos_weight": [1, 2, 3, 4, 5],
    "threshold": np.asarray([[0.5]]),
    "label_smoothing": np.float64(0.1),
}
PLAIN = {
    "axis": -1,
    "weight": 2.0,
    "pos_weight": [1.0, 2.0, 3.0, 4.0, 5.0],
    "threshold": [[0.5]],
    "label_smoothing": 0.1,
}
KINDS = {ZLPRLoss: (HARD, {"ignore_index": np.int8(-1)}), SparseZLPRLoss: (IDS, {"pad": np.int16(-1)})}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_none_is_the_default_of_every_option(kind):
    targets, own = KINDS[kind]
    loss = kind(**NONE, **dict.fromkeys(own))
    for one in (loss, kind.from_config(loss.get_config())):
        assert float(one(targets, LOGITS)) == float(kind()(targets, LOGITS))
    assert RDropZLPR(keras.layers.Dense(3), alpha=None, scale=None).get_config()["alpha"] == 4.0


@every_kind
def test_numbers_of_numpy_lists_and_arrays(kind):
    targets, own = KINDS[kind]
    loss, plain = kind(**GIVEN, **own), kind(**PLAIN, **dict.fromkeys(own, -1))
    assert loss.get_config() == plain.get_config()
    assert float(loss(targets, LOGITS)) == float(plain(targets, LOGITS))
    model = RDropZLPR(keras.layers.Dense(3), alpha=np.float32(2), scale=np.int64(1))
    assert (model.get_config()["alpha"], model.get_config()["scale"]) == (2.0, 1.0)


@every_kind
def test_options_assigned_later_are_read_and_checked(kind):
    targets, _ = KINDS[kind]
    loss = kind()
    for name, value in GIVEN.items():
        setattr(loss, name, value)
    assert float(loss(targets, LOGITS)) == float(kind(**PLAIN)(targets, LOGITS))
    for name, value in {"axis": "C", "weight": -1.0, "label_smoothing": 2.0}.items():
        with pytest.raises((TypeError, ValueError), match=f"`{name}` must be"):
            setattr(loss, name, value)


REFUSED = {
    "axis": ("C", TypeError, "`axis` must be an int or a tuple of ints. Received: 'C'"),
    "threshold": ("high", TypeError, "`threshold` must be a number or nested lists of numbers. Received: 'high'"),
    "weight": ([[1.0], [2.0, 3.0]], TypeError, "`weight` must be a number or nested lists of numbers"),
    "pos_weight": (np.inf, ValueError, "`pos_weight` must be non-negative and finite. Received: inf"),
    "label_smoothing": ([0.1], TypeError, r"`label_smoothing` must be one number. Received: \[0.1\]"),
    "ignore_index": ([-1, -2], TypeError, r"`ignore_index` must be one number. Received: \[-1, -2\]"),
    "pad": (-1.5, TypeError, r"`pad` must be a whole number. Received: -1.5"),
    "reduction": ("avg", ValueError, "Invalid value for argument `reduction`"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_taken_is_refused_at_construction(option):
    value, error, message = REFUSED[option]
    for kind in [SparseZLPRLoss] if option == "pad" else [ZLPRLoss]:
        with pytest.raises(error, match=message):
            kind(**{option: value})


@every_kind
def test_keras_writes_and_reads_the_classes(kind):
    """By every way that it has: as a loss, as an object, as a dictionary."""
    targets, own = KINDS[kind]
    loss = kind(**GIVEN, **own, reduction="sum", name="mine", dtype="float64")
    ways = [
        keras.losses.deserialize(keras.losses.serialize(loss)),
        keras.losses.get(keras.losses.serialize(loss)),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)),
        kind.from_config(loss.get_config()),
    ]
    for again in ways:
        assert type(again) is kind
        assert again.get_config() == loss.get_config()
        assert float(again(targets, LOGITS)) == float(loss(targets, LOGITS))


@pytest.mark.parametrize("name", ["zlpr_loss", "sparse_zlpr_loss", "kl_divergence", "zlpr_divergence"])
def test_keras_writes_and_reads_the_functions(name):
    function = getattr(zlpr_tf, name)
    assert keras.losses.deserialize(keras.losses.serialize(function)) is function
    assert keras.losses.get(function) is function


def test_a_functional_model_over_the_class():
    """As over Keras's own."""
    labels, logits = keras.Input((5,), dtype="int64"), keras.Input((5,))
    for kind, (targets, _) in KINDS.items():
        model = keras.Model([labels, logits], kind(reduction=None)(labels, logits))
        got = model([ops.convert_to_tensor(targets), ops.convert_to_tensor(LOGITS)])
        expected = zlpr_tf.zlpr_loss(HARD, LOGITS)
        np.testing.assert_allclose(ops.convert_to_numpy(got), ops.convert_to_numpy(expected), rtol=1e-6)


def test_an_illegal_target_leaves_nan_in_the_whole_row():
    """Whatever way Keras differentiates: nothing trains on half of an example."""
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(5, use_bias=False)])
    model.compile(keras.optimizers.SGD(1.0), loss=ZLPRLoss())
    model.fit(np.ones((1, 4), "float32"), np.asarray([[1, 0, 2, 1, 0]]), verbose=0)
    assert np.isnan(ops.convert_to_numpy(model.layers[0].kernel)).all()
