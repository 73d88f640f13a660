"""What only TensorFlow has: dynamic batches in a graph, XLA, Python containers, variables."""

import os
import subprocess
import sys
import traceback

import numpy as np
import pytest
import tensorflow as tf
from truth import DIVERGENCES

import zlpr_core
import zlpr_tf
from zlpr_tf import (
    ZLPRLoss,
    kl_divergence,
    multi_hot,
    rdrop_zlpr_loss,
    sparse_zlpr_loss,
    zlpr_divergence,
    zlpr_loss,
    zlpr_terms,
)

RNG = np.random.default_rng(0)
LOGITS, SOFT = RNG.normal(0, 3, (6, 5)), RNG.random((6, 5))
HARD = RNG.random((6, 5)) < 0.4


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", [tf.bool, tf.int32, tf.float64])
def test_one_graph_serves_every_batch(jit, kind):
    spec = [tf.TensorSpec([None, 5], kind), tf.TensorSpec([None, 5], tf.float64)]
    compiled = tf.function(zlpr_loss, input_signature=spec, jit_compile=jit)
    for rows in (6, 3, 0):
        labels = tf.cast(HARD[:rows], kind)
        np.testing.assert_allclose(compiled(labels, LOGITS[:rows]), zlpr_loss(labels, LOGITS[:rows]), rtol=1e-14)
    assert compiled.experimental_get_tracing_count() == 1


def test_autograph_rewrites_only_the_code_of_the_user(monkeypatch):
    """Rewriting the package's takes seconds in the first trace of a process."""
    seen, sums = [], zlpr_tf._derivative.unshifted_sums

    def looked_at(*arguments, **options):
        seen.extend(frame.name for frame in traceback.extract_stack() if "autograph_generated" in frame.filename)
        return sums(*arguments, **options)

    monkeypatch.setattr(zlpr_tf._derivative, "unshifted_sums", looked_at)

    @tf.function
    def step(labels, logits):
        return zlpr_loss(labels, logits)

    step(HARD, LOGITS)
    assert seen == ["tf__step"]


FAR = LOGITS.copy()
FAR[4] *= 1e4
WIDE, WIDE_SOFT = RNG.normal(0, 3, (40, 1000)), RNG.random((40, 1000))
WIDE[7] *= 1e4
EITHER_WAY = {
    "hard": (HARD, LOGITS),
    "hard, far": (HARD, FAR),
    "soft": (SOFT, LOGITS),
    "soft, far": (SOFT, FAR),
    "hard, far, many": (WIDE_SOFT < 0.1, WIDE),
    "soft, far, many": (WIDE_SOFT, WIDE),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("rows", ["known", None])
@pytest.mark.parametrize(("labels", "logits"), EITHER_WAY.values(), ids=EITHER_WAY)
def test_one_row_that_is_far_out_leaves_the_others_alone(labels, logits, rows, jit):
    """It makes all of them be computed again, where the sums are taken without a shift at first."""
    shape = [rows and len(logits), logits.shape[1]]

    @tf.function(
        jit_compile=jit, input_signature=[tf.TensorSpec(shape, labels.dtype), tf.TensorSpec(shape, tf.float64)]
    )
    def both(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = zlpr_loss(labels, logits)
        return losses, tape.gradient(losses, logits)

    losses, slopes = both(labels, logits)
    np.testing.assert_allclose(losses, zlpr_core.zlpr(logits, labels), rtol=1e-13)
    cancelled = 0 if labels.dtype == bool else 1e-15  # a soft label's slope is the difference of two
    np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(logits, labels), rtol=1e-12, atol=cancelled)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_second_order_where_the_upstream_gradient_depends_on_the_logits(labels, jit):
    """As that of a squared loss does. In a graph TensorFlow would count its derivative twice."""
    logits = tf.constant(LOGITS)

    def product():
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                squared = zlpr_loss(labels, logits) ** 2
            total = tf.reduce_sum(inner.gradient(squared, logits) ** 2)
        return outer.gradient(total, logits)

    np.testing.assert_allclose(tf.function(product, jit_compile=jit)(), product(), rtol=1e-10)


THRESHOLDS = {"number": 0.5, "each": np.asarray([[0.3, -0.2, 1.0, 0.0, 2.0]]), "all": [0.5]}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("logits", [LOGITS, FAR], ids=["near", "far"])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_halves_and_thresholds_in_both_orders(threshold, labels, logits, jit):
    """By the rule in a graph as by the core's formula, which eager calls differentiate."""
    at = [tf.constant(logits), *([] if isinstance(threshold, float) else [tf.constant(threshold, tf.float64)])]

    def both_orders():
        with tf.GradientTape() as outer:
            outer.watch(at)
            with tf.GradientTape() as inner:
                inner.watch(at)
                positive, negative = zlpr_terms(labels, at[0], threshold=threshold if len(at) == 1 else at[1])
                total = tf.reduce_sum(positive + 2 * negative)
            slopes = inner.gradient(total, at)
            mixed = sum(tf.reduce_sum(tf.sin(slope)) for slope in slopes)
        return positive, negative, *slopes, *outer.gradient(mixed, at)

    for got, true in zip(tf.function(both_orders, jit_compile=jit)(), both_orders(), strict=True):
        np.testing.assert_allclose(got, true, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("computed", ["labels", "logits"])
def test_labels_and_logits_of_which_one_is_computed_of_the_other(computed, jit):
    start = tf.constant(SOFT)

    def slopes():
        with tf.GradientTape() as tape:
            tape.watch(start)
            pair = (tf.sigmoid(start), start) if computed == "labels" else (start, 3 * start)
            losses = zlpr_loss(*pair)
        return tape.gradient(losses, start)

    np.testing.assert_allclose(tf.function(slopes, jit_compile=jit)(), slopes(), rtol=1e-10)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("logits", [LOGITS, FAR], ids=["near", "far"])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_derivatives_of_a_vectorized_map(labels, logits, jit):
    """From outside of it, where TensorFlow forgets the derivatives that it was told, and from inside."""

    def losses_of(labels, logits):
        return tf.vectorized_map(lambda pair: zlpr_loss(*pair), (labels, logits))

    def from_outside(*pair):
        with tf.GradientTape() as tape:
            tape.watch(pair)
            losses = losses_of(*pair)
        return tape.gradient(losses, pair, unconnected_gradients="zero")

    def from_inside(*pair):
        def slopes_of(pair):
            with tf.GradientTape() as tape:
                tape.watch(pair)
                loss = zlpr_loss(*pair)
            return tape.gradient(loss, pair, unconnected_gradients="zero")

        return tf.vectorized_map(slopes_of, pair)

    pair = tf.constant(labels), tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(pair)
        plain = zlpr_loss(*pair)  # eagerly, TensorFlow's own derivative
    expected = tape.gradient(plain, pair, unconnected_gradients="zero")
    for transformed in (from_outside, from_inside):
        slopes = tf.function(transformed, jit_compile=jit)(*pair)
        np.testing.assert_allclose(slopes[1], expected[1], rtol=1e-12, atol=1e-15)
        if labels is SOFT:
            np.testing.assert_allclose(slopes[0], expected[0], rtol=1e-12, atol=1e-15)


def test_unknown_number_of_classes():
    compiled = tf.function(
        zlpr_loss, input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.float64)]
    )
    for classes in (5, 2):
        labels = tf.cast(HARD[:, :classes], tf.int32)
        np.testing.assert_allclose(
            compiled(labels, LOGITS[:, :classes]), zlpr_loss(labels, LOGITS[:, :classes]), rtol=1e-14
        )


def test_shapes_that_differ_are_caught_while_tracing():
    with pytest.raises(ValueError, match=r"must have the same shape. Received: \(6, 5\) and \(6, 4\)"):
        tf.function(zlpr_loss)(HARD[:, :4], LOGITS)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(2, 1), (1, 3)])
def test_unknown_shapes_are_not_broadcast_either(jit, shape):
    signature = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, 3], tf.float32)]
    compiled = tf.function(zlpr_loss, input_signature=signature, jit_compile=jit)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        compiled(tf.zeros(shape), tf.zeros((2, 3)))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(1, 5), (6, 1)])
def test_unknown_shapes_of_divergences_are_not_broadcast(jit, shape):
    signature = [tf.TensorSpec([None, None], tf.float64)] * 2
    functions = [kl_divergence, zlpr_divergence, lambda p, q: rdrop_zlpr_loss(tf.zeros_like(p), p, q)]
    for function in functions:
        compiled = tf.function(function, input_signature=signature, jit_compile=jit)
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            compiled(LOGITS, tf.zeros(shape, tf.float64))


def test_divergences_by_name():
    np.testing.assert_array_equal(kl_divergence(p_logits=LOGITS, q_logits=SOFT), kl_divergence(LOGITS, SOFT))


def test_what_tensorflow_takes_is_taken():
    """NumPy arrays, lists, variables, and options as lists."""
    variable = tf.Variable(LOGITS)
    listed = zlpr_loss(HARD.tolist(), variable, where=HARD.tolist(), weight=[0.1, 2, 3, 4, 5], threshold=[[0.3]])
    arrays = zlpr_loss(HARD, LOGITS, where=HARD, weight=np.asarray([0.1, 2, 3, 4, 5]), threshold=np.asarray(0.3))
    np.testing.assert_array_equal(listed, arrays)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(zlpr_loss(HARD, variable))
    assert tape.gradient(loss, variable).shape == (6, 5)


def test_gradient_tape_jacobian_and_persistent_use():
    x = tf.constant(LOGITS)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        losses = zlpr_loss(HARD, x)
    first, second = tape.gradient(losses, x), tape.gradient(losses, x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(tf.reduce_sum(tape.jacobian(losses, x), 1), first, rtol=1e-13)


def test_vectorized_map():
    each = tf.vectorized_map(lambda pair: zlpr_loss(*pair), (tf.constant(HARD), tf.constant(LOGITS)))
    np.testing.assert_allclose(each, zlpr_loss(HARD, LOGITS), rtol=1e-14)


@pytest.mark.parametrize("jit", [False, True])
def test_multi_hot_in_a_graph_leaves_out_bad_ids(jit):
    hot = tf.function(lambda ids: multi_hot(ids, 3), jit_compile=jit)(tf.constant([[0, 7], [2, -1]]))
    np.testing.assert_array_equal(hot, [[True, False, False], [False, False, True]])


@pytest.mark.parametrize("jit", [False, True])
def test_a_model_trains_in_half_precision(jit):
    """float16 variables and gradients, the loss in float32."""
    x = tf.constant(RNG.normal(size=(64, 4)), tf.float16)
    labels, weights = x[:, :3] > 0, tf.Variable(tf.zeros((4, 3), tf.float16))

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(zlpr_loss(labels, x @ weights))
        gradient = tape.gradient(loss, weights)
        weights.assign_sub(tf.cast(gradient, tf.float16))
        return loss, gradient

    losses = [step()[0] for _ in range(40)]
    assert losses[0].dtype == tf.float32
    assert losses[-1] < 0.4 * losses[0]
    assert step()[1].dtype == tf.float16


IDS = np.where(HARD, np.arange(5), -1)
RAGGED = tf.ragged.constant([[c for c in row if c >= 0] for row in IDS.tolist()], dtype=tf.int64)


def multi_hot_sparse(dtype):
    return tf.sparse.from_dense(tf.cast(HARD, dtype))


@pytest.mark.parametrize(
    "indices",
    [RAGGED, tf.cast(RAGGED, tf.uint8), multi_hot_sparse(tf.float32), multi_hot_sparse(tf.int64)],
    ids=["ragged", "small ragged", "float", "int"],
)
@pytest.mark.parametrize("traced", [False, True])
def test_ragged_and_sparse_tensors(indices, traced):
    loss = tf.function(sparse_zlpr_loss) if traced else sparse_zlpr_loss
    np.testing.assert_allclose(loss(indices, LOGITS), zlpr_loss(HARD, LOGITS), rtol=1e-14)


@pytest.mark.parametrize("jit", [False, True])
def test_ids_of_unknown_shape(jit):
    spec = [tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None, None], tf.float64)]
    compiled = tf.function(sparse_zlpr_loss, input_signature=spec, jit_compile=jit)
    for rows in (6, 3):
        np.testing.assert_allclose(
            compiled(IDS[:rows], LOGITS[:rows]), zlpr_loss(HARD[:rows], LOGITS[:rows]), rtol=1e-14
        )
    spans = tf.function(
        lambda ids, logits: sparse_zlpr_loss(ids, logits, axis=(-2, -1)),
        input_signature=[tf.TensorSpec([None, 2, None], tf.int32), tf.TensorSpec([None, 2, None, None], tf.float64)],
        jit_compile=jit,
    )
    logits = RNG.normal(size=(3, 2, 4, 4))
    ids = RNG.integers(-1, 16, (3, 2, 5)).astype("int32")
    np.testing.assert_allclose(spans(ids, logits), sparse_zlpr_loss(ids, logits.reshape(3, 2, 16)), rtol=1e-13)


def test_a_sparse_tensor_that_is_not_multi_hot():
    soft = tf.sparse.from_dense([[1.0, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0]])
    assert np.isnan(sparse_zlpr_loss(soft, LOGITS[:2])).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"`indices` as a sparse matrix must have the shape of `logits`"):
        sparse_zlpr_loss(tf.sparse.from_dense([[3, 1]]), LOGITS[:1])


WITHOUT = """
import importlib, itertools, sys
from functools import partial
real = importlib.import_module

def without_private_names(name, *args, **more):
    if sys._getframe(1).f_globals["__name__"].startswith("zlpr_tf") and name.startswith("tensorflow.python"):
        raise ImportError(name)
    return real(name, *args, **more)

importlib.import_module = without_private_names
import numpy as np, tensorflow as tf, zlpr_core
from zlpr_tf import linear_zlpr_loss, zlpr_loss, _tensorflow_internals as internals
assert internals._GRAPH_IS_FOR_XLA is internals._POSSIBLE_GRADIENTS is internals._IS_ON_TAPE is None
rng = np.random.default_rng(0)
logits, hard, soft = rng.normal(0, 3, (4, 3)), rng.random((4, 3)) < 0.5, rng.random((4, 3))

def by_layer(labels, s):
    return linear_zlpr_loss(labels, s, np.eye(3), chunk=2)

def up_to_second_order(loss, logits, labels):
    s = tf.convert_to_tensor(logits)
    with tf.GradientTape() as outer:
        outer.watch(s)
        with tf.GradientTape() as inner:
            inner.watch(s)
            losses = loss(labels, s)
        slopes = inner.gradient(losses, s)
        squares = slopes**2
    return losses, slopes, outer.gradient(squares, s)

for loss, labels in itertools.product((zlpr_loss, by_layer), (hard, soft)):
    plain = up_to_second_order(loss, logits, labels)
    np.testing.assert_allclose(plain[0], zlpr_core.zlpr(logits, labels), rtol=1e-12)
    np.testing.assert_allclose(plain[1], zlpr_core.zlpr_grad(logits, labels), rtol=1e-12)
    step = partial(up_to_second_order, loss)
    for xla in (False, True):
        for got, expected in zip(tf.function(step, jit_compile=xla)(logits, labels), plain):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-15)
"""


def test_without_the_private_names_of_tensorflow():
    """The import works, and values, gradients and second order are right."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("labels", "kind"), [(multi_hot_sparse(tf.float32), "SparseTensor"), (RAGGED, "RaggedTensor")], ids=str
)
def test_sparse_and_ragged_labels_are_sent_to_the_other_loss(labels, kind):
    sentence = f"`labels` must be dense. Received: a sparse {kind}; pass it to `sparse_zlpr_loss`, or make it dense."
    for call in (zlpr_loss, ZLPRLoss(), ZLPRLoss(ignore_index=-1)):
        with pytest.raises(TypeError, match=sentence):
            call(labels, LOGITS)


@pytest.mark.parametrize("count", [10_000, 9973])  # a prime does not divide into parts that are added up first
def test_ten_thousand_equal_cells_under_xla(count):
    """XLA adds one by one, and then rounding errors all point the same way."""
    p, q = (np.full((4, count), x, np.float32) for x in (-7.3, -6.1))
    true, _ = DIVERGENCES["kl_divergence"]
    got = tf.function(kl_divergence, jit_compile=True)(p, q)
    np.testing.assert_allclose(got, count * float(true([float(p[0, 0])], [float(q[0, 0])])), rtol=5e-7)
