"""Bad input gets one clear sentence: the argument by the user's name for it, what was expected, what came."""

import numpy as np
import pytest
import scipy.sparse

LOGITS, TARGETS = np.zeros((2, 3)), np.zeros((2, 3), int)
WHERE_CELLS = np.zeros((2, 2), bool)
SHAPES = [
    ({"targets": np.zeros((2, 1), int)}, "`{logits}` and `{targets}` must have the same shape. Received: (2, 3) and (2, 1). For class ids, call `multi_hot` on them first, one row of ids per example."),
    ({"targets": np.zeros((2, 1))}, "Received: (2, 3) and (2, 1). `{targets}` are never broadcast: give every class its own, one row per example."),
    ({"targets": np.zeros(3)}, "Received: (2, 3) and (3,)."),
    ({"targets": np.zeros(2, int)}, "Received: (2, 3) and (2,). For one class id per example, call `{sparse_zlpr}` with `{targets}[..., None]`."),
    ({"where": WHERE_CELLS}, "`{where}` must broadcast to the shape of `{logits}`. Received: (2, 2) for (2, 3)."),
    ({"weight": np.zeros(2)}, "`weight` must broadcast to the shape of `{logits}`. Received: (2,) for (2, 3)."),
    ({"pos_weight": np.zeros((1, 2, 3))}, "`pos_weight` must broadcast to the shape of `{logits}`. Received: (1, 2, 3) for (2, 3)."),
    ({"threshold": np.zeros((3, 3))}, "`threshold` must broadcast to the shape of `{logits}`. Received: (3, 3) for (2, 3)."),
    ({"axis": 2}, "`{axis}` must name distinct axes of `{logits}`. Received: 2 for shape (2, 3)."),
    ({"axis": (1, -1)}, "`{axis}` must name distinct axes of `{logits}`. Received: (1, -1) for shape (2, 3)."),
    ({"axis": ()}, "`{axis}` must name distinct axes of `{logits}`. Received: () for shape (2, 3)."),
    ({"logits": np.zeros((2, 0)), "targets": np.zeros((2, 0))}, "`{logits}` must have at least one class. Received shape: (2, 0), classes on -1."),
]  # fmt: skip


NAMES = ("logits", "targets", "axis", "where", "zlpr", "sparse_zlpr")


def expected(backend, text):
    return text.format(**{name: backend.word(name) for name in NAMES})


@pytest.mark.parametrize(("change", "text"), SHAPES, ids=range(len(SHAPES)))
def test_value_errors(backend, mode, change, text):
    arguments = {"logits": LOGITS, "targets": TARGETS, **change}
    with pytest.raises(ValueError) as caught:
        backend.loss(arguments.pop("logits"), arguments.pop("targets"), "float32", mode=mode, **arguments)
    assert expected(backend, text) in str(caught.value)


@pytest.mark.parametrize("axis", ["classes", 1.0, True, (0, "1"), [0.5]], ids=str)
def test_axis_type(backend, axis):
    tensors = backend.problem(LOGITS, TARGETS, "float32")
    with pytest.raises(TypeError) as caught:
        backend.losses(**tensors, axis=axis)
    assert expected(backend, f"`{{axis}}` must be an int or a tuple of ints. Received: {axis!r}.") in str(caught.value)


@pytest.mark.parametrize("kind", ["int64", "bool", "complex64"])
def test_logits_type(backend, kind):
    tensors = {"logits": backend.native(LOGITS, kind), "targets": backend.native(TARGETS, "int64")}
    with pytest.raises(TypeError) as caught:
        backend.losses(**tensors)
    assert expected(backend, "`{logits}` must have a real floating dtype. Received: ") in str(caught.value)
    with pytest.raises(TypeError, match="must have a real floating dtype"):
        backend.helper("predict")(tensors["logits"])


def test_targets_type(backend):
    tensors = {"logits": backend.native(LOGITS, "float32"), "targets": backend.native(TARGETS, "complex64")}
    with pytest.raises(TypeError) as caught:
        backend.losses(**tensors)
    assert expected(backend, "`{targets}` must be bool, integer or real floating. Received dtype: ") in str(
        caught.value
    )


def test_where_type(backend):
    tensors = backend.problem(LOGITS, TARGETS, "float32")
    with pytest.raises(TypeError) as caught:
        backend.losses(**tensors, where=backend.native(TARGETS, "int64"))
    assert expected(backend, "`{where}` must be a bool array, of the library of the logits. Received: ") in str(
        caught.value
    )


@pytest.mark.parametrize("option", ["weight", "pos_weight", "threshold"])
def test_option_type(backend, option):
    tensors = backend.problem(LOGITS, TARGETS, "float32")
    for bad in (backend.native(TARGETS, "complex64"), "heavy"):
        with pytest.raises((TypeError, ValueError)) as caught:
            backend.losses(**tensors, **{option: bad})
        assert isinstance(bad, str) or f"`{option}` must be a real array" in str(caught.value)


@pytest.mark.needs("adapter")
def test_the_mask_is_checked_beside_ignore_index_too(backend):
    tensors = backend.problem(LOGITS, TARGETS, "float32")
    with pytest.raises(TypeError, match="must be a bool array"):
        backend.losses(**tensors, where=backend.native(TARGETS, "float32"), ignore_index=-100)
    with pytest.raises(ValueError, match="must broadcast to the shape"):
        backend.losses(**tensors, where=backend.native(WHERE_CELLS, "bool"), ignore_index=-100)


@pytest.mark.parametrize("form", ["csr_array", "coo_array", "csr_matrix", "dok_array"])
@pytest.mark.parametrize("name", ["zlpr", "zlpr_terms", "rdrop_zlpr"])
def test_a_sparse_matrix_goes_to_the_loss_that_takes_it(backend, name, form):
    matrix, logits = getattr(scipy.sparse, form)(TARGETS), backend.native(LOGITS, "float32")
    arrays = (logits, logits, matrix) if name == "rdrop_zlpr" else (logits, matrix)
    with pytest.raises(TypeError) as caught:
        backend.call(name, arrays, {})
    text = "`{targets}` must be dense. Received: a sparse " + form + "; pass it to `{sparse_zlpr}`, or make it dense."
    assert str(caught.value) == expected(backend, text)
    assert backend.numpy(backend.call("sparse_zlpr", (logits, matrix), {})).shape == (2,)


MULTI_HOT = [[1, 0, 1], [0, 1, 0]]


@pytest.mark.needs("reads_ids")
@pytest.mark.parametrize("lists", [False, True], ids=["array", "lists"])
def test_ids_that_are_multi_hot_go_to_the_dense_loss(backend, lists):
    """They are ids of the first two classes otherwise: a plausible wrong number."""
    logits = backend.native(LOGITS, "float32")
    with pytest.raises(ValueError) as caught:
        backend.call("sparse_zlpr", (logits, MULTI_HOT if lists else backend.native(MULTI_HOT, "int64")), {})
    text = (
        "`indices` must be class ids, each row filled up with `pad` (-1). Received: (2, 3) of 0 and 1 only, with 3 "
        "classes. Multi-hot targets go to `{zlpr}`."
    )
    assert str(caught.value) == expected(backend, text)


def test_ids_that_only_look_multi_hot_are_ids(backend):
    logits = backend.native(LOGITS, "float32")

    def loss(ids, **options):
        given = backend.native(np.asarray(ids), "int64")
        return backend.numpy(backend.call("sparse_zlpr", (logits, given), options))

    for ids in ([[0, 1, -1], [1, 0, 0]], [[0, 1], [1, 0]], [[0, 1, 0, 1]] * 2):
        assert np.isfinite(loss(ids)).all()
    assert np.isfinite(loss(MULTI_HOT, pad=0)).all()
    two = backend.native(LOGITS[:, :2], "float32"), backend.native([[0, 1], [1, 1]], "int64")
    assert np.isfinite(backend.numpy(backend.call("sparse_zlpr", two, {}))).all()


def test_one_id_an_example_needs_an_axis_of_its_own(backend):
    """The fix that both losses name works."""
    logits, ids = backend.native(LOGITS, "float32"), backend.native([2, 0], "int64")
    with pytest.raises(ValueError) as caught:
        backend.call("sparse_zlpr", (logits, ids), {})
    assert expected(backend, "call `{sparse_zlpr}` with `indices[..., None]`.") in str(caught.value)
    assert backend.numpy(backend.call("sparse_zlpr", (logits, ids[..., None]), {})).shape == (2,)
    with pytest.raises(ValueError) as caught:
        backend.call("sparse_zlpr", (logits, backend.native([2, 0, 1], "int64")), {})
    assert expected(backend, "Multi-hot targets go to `{zlpr}`.") in str(caught.value)


def test_an_integer_of_numpy_is_an_axis(backend):
    tensors = backend.problem(LOGITS, TARGETS, "float32")
    for axis in (np.int64(-1), (np.int32(1),)):
        np.testing.assert_array_equal(
            backend.numpy(backend.losses(**tensors, axis=axis)), backend.numpy(backend.losses(**tensors))
        )


@pytest.mark.needs("adapter")
def test_label_smoothing_range(backend):
    with pytest.raises(ValueError, match=r"must be a number in \[0, 1\]. Received: 1.5"):
        backend.loss(LOGITS, TARGETS, label_smoothing=1.5)


def test_every_message_is_one_sentence_for_its_reader(backend):
    """No traceback of another exception in front of it."""
    with pytest.raises(ValueError) as caught:
        backend.losses(**backend.problem(LOGITS, np.zeros((2, 2)), "float32"))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
