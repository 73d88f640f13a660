"""Every public function of the Keras package, on any backend of Keras: what it takes, and that it traces."""

import inspect
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
import zlpr_tf

RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(0, 3, (2, 4, 3)).astype("float32")
SOFT = RNG.random((4, 3)).astype("float32")
HARD, IDS, SPANS = SOFT > 0.5, np.array([[0, 2], [1, -1], [2, 2], [-1, -1]]), np.array([0, 5, 8, -1])
CALLS = {  # arrays in the order of the core
    "index_to_span": ([SPANS], {"length": 3}),
    "kl_divergence": ([LOGITS, OTHER], {"where": HARD, "scale": 2.0}),
    "multi_hot": ([IDS], {"num_classes": 3}),
    "predict": ([LOGITS], {"threshold": [0.1, 0.2, 0.3], "at_least_one": True}),
    "probabilities": ([LOGITS], {"scale": 1.0}),
    "rdrop_zlpr_loss": ([LOGITS, OTHER, HARD], {"weight": [1.0, 2.0, 3.0]}),
    "smooth_labels": ([HARD], {"epsilon": 0.1}),
    "span_to_index": ([SPANS % 3, SPANS // 3], {"length": 3}),
    "sparse_zlpr_loss": ([LOGITS, IDS], {"pos_weight": np.float32(2)}),
    "symmetric_kl_divergence": ([LOGITS, OTHER], {"axis": (0, 1)}),
    "zlpr_divergence": ([LOGITS, OTHER], {"where": HARD.tolist()}),
    "zlpr_entropy": ([SOFT], {"where": HARD}),
    "zlpr_loss": ([LOGITS, SOFT], {"threshold": np.float64(0.5), "label_smoothing": None, "ignore_index": None}),
    "zlpr_terms": ([LOGITS, SOFT], {"threshold": None, "where": HARD}),
}
LABELS_FIRST = ("rdrop_zlpr_loss", "sparse_zlpr_loss", "zlpr_loss", "zlpr_terms")
every_name = pytest.mark.parametrize("name", CALLS)


def reference(name):
    arrays, options = CALLS[name]
    function = getattr(zlpr_core, name.replace("zlpr_loss", "zlpr"))
    options = {k: v for k, v in options.items() if k not in ("label_smoothing", "ignore_index")}
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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.function")
@every_name
@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_name_traces_in_tensorflow(name, jit_compile):
    import tensorflow as tf

    got = tf.function(lambda *a: call(name, a), jit_compile=jit_compile)(*map(tf.constant, CALLS[name][0]))
    check(got, reference(name))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.jit")
@every_name
def test_every_name_traces_in_jax(name):
    import jax

    check(jax.jit(lambda *a: call(name, a))(*CALLS[name][0]), reference(name))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch")
@every_name
def test_every_name_runs_under_fake_tensors(name):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        call(name, [ops.convert_to_tensor(a) for a in CALLS[name][0]])


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


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="float64 is off")
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


WITHOUT = """
import builtins, sys
real = builtins.__import__

def without_private_names(name, globals=None, *args, **kwargs):
    if (globals or {}).get("__name__", "").startswith("zlpr_tf") and name.startswith("tensorflow.python"):
        raise ImportError(name)
    return real(name, globals, *args, **kwargs)

builtins.__import__ = without_private_names
import numpy as np, tensorflow as tf, zlpr_core
from zlpr_tf import zlpr_loss, _tensorflow_internals
assert _tensorflow_internals._GRAPH_IS_FOR_XLA is None
rng = np.random.default_rng(0)
logits, hard, soft = rng.normal(0, 3, (4, 3)), rng.random((4, 3)) < 0.5, rng.random((4, 3))

def up_to_second_order(logits, labels):
    s = tf.convert_to_tensor(logits)
    with tf.GradientTape() as outer:
        outer.watch(s)
        with tf.GradientTape() as inner:
            inner.watch(s)
            losses = zlpr_loss(labels, s)
        slopes = inner.gradient(losses, s)
        squares = slopes**2
    return losses, slopes, outer.gradient(squares, s)

for labels in (hard, soft):
    plain = up_to_second_order(logits, labels)
    np.testing.assert_allclose(plain[0], zlpr_core.zlpr(logits, labels), rtol=1e-12)
    np.testing.assert_allclose(plain[1], zlpr_core.zlpr_grad(logits, labels), rtol=1e-12)
    for xla in (False, True):
        for got, expected in zip(tf.function(up_to_second_order, jit_compile=xla)(logits, labels), plain):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-15)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's private names")
def test_without_the_private_names_of_tensorflow():
    """The import works, and values, gradients and second order are right."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
