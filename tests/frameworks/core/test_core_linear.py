"""Parts of a row merge to the whole, and the loss of a linear layer in chunks is that of its logits."""

import tracemalloc
from types import SimpleNamespace

import array_api_compat.numpy
import array_api_strict
import numpy as np
import oracle
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import grad_error, value_error

import zlpr_core
from zlpr_core import linear_zlpr, linear_zlpr_grad, sparse_linear_zlpr
from zlpr_core._namespace import infer
from zlpr_core._options import Options
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum, log_sum, sum_exp
from zlpr_core._terms import halves_of

RNG = np.random.default_rng(16)
ROWS, FEATURES, CLASSES = 6, 4, 23
INPUTS, LAYER = RNG.integers(-4, 5, (ROWS, FEATURES)), RNG.integers(-3, 4, (CLASSES, FEATURES))  # products are exact
BIAS, HARD = RNG.integers(-2, 3, CLASSES), RNG.random((ROWS, CLASSES)) < 0.2
HARD[0], HARD[1] = False, True
SOFT = RNG.random((ROWS, CLASSES))
LOGITS = INPUTS @ LAYER.T + BIAS
OPTIONS = {
    "plain": {},
    "where": {"where": RNG.random((ROWS, CLASSES)) < 0.7},
    "where by class": {"where": RNG.random(CLASSES) < 0.7},
    "weights": {"weight": RNG.uniform(0, 3, CLASSES), "pos_weight": RNG.uniform(0, 3, (ROWS, 1))},
    "threshold": {"threshold": RNG.integers(-8, 8, CLASSES) / 4},
    "numbers": {"weight": 2.0, "pos_weight": 0.5, "threshold": 0.25},
}
XP = infer(None, logits=LOGITS)


def layer(dtype, library=np):
    return [library.asarray(part.astype(dtype)) for part in (INPUTS, LAYER)], library.asarray(BIAS.astype(dtype))


def row_options(options, row):
    """Of one example, as the oracle takes them."""
    return {name: np.broadcast_to(option, (ROWS, CLASSES))[row].tolist() for name, option in options.items()}


def in_parts(logits, targets, ends):
    """The loss of one row from its parts, in the order in which they come."""
    halves = [], []
    for part in np.split(np.arange(len(logits)), ends):
        for half, found in zip(halves_of(logits[part], targets[part], Options(), xp=XP), halves, strict=True):
            zero = np.zeros(1, half.logit.dtype)
            found.append(sum_exp(half, axis=(0,), xp=XP) if len(part) else ShiftedSum(zero, zero))
    wholes = [merge(ShiftedSum(*map(np.concatenate, zip(*half, strict=True))), axis=(0,), xp=XP) for half in halves]
    return sum(log_sum(whole, axis=(0,), xp=XP) for whole in wholes)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["float16", "float32", "float64"]))
def test_any_split_gives_the_whole(data, dtype):
    """Empty parts and parts without a positive too."""
    numbers = st.floats(-1e4, 1e4, width=16) | st.floats(-3, 3, width=16)
    logits = np.asarray(data.draw(st.lists(numbers, min_size=1, max_size=12)), dtype)
    targets = np.asarray(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    ends = sorted(data.draw(st.lists(st.integers(0, len(logits)), max_size=5)))
    true = [float(oracle.zlpr(logits.tolist(), targets.tolist()))]
    assert value_error([in_parts(logits, targets, ends)], true, dtype).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centre", [-60.0, -9.2, 0.0, 50.0])
def test_a_thousand_parts(dtype, centre):
    logits = (centre + RNG.normal(0, 1, 10_000)).astype(dtype)
    logits[:5000] = logits[0]  # equal terms, whose rounding errors have one sign
    targets = np.arange(10_000) % 97 == 3
    logits[targets] *= -1
    true = [float(oracle.zlpr(logits.tolist(), targets.tolist()))]
    ends = np.sort(RNG.choice(10_000, 999, replace=False))
    assert value_error([in_parts(logits, targets, ends)], true, dtype).max() <= 1


def test_parts_with_infinite_and_nan_sums():
    for bad in (np.inf, np.nan):
        logits = np.asarray([1.0, bad, 2.0, -3.0])
        np.testing.assert_array_equal(in_parts(logits, np.zeros(4, bool), [1, 2, 3]), bad)
    assert in_parts(np.asarray([1.0, -np.inf, np.inf]), np.asarray([False, False, True]), [1, 2]) == np.log1p(np.e)


@pytest.mark.parametrize("library", [np, array_api_strict], ids=["numpy", "strict"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("targets", [HARD, HARD.astype("uint8"), SOFT], ids=["bool", "uint8", "soft"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear(library, options, targets, dtype):
    """Values and all gradients against the oracle, in chunks that divide the classes and in others."""
    arrays, bias = layer(dtype, library)
    given_ = {k: v if isinstance(v, float) else library.asarray(v) for k, v in options.items()}
    rounded = targets.astype(dtype) if targets.dtype.kind == "f" else targets
    rows = [(s, t, row_options(options, i)) for i, (s, t) in enumerate(zip(LOGITS, rounded.tolist(), strict=True))]
    true = np.asarray([float(oracle.zlpr(s.tolist(), t, **own)) for s, t, own in rows])
    parts = np.asarray(
        [[list(map(float, cell)) for cell in oracle.zlpr_grad_parts(s.tolist(), t, **own)] for s, t, own in rows]
    )
    slopes, sizes = parts[..., 1] - parts[..., 0], parts.sum(axis=-1)
    for chunk in (1, 5, CLASSES, None):
        call = {"bias": bias, "chunk": chunk, **given_}
        found = linear_zlpr(*arrays, library.asarray(rounded), **call)
        assert value_error(found, true, dtype).max() <= 1
        gradients = linear_zlpr_grad(*arrays, library.asarray(rounded), upstream=0.5, **call)
        assert grad_error(gradients.bias, 0.5 * slopes.sum(axis=0), 0.5 * sizes.sum(axis=0), dtype).max() <= 1
        wanted, most = slopes.T @ INPUTS, sizes.T @ abs(INPUTS)
        assert grad_error(gradients.linear_weight, 0.5 * wanted, 0.5 * most, dtype).max() <= 1
        wanted, most = slopes @ LAYER, sizes @ abs(LAYER)
        assert grad_error(gradients.inputs, 0.5 * wanted, 0.5 * most, dtype).max() <= 1


@pytest.mark.parametrize("upstream", [np.arange(6.0).reshape(2, 3), 2.0], ids=["array", "number"])
def test_axes_before_the_last(upstream):
    """As ``torch.nn.Linear`` has them."""
    (inputs, weight), bias = layer("float64")
    shaped, targets = inputs.reshape(2, 3, -1), SOFT.reshape(2, 3, -1)
    losses = linear_zlpr(shaped, weight, targets, bias=bias, chunk=4)
    np.testing.assert_allclose(losses, zlpr_core.zlpr(LOGITS.astype(float), SOFT).reshape(2, 3), rtol=1e-13)
    found = linear_zlpr_grad(shaped, weight, targets, bias=bias, chunk=4, upstream=upstream)
    flat = linear_zlpr_grad(inputs, weight, SOFT, bias=bias, upstream=np.broadcast_to(upstream, (2, 3)).reshape(6))
    np.testing.assert_allclose(found.inputs.reshape(6, -1), flat.inputs, rtol=1e-12)
    np.testing.assert_allclose(found.linear_weight, flat.linear_weight, rtol=1e-12)
    np.testing.assert_allclose(found.bias, flat.bias, rtol=1e-12)


def test_half_precision_is_added_up_in_float32():
    inputs, weight = RNG.normal(0, 1, (3, 500)).astype("float16"), RNG.normal(0, 1, (7, 500)).astype("float16")
    targets = RNG.random((3, 7)) < 0.4
    true = zlpr_core.zlpr(inputs.astype(float) @ weight.T.astype(float), targets)
    found = linear_zlpr(inputs, weight, targets, chunk=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, true, rtol=1e-5)
    gradients = linear_zlpr_grad(inputs, weight, targets, chunk=3)
    assert (gradients.inputs.dtype, gradients.linear_weight.dtype, gradients.bias) == (np.float16, np.float16, None)


@pytest.mark.parametrize("kind", ["csr_array", "csc_array", "csr_matrix", "coo_array"])
def test_bags_of_words(kind):
    """Sparse inputs, and sparse targets, hard and soft."""
    (inputs, weight), bias = layer("float64")
    make = getattr(scipy.sparse, kind)
    for targets in (HARD, HARD.astype(float), HARD * SOFT):
        found = linear_zlpr(make(inputs), weight, make(targets), bias=bias, chunk=5)
        np.testing.assert_allclose(found, zlpr_core.zlpr(LOGITS.astype(float), targets), rtol=1e-13)
        gradients = linear_zlpr_grad(make(inputs), weight, make(targets), bias=bias, chunk=5)
        dense = linear_zlpr_grad(inputs, weight, targets, bias=bias)
        assert gradients.inputs is None
        assert type(gradients.linear_weight) is np.ndarray
        np.testing.assert_allclose(gradients.linear_weight, dense.linear_weight, rtol=1e-12)
        np.testing.assert_allclose(gradients.bias, dense.bias, rtol=1e-12)


def ids_of(targets):
    return [np.flatnonzero(row).tolist() for row in targets]


@pytest.mark.parametrize("chunk", [1, 5, None])
def test_class_ids(chunk):
    (inputs, weight), bias = layer("float64")
    true = zlpr_core.zlpr(LOGITS.astype(float), HARD)
    lists = ids_of(HARD)
    width = max(map(len, lists)) + 2
    padded = np.full((ROWS, width), -1)
    for row, ids in zip(padded, lists, strict=True):
        row[: len(ids)] = ids
        row[len(ids) : len(ids) + 1] = ids[:1] or [-1]  # once more
    for indices in (lists, padded, padded.astype("int16"), scipy.sparse.csr_array(HARD)):
        np.testing.assert_allclose(
            sparse_linear_zlpr(inputs, weight, indices, bias=bias, chunk=chunk), true, rtol=1e-13
        )
    other = np.where(padded < 0, 99, padded)
    np.testing.assert_allclose(
        sparse_linear_zlpr(inputs, weight, other, bias=bias, chunk=chunk, pad=99), true, rtol=1e-13
    )


def test_illegal_ids_where_they_cannot_be_looked_at(monkeypatch):
    """NaN for the example, whichever chunk the id is not in."""
    (inputs, weight), _ = layer("float64")
    names = [*zlpr_core.Namespace.__annotations__, *(n for n in vars(zlpr_core.Namespace) if n[0] != "_")]
    library = SimpleNamespace(**{name: getattr(array_api_compat.numpy, name) for name in names})
    xp = zlpr_core._namespace.namespace_from(library, readable=lambda x: False)
    found = sparse_linear_zlpr(inputs, weight, np.asarray([[0, 5]] * 4 + [[1, CLASSES], [-2, 3]]), chunk=4, xp=xp)
    assert np.isnan(found).tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"inputs": INPUTS}, TypeError, "`inputs` must have a real floating dtype. Received: int64. Convert it first."),
        ({"linear_weight": np.ones((4, 23))}, ValueError, "`linear_weight` must have the shape (classes, 4), for `inputs` of shape (6, 4). Received: (4, 23)."),
        ({"bias": [0.0] * 23}, TypeError, "`bias` must be an array. Received: list."),
        ({"bias": np.ones(23, int)}, TypeError, "`bias` must have a real floating dtype. Received: int64. Convert it first."),
        ({"bias": np.ones(22)}, ValueError, "`bias` must have one number a class: (23,). Received: (22,)."),
        ({"targets": HARD[:, 1:]}, ValueError, "`targets` must have one row for each of `inputs` and a column a class: (6, 23). Received: (6, 22). For class ids, call `sparse_linear_zlpr`."),
        ({"chunk": 0}, ValueError, "`chunk` must be a number of classes, 1 or more. Received: 0."),
        ({"weight": np.ones(5)}, ValueError, "`weight` must broadcast to the shape of `logits`. Received: (5,) for (6, 23)."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages(change, error, text):
    given_ = {"inputs": INPUTS.astype(float), "linear_weight": LAYER.astype(float), "targets": HARD} | change
    arrays = [given_.pop(name) for name in ("inputs", "linear_weight", "targets")]
    with pytest.raises(error) as raised:
        linear_zlpr(*arrays, **given_)
    assert str(raised.value) == text


def test_an_id_out_of_range_is_named():
    (inputs, weight), _ = layer("float64")
    with pytest.raises(
        IndexError, match=r"^`indices` must be in \[0, 23\) or `pad` \(-1\). Received: 23 at \[5, 1\].$"
    ):
        sparse_linear_zlpr(inputs, weight, np.asarray([[0, 5]] * 5 + [[1, CLASSES]]))


def test_memory_is_that_of_a_chunk():
    """With 20 000 classes the logits of 100 rows take 16 MB."""
    inputs, weight = np.ones((100, 2)), np.zeros((20_000, 2))
    ids = np.arange(100)[:, None]
    tracemalloc.start()
    sparse_linear_zlpr(inputs, weight, ids, chunk=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
