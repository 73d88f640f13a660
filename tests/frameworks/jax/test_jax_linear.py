"""A linear layer and its loss in chunks: the dense loss of the logits in value and every derivative, by less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax import export

import zlpr_core
from zlpr_jax import linear_zlpr_loss, sparse_linear_zlpr_loss, zlpr_loss
from zlpr_jax._parts import Cut

RNG = np.random.default_rng(16)
ROWS, FEATURES, CLASSES = 6, 4, 23
INPUTS, KERNEL = RNG.normal(size=(ROWS, FEATURES)), RNG.normal(size=(FEATURES, CLASSES))
BIAS, HARD, SOFT = RNG.normal(size=CLASSES), RNG.random((ROWS, CLASSES)) < 0.2, RNG.random((ROWS, CLASSES))
HARD[0], HARD[1] = False, True
IDS = [np.flatnonzero(row).tolist() for row in HARD]
ARRAYS = INPUTS, KERNEL, BIAS
TIGHT = {"rtol": 1e-12, "atol": 1e-13}
OPTIONS = {
    "plain": {},
    "where": {"where": RNG.random((ROWS, CLASSES)) < 0.7},
    "weights": {"weight": RNG.uniform(0, 3, CLASSES), "pos_weight": RNG.uniform(0, 3, (ROWS, 1))},
    "threshold": {"threshold": RNG.normal(0, 1, CLASSES)},
    "smoothing": {"label_smoothing": 0.1},
}


def both(labels, **options):
    """The loss in chunks and the dense one, as functions of the arrays of a layer."""
    dense = {name: option for name, option in options.items() if name != "chunk"}

    def in_chunks(inputs, kernel, bias):
        return linear_zlpr_loss(inputs, kernel, labels, bias=bias, **options)

    def whole(inputs, kernel, bias):
        return zlpr_loss(inputs @ kernel + bias, labels, **dense)

    return in_chunks, whole


CHUNKS = [({"chunk": chunk}, HARD) for chunk in (1, CLASSES, None)]


@pytest.mark.parametrize(
    ("options", "labels"),
    CHUNKS + [(option | {"chunk": 5}, labels) for option in OPTIONS.values() for labels in (HARD, SOFT)],
)
def test_values_and_gradients(options, labels):
    in_chunks, whole = both(labels, **options)
    np.testing.assert_allclose(jax.jit(in_chunks)(*ARRAYS), whole(*ARRAYS), rtol=1e-12)
    found, expected = (jax.grad(lambda *a, of=f: of(*a).sum(), (0, 1, 2))(*ARRAYS) for f in (in_chunks, whole))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **TIGHT)


def test_the_reference_says_the_same():
    reference = zlpr_core.linear_zlpr(INPUTS, KERNEL.T, SOFT, bias=BIAS, chunk=4)
    np.testing.assert_allclose(linear_zlpr_loss(*ARRAYS[:2], SOFT, bias=BIAS, chunk=5), reference, rtol=1e-12)


@pytest.mark.parametrize("name", ["weight", "pos_weight", "threshold"])
def test_gradients_in_the_options(name):
    start = jnp.full((CLASSES,), 0.5)
    found, expected = (
        jax.grad(lambda o, c=c: both(HARD, **{name: o}, **c)[not c](*ARRAYS).sum())(start) for c in ({"chunk": 5}, {})
    )
    np.testing.assert_allclose(found, expected, **TIGHT)


def test_forward_mode_second_order_and_vmap():
    in_chunks, whole = both(HARD, chunk=5)
    tangents = tuple(RNG.normal(size=a.shape) for a in ARRAYS)
    np.testing.assert_allclose(jax.jvp(in_chunks, ARRAYS, tangents)[1], jax.jvp(whole, ARRAYS, tangents)[1], **TIGHT)
    hessians = (jax.hessian(lambda k, of=f: of(INPUTS, k, BIAS).sum())(jnp.asarray(KERNEL)) for f in (in_chunks, whole))
    np.testing.assert_allclose(*hessians, rtol=1e-10, atol=1e-12)
    several = jnp.stack([KERNEL, -KERNEL, 2 * KERNEL])
    found, expected = (jax.vmap(f, in_axes=(None, 0, None))(INPUTS, several, BIAS) for f in (in_chunks, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, CLASSES, None])
def test_class_ids(chunk):
    padded = np.full((ROWS, CLASSES + 2), -1)
    for row, ids in zip(padded, IDS, strict=True):
        row[: len(ids)] = ids
    expected = zlpr_loss(INPUTS @ KERNEL, HARD)
    for ids in (IDS, padded, jnp.asarray(padded)):
        np.testing.assert_allclose(sparse_linear_zlpr_loss(INPUTS, KERNEL, ids, chunk=chunk), expected, rtol=1e-12)
    traced = jax.jit(lambda ids: sparse_linear_zlpr_loss(INPUTS, KERNEL, ids, chunk=chunk))
    np.testing.assert_allclose(traced(padded), expected, rtol=1e-12)
    assert np.isnan(traced(np.where(padded == -1, CLASSES, padded))).all()


def test_axes_before_the_last_and_symbolic_rows():
    shaped, labels = INPUTS.reshape(2, 3, -1), HARD.reshape(2, 3, -1)
    expected = zlpr_loss(INPUTS @ KERNEL, HARD).reshape(2, 3)
    np.testing.assert_allclose(linear_zlpr_loss(shaped, KERNEL, labels, chunk=4), expected, rtol=1e-12)
    rows = export.symbolic_shape("rows")[0]
    shapes = jax.ShapeDtypeStruct((rows, FEATURES), float), jax.ShapeDtypeStruct((rows, CLASSES), bool)
    program = export.export(jax.jit(lambda x, y: linear_zlpr_loss(x, KERNEL, y, chunk=4)))(*shapes)
    np.testing.assert_allclose(program.call(INPUTS, HARD), expected.reshape(-1), rtol=1e-12)


def test_half_precision_is_added_up_in_float32():
    """Of the inputs' gradient too, over the chunks."""
    x, kernel = (jnp.asarray(RNG.normal(size=shape), jnp.bfloat16) for shape in ((ROWS, 64), (64, 999)))
    labels = RNG.random((ROWS, 999)) < 0.02
    loss = linear_zlpr_loss(x, kernel, labels, chunk=10)
    wide = x.astype(jnp.float32), kernel.astype(jnp.float32)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, zlpr_loss(jnp.matmul(*wide, precision="highest"), labels), rtol=1e-5)
    slope = jax.grad(lambda x: linear_zlpr_loss(x, kernel, labels, chunk=10).sum())(x)
    exact = jax.grad(lambda x: linear_zlpr_loss(x, wide[1], labels).sum())(wide[0])
    assert slope.dtype == jnp.bfloat16
    assert abs(slope - exact).max() < 0.01 * abs(exact).max()


@pytest.mark.parametrize("chunk", [10, None])
def test_dtypes_that_differ_are_promoted(chunk):
    """As ``x @ kernel`` promotes them: inputs are not rounded to the kernel's half precision."""
    x, kernel = jnp.asarray(RNG.normal(size=(ROWS, 64)), "float32"), jnp.asarray(RNG.normal(size=(64, 99)), "bfloat16")
    labels = RNG.random((ROWS, 99)) < 0.1
    for pair in ((x, kernel), (x.astype("bfloat16"), kernel.astype("float32"))):
        true = zlpr_loss(jnp.matmul(*(part.astype("float32") for part in pair), precision="highest"), labels)
        np.testing.assert_allclose(linear_zlpr_loss(*pair, labels, chunk=chunk), true, rtol=1e-6)


def test_what_is_one_chunk_is_the_dense_loss():
    """By the closed form, without a second product."""
    step = jax.jit(jax.grad(lambda k: linear_zlpr_loss(INPUTS, k, HARD).sum()))
    dense = jax.jit(jax.grad(lambda k: zlpr_loss(INPUTS @ k, HARD).sum()))
    products = [f.lower(KERNEL).as_text().count("dot_general") for f in (step, dense)]
    assert products[0] == products[1]


def test_chunks_cover_the_classes():
    assert Cut.of((6,), 23, 5, interleaved=False)[1:] == (4, 5, False)
    assert [chunk.size for chunk in Cut.of((6,), 23, 5, interleaved=False).rest] == [3]
    assert Cut.of((256,), 131072, None, interleaved=False)[1:3] == (32, 4096)
    assert Cut.of((256,), 131072, None, interleaved=True)[1:3] == (32, 4096)
    assert Cut.of((256,), 130000, None, interleaved=True)[1:3] == (40, 3250)  # the next divisor
    assert Cut.of((256,), 131071, None, interleaved=True)[1:3] == (1, 131071)  # a prime


@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_memory_is_that_of_a_few_chunks(ids):
    """40 MiB beyond the gradients, where the logits take 128."""
    rows, features, classes = 256, 256, 131_072
    shapes = [((rows, features), "float32"), ((features, classes), "float32"), ((classes,), "float32")]
    shapes += [((rows, 5), "int32") if ids else ((rows, classes), "bool")]
    loss = sparse_linear_zlpr_loss if ids else linear_zlpr_loss
    step = jax.jit(jax.value_and_grad(lambda x, k, b, y: loss(x, k, y, bias=b).mean(), (0, 1, 2)))
    memory = step.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40 * 2**20


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel": KERNEL.T}, ValueError, "`kernel` must have the shape (4, classes), for `inputs` of shape (6, 4). Received: (23, 4)."),
        ({"bias": BIAS[1:]}, ValueError, "`bias` must have one number a class: (23,). Received: (22,)."),
        ({"labels": HARD[:, 1:]}, ValueError, "`labels` must have one row for each of `inputs` and a column a class: (6, 23). Received: (6, 22). For class ids, call `sparse_linear_zlpr_loss`."),
        ({"chunk": 0}, ValueError, "`chunk` must be a number of classes, 1 or more. Received: 0."),
        ({"inputs": INPUTS.astype(int)}, TypeError, "`inputs` must have a real floating dtype. Received: int64. Convert it first."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages(change, error, text):
    given = {"inputs": INPUTS, "kernel": KERNEL, "labels": HARD} | change
    with pytest.raises(error) as raised:
        linear_zlpr_loss(*[given.pop(name) for name in ("inputs", "kernel", "labels")], **given)
    assert str(raised.value) == text


def test_an_id_out_of_range_and_a_matrix():
    with pytest.raises(
        IndexError, match=r"^`indices` must be in \[0, 23\) or `pad` \(-1\). Received: 23 at \[5, 0\].$"
    ):
        sparse_linear_zlpr_loss(INPUTS, KERNEL, np.asarray([[0]] * 5 + [[CLASSES]]))
    with pytest.raises(TypeError, match=r"^`indices` must be dense"):
        sparse_linear_zlpr_loss(INPUTS, KERNEL, scipy.sparse.csr_array(HARD))
