"""Class ids: equal to the dense loss in value and slopes, in every form that they come in, and never a wrong class."""

import hypothesis.extra.numpy as hnp
import numpy as np
import oracle
import pytest
import scipy.sparse
from cases import rounded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import value_error

RNG = np.random.default_rng(8888)
LOGITS = RNG.normal(0, 4, (6, 12))
IDS = np.asarray([[0, 11, -1], [3, -1, -1], [-1, -1, -1], [5, 5, 5], [7, 2, 7], [-1, 4, 0]])
OPTIONS = {
    "plain": {},
    "where": {"where": RNG.random((6, 12)) < 0.6},
    "weighted": {"weight": RNG.uniform(0, 3, 12), "pos_weight": RNG.uniform(0, 3, (6, 1))},
    "threshold": {"threshold": RNG.normal(0, 1, 12)},
}


def rows_of(ids, classes):
    """The multi-hot rows, by plain Python."""
    return np.asarray([[c in row for c in range(classes)] for row in np.asarray(ids).tolist()])


def sparse(backend, logits, ids, dtype="float64", **options):
    return backend.value("sparse_zlpr", dtype, logits=np.asarray(logits), indices=np.asarray(ids), **options)


@pytest.mark.spare
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_dense_loss(backend, dtype, mode, options):
    logits = rounded(LOGITS, dtype)
    got = sparse(backend, logits, IDS, dtype, mode=mode, **options)
    np.testing.assert_allclose(got, backend.loss(logits, rows_of(IDS, 12), dtype, mode=mode, **options), rtol=2e-7)


@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0, 30.0, 100.0, 1e3, 1e4])
def test_right_at_every_margin(backend, dtype, margin, worst):
    """Losses that subtract the positives from the sum over all classes push positives down from a margin of 16 on."""
    hot = rows_of(IDS, 12)
    logits = rounded(np.where(hot, 1, -1) * margin * (1 + np.abs(LOGITS) / 100), dtype)
    for signed in (logits, -logits):
        true = [float(oracle.zlpr(s, t)) for s, t in zip(signed, hot.tolist(), strict=True)]
        worst("value", backend, dtype, value_error(sparse(backend, signed, IDS, dtype), true, dtype))


@pytest.mark.needs("autodiff")
@pytest.mark.parametrize("wrt", ["logits", "weight", "pos_weight", "threshold"])
def test_slopes_are_those_of_the_dense_loss(backend, wrt):
    dtype = "float32"
    options = {"weight": np.full(12, 1.5), "pos_weight": np.full((6, 1), 0.5), "threshold": np.full((1, 1), 0.25)}
    arguments = {"logits": rounded(LOGITS * 5, dtype), **options}
    got = backend.slope("sparse_zlpr", wrt, dtype, indices=IDS, **arguments)
    dense = backend.slope("zlpr", wrt, dtype, targets=rows_of(IDS, 12), **arguments)
    np.testing.assert_allclose(got, dense, rtol=1e-6, atol=1e-30)


@pytest.mark.spare
@pytest.mark.needs("autodiff")
def test_forward_mode_and_second_order(backend, mode):
    tangent = RNG.normal(size=LOGITS.shape)
    for product in ("jvp", "hvp"):
        got = backend.along("sparse_zlpr", product, "logits", tangent, mode=mode, logits=LOGITS, indices=IDS)
        dense = backend.directional(product, LOGITS, rows_of(IDS, 12), tangent, mode=mode)
        np.testing.assert_allclose(got, dense, rtol=1e-12, atol=1e-15)


class PyData:
    """What is asked of an array of the library ``sparse``."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def to_scipy_sparse(self):
        return self.matrix

    def todense(self):
        return self.matrix.toarray()

    def __array__(self, *_, **__):
        raise RuntimeError


FORMS = {
    "lists": lambda ids: [[i for i in row if i >= 0] for row in ids.tolist()],
    "csr": lambda ids: scipy.sparse.csr_array(rows_of(ids, 12).astype(np.float64)),
    "csr of bool": lambda ids: scipy.sparse.csr_matrix(rows_of(ids, 12)),
    "coo": lambda ids: scipy.sparse.coo_array(rows_of(ids, 12).astype(np.int64)),
    "lil": lambda ids: scipy.sparse.lil_array(rows_of(ids, 12)),
    "dok": lambda ids: scipy.sparse.dok_array(rows_of(ids, 12)),
    "PyData": lambda ids: PyData(scipy.sparse.coo_array(rows_of(ids, 12))),
    "coo with duplicates": lambda ids: scipy.sparse.coo_array(
        (np.ones(4, int), ([0, 0, 0, 1], [0, 0, 11, 3])), shape=(6, 12)
    ),
    "csr with stored zeros": lambda ids: scipy.sparse.csr_array(
        (np.asarray([1, 0, 1]), np.asarray([0, 1, 11]), np.asarray([0, 3, 3, 3, 3, 3, 3])), shape=(6, 12)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_hosts_hold(backend, form):
    dtype = "float32"
    others = {"csr with stored zeros": [], "coo with duplicates": [[3, -1]]}
    ids = np.asarray([[0, 11], *others[form], *[[-1, -1]] * 5][:6]) if form in others else IDS
    tensors = backend.tensors(dtype, logits=LOGITS)
    got = backend.call("sparse_zlpr", (tensors["logits"], FORMS[form](ids)), {})
    np.testing.assert_array_equal(backend.numpy(got), sparse(backend, LOGITS, ids, dtype))


def test_lists_of_nothing(backend):
    logits = backend.tensors("float32", a=LOGITS[:2], b=LOGITS[:0], c=LOGITS[0], d=LOGITS.reshape(2, 3, 12))

    def loss(name, lists):
        return backend.numpy(backend.call("sparse_zlpr", (logits[name], lists), {}))

    np.testing.assert_array_equal(loss("a", [[], []]), sparse(backend, LOGITS[:2], [[-1], [-1]], "float32"))
    assert loss("b", []).shape == (0,)
    np.testing.assert_array_equal(loss("c", [0, 3]), sparse(backend, LOGITS[0], [0, 3], "float32"))
    np.testing.assert_array_equal(loss("c", []), sparse(backend, LOGITS[0], [-1], "float32"))
    nested = [[[0], [1, 2], []], [[3], [], [4, 5]]]
    ids = np.asarray([[[0, -1], [1, 2], [-1, -1]], [[3, -1], [-1, -1], [4, 5]]])
    np.testing.assert_array_equal(loss("d", nested), sparse(backend, LOGITS.reshape(2, 3, 12), ids, "float32"))


def test_shapes(backend, mode):
    assert sparse(backend, LOGITS[0], [3, -1], mode=mode).shape == ()
    assert sparse(backend, LOGITS[:0], np.zeros((0, 2), int), mode=mode).shape == (0,)
    none = sparse(backend, LOGITS, np.zeros((6, 0), int), mode=mode)
    np.testing.assert_array_equal(none, sparse(backend, LOGITS, np.full((6, 1), -1), mode=mode))
    got = sparse(backend, LOGITS.reshape(2, 3, 12), IDS.reshape(2, 3, 3), mode=mode)
    # not to the last bit: XLA on a GPU adds up another shape in another order
    np.testing.assert_allclose(got.reshape(6), sparse(backend, LOGITS, IDS, mode=mode), rtol=1e-14)


@pytest.mark.spare
@pytest.mark.parametrize("axis", [0, 1, (1, 2), (0, 2), (2, 0), (0, 1, 2)])
def test_ids_count_the_cells_of_several_axes(backend, mode, axis):
    logits = RNG.normal(0, 3, (3, 4, 5))
    axes = (axis,) if isinstance(axis, int) else axis
    kept = [a for a in range(3) if a not in axes]
    flat = np.transpose(logits, (*kept, *axes)).reshape(*(logits.shape[a] for a in kept), -1)
    ids = RNG.integers(0, flat.shape[-1], (*flat.shape[:-1], 3))
    ids[..., -1] = -1
    got = sparse(backend, logits, ids, mode=mode, axis=axis)
    np.testing.assert_allclose(got, sparse(backend, flat, ids, mode=mode), rtol=1e-13)


def test_another_pad(backend, mode):
    ids = np.where(IDS < 0, -100, IDS)
    got = sparse(backend, LOGITS, ids, mode=mode, pad=-100)
    np.testing.assert_array_equal(got, sparse(backend, LOGITS, IDS, mode=mode))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "int64", "uint32", "uint64"])
def test_small_and_unsigned_integers(backend, kind):
    logits = np.broadcast_to(RNG.normal(0, 1, 300), (1, 300))
    ids = np.asarray([[100, 127]]) if kind == "int8" else np.asarray([[200, 255]])
    got = sparse(backend, logits, ids.astype(kind))
    np.testing.assert_allclose(got, backend.loss(logits, rows_of(ids, 300)), rtol=1e-13)


@pytest.mark.parametrize(
    ("kind", "bad"), [("uint32", 2**32 - 1), ("uint32", 3 * 10**9), ("uint64", 2**63 - 1), ("int64", 2**32 + 1)]
)
def test_ids_too_large_for_other_integers_are_named(backend, kind, bad):
    """Cast to a smaller integer or a signed one, they would be -1 or another class. NaN where they are not read."""
    logits, ids = backend.native(LOGITS[:1], "float32"), np.asarray([[0, bad]], np.uint64).astype(kind)
    arrays = logits, backend.native(ids, kind)
    if backend.hides_ids:
        assert np.isnan(backend.numpy(backend.call("sparse_zlpr", arrays, {}))).all()
        return
    with pytest.raises(IndexError, match=rf"Received: {bad}\b"):
        backend.call("sparse_zlpr", arrays, {})


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
def test_the_largest_unsigned_number_may_be_the_pad(backend, kind):
    pad = int(np.iinfo(kind).max)
    got = sparse(backend, LOGITS, np.where(IDS < 0, pad, IDS).astype(kind), pad=pad)
    np.testing.assert_array_equal(got, sparse(backend, LOGITS, IDS))


@pytest.mark.needs("adapter")
def test_label_smoothing(backend):
    got = sparse(backend, LOGITS, IDS, label_smoothing=0.1)
    np.testing.assert_allclose(got, backend.loss(LOGITS, 0.9 * rows_of(IDS, 12) + 0.05), rtol=1e-13)


@pytest.mark.needs("reads_ids")
@pytest.mark.parametrize("bad", [12, -2, 2**31 - 1])
def test_an_illegal_id_is_named(backend, bad):
    ids = IDS.copy()
    ids[1, 2] = bad
    tensors = backend.tensors("float32", logits=LOGITS, indices=ids)
    with pytest.raises(
        IndexError, match=rf"`indices` must be in \[0, 12\) or `pad` \(-1\). Received: {bad} at \[1, 2\]\."
    ):
        backend.call("sparse_zlpr", (tensors["logits"], tensors["indices"]), {})


@pytest.mark.needs("may_not_read")
@pytest.mark.parametrize("bad", [12, -2, 2**31 - 1])
def test_an_illegal_id_is_nan_for_its_example_where_it_is_not_read(backend, bad):
    """While tracing, and on an accelerator."""
    ids = IDS.copy()
    ids[1, 2] = bad
    for mode in backend.modes if backend.hides_ids else backend.tracing_modes:
        got = sparse(backend, LOGITS, ids, "float32", mode=mode)
        np.testing.assert_array_equal(np.isnan(got), [False, True, False, False, False, False])
        legal = np.delete(np.arange(6), 1)
        np.testing.assert_allclose(got[legal], sparse(backend, LOGITS, IDS, "float32")[legal], rtol=1e-6)
        spans = sparse(backend, LOGITS.reshape(6, 3, 4), ids, "float32", mode=mode, axis=(1, 2))
        np.testing.assert_array_equal(np.isnan(spans), np.isnan(got))


MESSAGES = [
    (np.zeros((5, 2), int), ValueError, r"`indices` must have one row of ids for each example of .*: shape \(6, 'P'\)\. Received: \(5, 2\) for \(6, 12\)\."),
    (np.zeros((6,), int), ValueError, r"Received: \(6,\) for \(6, 12\)"),
    (np.zeros((6, 2)), TypeError, r"`indices` must be integer class ids. Received dtype: .*float"),
    ([[0.5]] * 6, TypeError, r"`indices` as a list must hold whole numbers, in one list for each example. Received: \[\[0.5\]"),
    ([0, 1, 2, 3, 4, 5], TypeError, "in one list for each example"),
    ([[0]] * 5, ValueError, r"Received: \(5, 1\) for \(6, 12\)"),
    (scipy.sparse.csr_array(np.full((6, 12), 0.5)), ValueError, "`indices` as a sparse matrix must hold 0 or 1 only"),
    (scipy.sparse.csr_array(np.eye(6)), ValueError, r"`indices` as a sparse matrix must have the shape of .*, classes last. Received: \(6, 6\) for \(6, 12\)"),
]  # fmt: skip


@pytest.mark.parametrize(("indices", "error", "match"), MESSAGES, ids=range(len(MESSAGES)))
def test_messages(backend, indices, error, match):
    logits = backend.native(LOGITS, "float32")
    if isinstance(indices, np.ndarray):
        indices = backend.native(indices, indices.dtype.name)
    with pytest.raises(error, match=match):
        backend.call("sparse_zlpr", (logits, indices), {})


# --- order facts --------------------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(-5, 5, allow_subnormal=False), st.floats(-1e4, 1e4))
examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some_logits = hnp.arrays(np.float64, (4, 6), elements=numbers)
some_ids = hnp.arrays(np.int64, (4, 5), elements=st.integers(-1, 5))


@examples
@given(s=some_logits, ids=some_ids, order=st.permutations(range(5)))
def test_order_and_repetition_of_ids_are_irrelevant(backend, s, ids, order):
    got = sparse(backend, s, ids)
    np.testing.assert_array_equal(sparse(backend, s, ids[:, order]), got)
    np.testing.assert_allclose(got, backend.loss(s, rows_of(ids, 6)), rtol=1e-14)


# --- spans --------------------------------------------------------------------------------------------------------


def span(backend, name, *arrays, kind="int64", length=128):
    got = backend.helper(name)(*(backend.native(a, kind) for a in arrays), length)
    return [backend.numpy(x) for x in got] if isinstance(got, tuple) else backend.numpy(got)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
def test_spans_there_and_back(backend, kind):
    start, end = np.asarray([[0, 2], [127, 0]]), np.asarray([[0, 5], [127, 127]])
    ids = span(backend, "span_to_index", start, end, kind=kind)
    np.testing.assert_array_equal(ids, start * 128 + end)
    np.testing.assert_array_equal(span(backend, "index_to_span", ids), [start, end])


def test_spans_of_padding(backend):
    np.testing.assert_array_equal(span(backend, "span_to_index", [3, -1, 2], [-1, 4, 2], length=8), [-1, -1, 18])
    np.testing.assert_array_equal(span(backend, "index_to_span", [-1, 18], length=8), [[-1, 2], [-1, 2]])


def test_spans_of_python_numbers(backend):
    to_index, to_span = backend.helper("span_to_index"), backend.helper("index_to_span")
    assert (to_index(2, 5, 128), to_index(-1, 5, 128), to_span(261, 128), to_span(-1, 128)) == (
        261,
        -1,
        (2, 5),
        (-1, -1),
    )
    with pytest.raises(IndexError, match=r"`start` and `end` must be below 128. Received: 128\."):
        to_index(3, 128, 128)
    with pytest.raises(IndexError, match=r"`index` must be below 16384. Received: 16384\."):
        to_span(128 * 128, 128)


@pytest.mark.needs("reads_ids")
def test_a_span_beyond_the_length_is_not_another_span(backend):
    with pytest.raises(IndexError, match=r"`start` and `end` must be below `length` \(8\). Received: 8 at \[1\]\."):
        span(backend, "span_to_index", [0, 3], [1, 8], length=8)
    with pytest.raises(IndexError, match=r"`index` must be below `length` squared \(64\). Received: 64 at \[0\]\."):
        span(backend, "index_to_span", [64], length=8)


@pytest.mark.needs("hides_ids")
def test_a_span_beyond_the_length_is_an_illegal_id_where_it_is_not_read(backend):
    np.testing.assert_array_equal(span(backend, "span_to_index", [0, 3], [1, 8], length=8), [1, 64])


def test_spans_want_integers(backend):
    with pytest.raises(TypeError, match=r"`end` must be integer class ids. Received dtype: .*float32"):
        backend.helper("span_to_index")(backend.native([0], "int64"), backend.native([0.0], "float32"), 8)


def test_spans_are_what_the_loss_counts(backend):
    logits, start, end = RNG.normal(0, 2, (2, 3, 8, 8)), np.asarray([2, 0]), np.asarray([5, 7])
    ids = span(backend, "span_to_index", start, end, length=8)
    targets = np.zeros((2, 3, 8, 8), bool)
    targets[..., 2, 5] = targets[..., 0, 7] = True
    got = sparse(backend, logits, np.broadcast_to(ids, (2, 3, 2)), axis=(-2, -1))
    np.testing.assert_allclose(got, backend.loss(logits, targets, axis=(-2, -1)), rtol=1e-13)
