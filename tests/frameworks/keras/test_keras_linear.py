"""A linear layer and its loss in chunks: the dense loss of the core, on whichever backend Keras runs on."""

import keras
import numpy as np
import pytest
from keras import ops

import zlpr_core
from zlpr_tf import linear_zlpr_loss, sparse_linear_zlpr_loss

RNG = np.random.default_rng(16)
ROWS, FEATURES, CLASSES = 6, 4, 323
INPUTS, KERNEL = RNG.normal(size=(ROWS, FEATURES)), RNG.normal(size=(FEATURES, CLASSES))
BIAS, SOFT, HARD = RNG.normal(size=CLASSES), RNG.random((ROWS, CLASSES)), RNG.random((ROWS, CLASSES)) < 0.05
HARD[0], HARD[1] = False, True
IDS = [np.flatnonzero(row).tolist() for row in HARD]
IGNORED = np.where(RNG.random((ROWS, CLASSES)) < 0.3, -1, HARD.astype(int))
OPTIONS = {
    "plain": {},
    "where": {"where": RNG.random((ROWS, CLASSES)) < 0.7},
    "weights": {"weight": RNG.uniform(0, 3, CLASSES), "pos_weight": RNG.uniform(0, 3, (ROWS, 1))},
    "threshold": {"threshold": RNG.normal(0, 1, CLASSES)},
    "numbers": {"weight": 2.0, "threshold": 0.3},
}
VALUE = {"float32": 1e-6, "float64": 1e-13}
SLOPE = {"float32": 2e-5, "float64": 1e-12}
every_chunk = pytest.mark.parametrize("chunk", [64, 150, CLASSES, None])


def rounded(array, dtype):
    """What a tensor of that dtype holds, in float64."""
    return np.asarray(ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(array), dtype)), "float64")


def truth(targets, arrays, **options):
    """Losses, and gradients of their sum, by the dense loss of the core in float64."""
    x, kernel, bias = arrays
    logits = x @ kernel + bias
    cells = zlpr_core.zlpr_grad(logits, targets, **options)
    return zlpr_core.zlpr(logits, targets, **options), cells @ kernel.T, x.T @ cells, cells.sum(0)


def check(backend, loss, dtype, expected, wide="float32"):
    arrays = {"inputs": INPUTS, "kernel": KERNEL, "bias": BIAS}
    tensors = {name: backend.native(array, dtype) for name, array in arrays.items()}
    values, slopes = backend.value_and_gradients(lambda moved: loss(**moved), tensors)
    value, *gradients = expected
    kind = "float64" if dtype == "float64" else "float32"
    assert backend.dtype_name(values) == kind
    np.testing.assert_allclose(backend.numpy(values), value, rtol=VALUE[kind])
    for name, gradient in zip(arrays, gradients, strict=True):
        assert backend.dtype_name(slopes[name]) == dtype
        found, largest = backend.numpy(slopes[name]), abs(gradient).max()
        np.testing.assert_allclose(
            found, gradient, rtol=0, atol={"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, SLOPE[kind]) * largest
        )


@pytest.mark.parametrize(
    ("options", "chunk"),
    [(OPTIONS["plain"], chunk) for chunk in (64, CLASSES, None)] + [(option, 150) for option in OPTIONS.values()],
)
def test_values_and_gradients(backend, dtype, options, chunk):
    """Half precision multiplies exactly and adds up in float32."""
    arrays = [rounded(array, dtype) for array in (INPUTS, KERNEL, BIAS)]
    for labels in (HARD, SOFT):
        expected = truth(labels, arrays, **options)
        check(
            backend,
            lambda o=options, t=labels, **layer: linear_zlpr_loss(t, chunk=chunk, **layer, **o),
            dtype,
            expected,
        )
    check(
        backend,
        lambda **layer: sparse_linear_zlpr_loss(IDS, chunk=chunk, **layer, **options),
        dtype,
        truth(HARD, arrays, **options),
    )


def test_options_of_the_adapters(backend):
    arrays = INPUTS, KERNEL, BIAS
    expected = truth(HARD, arrays, where=IGNORED != -1)
    check(
        backend,
        lambda **layer: linear_zlpr_loss(IGNORED, chunk=150, ignore_index=-1, **layer),
        "float64" if "float64" in backend.dtypes else "float32",
        expected,
    )
    smooth = zlpr_core.smooth_labels(HARD.astype("float64"), 0.1)
    check(
        backend,
        lambda **layer: sparse_linear_zlpr_loss(IDS, chunk=150, label_smoothing=0.1, **layer),
        "float32",
        truth(smooth, [rounded(a, "float32") for a in arrays]),
    )


@every_chunk
def test_axes_before_the_last_and_an_empty_batch(chunk):
    x, k = ops.convert_to_tensor(INPUTS.reshape(2, 3, -1)), ops.convert_to_tensor(KERNEL)
    found = ops.convert_to_numpy(linear_zlpr_loss(HARD.reshape(2, 3, -1), x, k, chunk=chunk))
    np.testing.assert_allclose(found, zlpr_core.zlpr(INPUTS @ KERNEL, HARD).reshape(2, 3), rtol=1e-6)
    assert ops.convert_to_numpy(linear_zlpr_loss(HARD[:0], x[0][:0], k, chunk=chunk)).shape == (0,)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel": KERNEL.T}, ValueError, "`kernel` must have the shape (4, classes), for `inputs` of shape (6, 4). Received: (323, 4)."),
        ({"bias": BIAS[1:]}, ValueError, "`bias` must have one number a class: (323,). Received: (322,)."),
        ({"labels": HARD[:, 1:]}, ValueError, "`labels` must have one row for each of `inputs` and a column a class: (6, 323). Received: (6, 322). For class ids, call `sparse_linear_zlpr_loss`."),
        ({"chunk": 0}, ValueError, "`chunk` must be a number of classes, 1 or more. Received: 0."),
        ({"where": HARD[:, :3]}, ValueError, "`where` must broadcast to the shape of `logits`. Received: (6, 3) for (6, 323)."),
        ({"label_smoothing": 2}, ValueError, "`label_smoothing` must be a number in [0, 1]. Received: 2."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages(change, error, text):
    given = {"inputs": INPUTS, "kernel": KERNEL, "labels": HARD} | change
    with pytest.raises(error) as raised:
        linear_zlpr_loss(**given)
    assert str(raised.value) == text


def test_messages_about_dtypes_and_ids():
    with pytest.raises(TypeError, match=r"^`inputs` must have a real floating dtype. Received: .*int(32|64)"):
        linear_zlpr_loss(HARD, INPUTS.astype("int32"), KERNEL)
    with pytest.raises(
        IndexError, match=r"^`indices` must be in \[0, 323\) or `pad` \(-1\). Received: 323 at \[5, 0\].$"
    ):
        sparse_linear_zlpr_loss(np.asarray([[0]] * 5 + [[CLASSES]]), INPUTS, KERNEL)
    with pytest.raises(TypeError, match=r"^`indices` must be integer class ids. Received dtype: float"):
        sparse_linear_zlpr_loss(INPUTS, INPUTS, KERNEL)


def test_variables_of_keras():
    """Those of a layer, whose threshold may be learned; and numbers of NumPy."""
    kernel, bias, threshold = (keras.Variable(a.astype("float32")) for a in (KERNEL, BIAS, BIAS[::-1].copy()))
    options = {"bias": bias, "threshold": threshold, "chunk": np.int64(150)}
    expected = zlpr_core.zlpr(INPUTS @ KERNEL + BIAS, HARD, threshold=BIAS[::-1])
    x = ops.convert_to_tensor(INPUTS, "float32")
    for found in (linear_zlpr_loss(HARD, x, kernel, **options), sparse_linear_zlpr_loss(IDS, x, kernel, **options)):
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)
