"""Every public function of the Keras package, on any backend of Keras: what it takes, and that it traces."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
import zlpr_tf

RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(0, 3, (2, 4, 3)).astype("float32")
KERNEL = RNG.normal(0, 1, (3, 3)).astype("float32")
SOFT = RNG.random((4, 3)).astype("float32")
HARD, IDS, SPANS = SOFT > 0.5, np.array([[0, 2], [1, -1], [2, 2], [-1, -1]]), np.array([0, 5, 8, -1])
CALLS = {  # arrays in the order of the core
    "index_to_span": ([SPANS], {"length": 3}),
    "kl_divergence": ([LOGITS, OTHER], {"where": HARD[0], "scale": 2.0}),
    "linear_zlpr_loss": ([LOGITS, HARD], {"kernel": KERNEL, "bias": [0.1, 0.2, 0.3], "chunk": 2}),
    "multi_hot": ([IDS], {"num_classes": 3}),
    "predict": ([LOGITS], {"threshold": [0.1, 0.2, 0.3], "at_least_one": True}),
    "probabilities": ([LOGITS], {"scale": 1.0}),
    "rdrop_zlpr_loss": ([LOGITS, OTHER, HARD], {"weight": [1.0, 2.0, 3.0]}),
    "smooth_labels": ([HARD], {"epsilon": 0.1}),
    "span_to_index": ([SPANS % 3, SPANS // 3], {"length": 3}),
    "sparse_linear_zlpr_loss": ([LOGITS, IDS], {"kernel": KERNEL, "chunk": 2}),
    "sparse_zlpr_loss": ([LOGITS, IDS], {"pos_weight": np.float32(2)}),
    "symmetric_kl_divergence": ([LOGITS, OTHER], {"axis": (0, 1)}),
    "zlpr_divergence": ([LOGITS, OTHER], {"where": HARD[:1].tolist()}),
    "zlpr_entropy": ([SOFT], {"where": HARD[1]}),
    "zlpr_loss": ([LOGITS, SOFT], {"threshold": np.float64(0.5), "label_smoothing": None, "ignore_index": None}),
    "zlpr_terms": ([LOGITS, SOFT], {"threshold": None, "where": HARD[:1]}),
}
LABELS_FIRST = tuple(name for name in CALLS if name.endswith("zlpr_loss") or name == "zlpr_terms")
every_name = pytest.mark.parametrize("name", CALLS)


def reference(name):
    arrays, options = CALLS[name]
    function = getattr(zlpr_core, name.replace("linear_", "").replace("zlpr_loss", "zlpr"))
    if "kernel" in options:  # by the loss of the logits
        arrays = [arrays[0] @ options["kernel"] + options.get("bias", 0.0), *arrays[1:]]
    others = ("label_smoothing", "ignore_index", "kernel", "bias", "chunk")
    options = {k: v for k, v in options.items() if k not in others}
    positional = [options.pop(k) for k in ("length", "num_classes", "epsilon") if k in options]
    return function(*arrays, *positional, **options)


def call(name, arrays):
    ordered = [arrays[-1], *arrays[:-1]] if name in LABELS_FIRST else arrays
    return getattr(zlpr_tf, name)(*ordered, **CALLS[name][1])


def check(got, expected):
    got, expected = (x if isinstance(x, tuple) else (x,) for x in (got, expected))
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(g), e, rtol=1e-6)


def test_every_public_name_is_the_package_s_own():
    classes = {name for name in zlpr_tf.__all__ if inspect.isclass(getattr(zlpr_tf, name))}
    assert set(CALLS) | {"check_targets"} | classes == set(zlpr_tf.__all__)
    for name in zlpr_tf.__all__:
        function = getattr(zlpr_tf, name)
        assert function.__module__.startswith("zlpr_tf.")
        assert "xp" not in inspect.signature(function).parameters
        assert ">>>" in function.__doc__


@every_name
@pytest.mark.parametrize(
    "convert", [ops.convert_to_tensor, np.asarray, np.ndarray.tolist], ids=["tensor", "np", "list"]
)
def test_lists_arrays_and_tensors_are_taken(name, convert):
    got = call(name, [convert(a) for a in CALLS[name][0]])
    check(got, reference(name))
    assert all(ops.is_tensor(x) for x in (got if isinstance(got, tuple) else (got,)))


def _by_tf_function(call, arrays):
    import tensorflow as tf

    return tf.function(call)(*map(tf.constant, arrays))


def _by_xla(call, arrays):
    import tensorflow as tf

    return tf.function(call, jit_compile=True)(*map(tf.constant, arrays))


def _by_jit(call, arrays):
    import jax

    return jax.jit(call)(*arrays)


def _by_fake_tensors(call, arrays):
    """Those have no values, so that a look at one raises; the values are of the same call without them."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        call(*map(ops.convert_to_tensor, arrays))
    return call(*map(ops.convert_to_tensor, arrays))


TRACERS = {"tensorflow": [_by_tf_function, _by_xla], "jax": [_by_jit], "torch": [_by_fake_tensors]}


@every_name
@pytest.mark.parametrize("trace", TRACERS[keras.backend.backend()])
def test_every_name_traces(name, trace):
    check(trace(lambda *a: call(name, a), CALLS[name][0]), reference(name))


@every_name
def test_every_name_is_a_step_of_a_functional_model(name, tmp_path):
    """Over symbolic tensors of unknown length; `keras.losses.binary_crossentropy` builds, runs and saves in the same."""
    arrays = [a if a.ndim > 1 else a[:, None] for a in CALLS[name][0]]
    inputs = [keras.Input(a.shape[1:], dtype=keras.backend.standardize_dtype(a.dtype)) for a in arrays]
    model = keras.Model(inputs, call(name, inputs))
    expected = call(name, arrays)
    for output, e in zip(model.outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert output.dtype == keras.backend.standardize_dtype(e.dtype)
        assert len(output.shape) == len(e.shape)
    model.save(tmp_path / "model.keras")
    for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
        got = one([ops.convert_to_tensor(a) for a in arrays])
        for g, e in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(g), ops.convert_to_numpy(e), rtol=1e-6)


def test_check_targets_takes_lists():
    zlpr_tf.check_targets([[0, 1], [1, -100]], ignore_index=-100)
    with pytest.raises(ValueError, match=r"Received: 7.0 at \[1, 1\]"):
        zlpr_tf.check_targets([[0.0, 1.0], [0.5, 7.0]])


def test_helpers_name_what_is_wrong():
    with pytest.raises(TypeError, match="`logits` must have a real floating dtype"):
        zlpr_tf.predict([[1, 2]])
    with pytest.raises(TypeError, match="`threshold` must be a real array"):
        zlpr_tf.predict(LOGITS, threshold="high")
    with pytest.raises(ValueError, match="`where` must broadcast to the shape of `logits`"):
        zlpr_tf.kl_divergence(LOGITS, OTHER, where=[True, False])


def test_lists_keep_the_digits_of_float64():
    logits = LOGITS.astype("float64")
    as_list = zlpr_tf.zlpr_loss(HARD, ops.convert_to_tensor(logits), threshold=[0.1, 0.2, 0.3])
    expected = zlpr_core.zlpr(logits, HARD, threshold=np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(ops.convert_to_numpy(as_list), expected, rtol=1e-14)


def test_the_losses_take_none_and_numpy_for_every_option():
    options = {"weight": np.float32(2), "pos_weight": [1, 2, 3], "threshold": None, "label_smoothing": None}
    loss = zlpr_tf.ZLPRLoss(**options, ignore_index=None)
    same = zlpr_tf.ZLPRLoss.from_config(loss.get_config())
    expected = zlpr_core.zlpr(LOGITS, HARD, weight=2.0, pos_weight=np.array([1.0, 2.0, 3.0], "float32")).mean()
    for one in (loss, same):
        np.testing.assert_allclose(float(one(HARD, LOGITS)), expected, rtol=1e-6)
