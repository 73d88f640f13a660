"""A linear layer and its loss in chunks on TensorFlow: the dense loss of the logits in every mode and derivative."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zlpr_tf import linear_zlpr_loss, sparse_linear_zlpr_loss, sparse_zlpr_loss, zlpr_loss
from zlpr_tf._linear_graph import Cut

RNG = np.random.default_rng(16)
ROWS, FEATURES, CLASSES = 6, 4, 23
ARRAYS = [tf.constant(RNG.normal(size=shape)) for shape in ((ROWS, FEATURES), (FEATURES, CLASSES), (CLASSES,))]
HARD, SOFT = RNG.random((ROWS, CLASSES)) < 0.2, RNG.random((ROWS, CLASSES))
HARD[0], HARD[1] = False, True
IDS = np.full((ROWS, CLASSES + 2), -1)
for slots, row in zip(IDS, HARD, strict=True):
    slots[: row.sum()] = np.flatnonzero(row)
UPSTREAM = tf.range(1.0, ROWS + 1, dtype=tf.float64)
MODES = {
    "eager": lambda f: f,
    "function": tf.function,
    "xla": lambda f: tf.function(f, jit_compile=True),
}
every_mode = pytest.mark.parametrize("compiled", MODES.values(), ids=MODES)
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def chunked(labels, chunk=5, **options):
    return lambda x, k, b: linear_zlpr_loss(labels, x, k, bias=b, chunk=chunk, **options)


def dense(labels, **options):
    return lambda x, k, b: zlpr_loss(labels, x @ k + b, **options)


def gradients(function, arrays):
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        total = tf.reduce_sum(function(*arrays) * UPSTREAM)
    return tape.gradient(total, arrays)


def close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, **(TIGHT | tolerance))


@every_mode
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_values_and_gradients(labels, compiled):
    for chunk in (1, 5, 22, CLASSES):
        function = compiled(chunked(labels, chunk))
        close([function(*ARRAYS)], [dense(labels)(*ARRAYS)])
        close(gradients(function, ARRAYS), gradients(dense(labels), ARRAYS))


@every_mode
@pytest.mark.parametrize("name", ["weight", "pos_weight", "threshold", "labels"])
def test_gradients_in_options_and_labels(name, compiled):
    """Never silently none: by all logits."""
    start = tf.constant(SOFT if name == "labels" else RNG.uniform(0.5, 1, CLASSES))

    def total(function, **options):
        given = {"labels": HARD} | options
        return function(given.pop("labels"), **given)(*ARRAYS)

    found, expected = (gradients(compiled(lambda o, f=f: total(f, **{name: o})), [start])[0] for f in (chunked, dense))
    close([found], [expected])


@every_mode
def test_second_order(compiled):
    """Of squared losses, whose upstream gradient depends on what they are of."""

    def products(function):
        def slopes(*arrays):
            return sum(tf.reduce_sum(slope**2) for slope in gradients(lambda *a: function(*a) ** 2, arrays))

        with tf.GradientTape() as tape:
            tape.watch(ARRAYS)
            total = compiled(slopes)(*ARRAYS)
        return tape.gradient(total, ARRAYS)

    close(products(chunked(SOFT)), products(dense(SOFT)))


@every_mode
def test_labels_that_are_computed_of_the_inputs(compiled):
    def own(function):
        return lambda x, k, b: function(tf.sigmoid(tf.stop_gradient(k)[:1] + x[:, :1]))(x, k, b)

    close(gradients(compiled(own(chunked)), ARRAYS), gradients(own(dense), ARRAYS))


@pytest.mark.parametrize("compiled", [MODES["eager"], MODES["function"]], ids=["eager", "function"])
def test_forward_mode(compiled):
    tangents = [tf.constant(RNG.normal(size=x.shape)) for x in ARRAYS]

    def product(function):
        with tf.autodiff.ForwardAccumulator(ARRAYS, tangents) as accumulator:
            values = function(*ARRAYS)
        return accumulator.jvp(values)

    close([compiled(product)(chunked(HARD))], [product(dense(HARD))])


def test_forward_mode_in_the_labels():
    labels, tangent = tf.constant(SOFT), tf.constant(RNG.normal(size=SOFT.shape))

    def product(function):
        with tf.autodiff.ForwardAccumulator(labels, tangent) as accumulator:
            values = function(labels)(*ARRAYS)
        return accumulator.jvp(values)

    close([product(chunked)], [product(dense)])


def test_features_that_are_unknown_while_tracing():
    """The kernel knows them. An unknown number of classes is named: it could not be cut into chunks."""
    _, kernel, bias = ARRAYS
    unknown = tf.TensorSpec((None, None), tf.float64)

    @tf.function(input_signature=[unknown])
    def features(x):
        return linear_zlpr_loss(HARD, x, kernel, bias=bias, chunk=5)

    @tf.function(input_signature=[unknown])
    def classes(kernel):
        return linear_zlpr_loss(HARD, ARRAYS[0], kernel, bias=bias, chunk=5)

    close([features(ARRAYS[0])], [dense(HARD)(*ARRAYS)])
    with pytest.raises(ValueError, match=r"`kernel` must have the shape \(4, classes\).* Received: \(None, None\)"):
        classes(kernel)


@pytest.mark.parametrize("jit", [False, True])
def test_a_size_that_is_unknown_while_tracing(jit):
    specs = [tf.TensorSpec((None, FEATURES), tf.float64), tf.TensorSpec((None, CLASSES), tf.bool)]
    of_ids = [specs[0], tf.TensorSpec((None, None), tf.int64)]
    _, kernel, bias = ARRAYS

    @tf.function(input_signature=specs, jit_compile=jit)
    def both(x, labels):
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = linear_zlpr_loss(labels, x, kernel, bias=bias, chunk=5)
        return losses, tape.gradient(losses, x)

    @tf.function(input_signature=of_ids, jit_compile=jit)
    def by_ids(x, ids):
        return sparse_linear_zlpr_loss(ids, x, kernel, bias=bias, chunk=5)

    true = dense(HARD)(*ARRAYS)
    for rows in (ROWS, 2, 0):
        x = ARRAYS[0][:rows]
        losses, slope = both(x, HARD[:rows])
        close([losses, by_ids(x, IDS[:rows])], [true[:rows]] * 2)
        assert slope.shape == x.shape
    wrong = {"match": "Labels or ids must have one row for each of `inputs`" if not jit else "reshape"}
    for call, labels in ((both, HARD[:1]), (by_ids, IDS[:1])):  # one row is not broadcast to all
        with pytest.raises(tf.errors.InvalidArgumentError, **wrong):
            call(ARRAYS[0], labels)


@every_mode
def test_an_illegal_id(compiled):
    ids = IDS.copy()
    ids[3, 0] = CLASSES
    function = compiled(lambda x, k, b, ids: sparse_linear_zlpr_loss(ids, x, k, bias=b, chunk=5))
    if compiled is MODES["eager"]:
        with pytest.raises(
            IndexError, match=r"^`indices` must be in \[0, 23\) or `pad` \(-1\). Received: 23 at \[3, 0\]"
        ):
            function(*ARRAYS, tf.constant(ids))
        return
    losses = function(*ARRAYS, tf.constant(ids))
    assert np.isnan(losses).tolist() == [row == 3 for row in range(ROWS)]
    with tf.GradientTape() as tape:
        tape.watch(ARRAYS[0])
        losses = function(*ARRAYS, tf.constant(ids))
    slope = tape.gradient(losses, ARRAYS[0]).numpy()
    assert np.isnan(slope).all(1).tolist() == [row == 3 for row in range(ROWS)]


def test_ragged_ids():
    ragged = tf.ragged.constant([np.flatnonzero(row) for row in HARD], dtype=tf.int64)
    x, kernel, _ = ARRAYS
    close([sparse_linear_zlpr_loss(ragged, x, kernel, chunk=5)], [sparse_zlpr_loss(ragged, x @ kernel)])
    with pytest.raises(TypeError, match=r"^`labels` must be dense"):
        linear_zlpr_loss(ragged, x, kernel)
    with pytest.raises(TypeError, match=r"^`indices` must be dense"):
        sparse_linear_zlpr_loss(tf.sparse.from_dense(HARD), x, kernel)


def test_no_alarm():
    tf.debugging.enable_check_numerics()
    try:
        for compiled in (MODES["eager"], MODES["function"]):
            gradients(compiled(chunked(HARD)), ARRAYS)
    finally:
        tf.debugging.disable_check_numerics()


def test_functions_that_run_eagerly():
    tf.config.run_functions_eagerly(True)
    try:
        close(gradients(chunked(HARD), ARRAYS), gradients(dense(HARD), ARRAYS))
    finally:
        tf.config.run_functions_eagerly(False)


@every_mode
@pytest.mark.parametrize("variable", [tf.Variable, keras.Variable], ids=["TensorFlow", "Keras"])
def test_variables_that_are_learned(variable, compiled):
    """The layer's own and an option, which Keras's ``convert_to_tensor`` leaves variables."""
    start = (*ARRAYS[1:], tf.constant(RNG.normal(size=CLASSES)))
    kernel, bias, threshold = owned = [variable(array, dtype="float64") for array in start]
    tensors = [getattr(one, "value", one) if variable is keras.Variable else one for one in owned]

    def slopes(losses):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(losses() * UPSTREAM)
        return tape.gradient(total, tensors)

    for given in ({}, {"threshold": threshold}):
        wanted = slopes(lambda o=given: dense(HARD, **o)(ARRAYS[0], *tensors[:2]))
        found = compiled(slopes)(lambda o=given: linear_zlpr_loss(HARD, ARRAYS[0], kernel, bias=bias, chunk=5, **o))
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
        close(found[: 2 + len(given)], wanted[: 2 + len(given)])


def test_variables_and_other_loops():
    kernel = tf.Variable(ARRAYS[1])

    @tf.function
    def total():
        with tf.GradientTape() as tape:
            loss = tf.constant(0.0, tf.float64)
            for _ in tf.range(2):
                loss += tf.reduce_mean(linear_zlpr_loss(HARD, ARRAYS[0], kernel, chunk=5))
        return tape.gradient(loss, kernel)

    with tf.GradientTape() as tape:
        loss = 2 * tf.reduce_mean(zlpr_loss(HARD, ARRAYS[0] @ kernel))
    close([total()], [tape.gradient(loss, kernel)])


def test_chunks_have_each_class_once():
    for rows, classes, chunk in (
        ([6], 23, 5),
        ([256], 131_072, None),
        ([256], 200_000, None),
        ([None], 5000, None),
        ([9], 7, 1),
    ):
        cut = Cut.of(rows, classes, chunk)
        seen = np.zeros(classes, int)
        for number in range(cut.parts):
            own, first = cut.own(tf.constant(number)), int(cut.first(tf.constant(number)))
            seen[first : first + cut.size] += 1 if own is None else own.numpy()
        assert (seen == 1).all()
    assert Cut.of([256], 131_072, None) == (131_072, 64, 2048)
    assert Cut.of([None], 5000, None) == (5000, 3, 1792)


def test_chunks_of_many_rows_and_of_other_numbers():
    """At least 128 classes; and as few graphs for an eager loop over batches of any size."""
    assert {Cut.of(rows, 5000, None).size for rows in ([2**20], [None, None], [64, None, 8])} == {128}
    assert len({Cut.of([rows], 100_000, None) for rows in range(129, 257)}) == 1
