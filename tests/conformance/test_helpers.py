"""The functions around the losses: targets made and checked, the least loss, labels and probabilities from logits."""

import numpy as np
import oracle
import pytest
from cases import rounded
from tolerances import value_error

NAN, INF = float("nan"), float("inf")


def call(backend, name, values, dtype, *args, **options):
    """A helper on one array, NumPy in and out."""
    options = {
        k: backend.native(v, "bool" if k == "where" else dtype) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    return backend.numpy(backend.helper(name)(backend.native(values, dtype), *args, **options))


def test_smooth_labels(backend, dtype):
    soft = rounded([[1.0, 0.0, 0.25]], dtype)
    np.testing.assert_allclose(call(backend, "smooth_labels", soft, dtype, 0.1), [[0.95, 0.05, 0.275]], rtol=2e-7)
    np.testing.assert_allclose(
        call(backend, "smooth_labels", soft, dtype, 0.1, mode="positive"), [[0.9, 0.0, 0.225]], rtol=2e-7
    )
    np.testing.assert_allclose(call(backend, "smooth_labels", [[True, False]], "bool", 0.1), [[0.95, 0.05]], rtol=2e-7)


def test_smoothing_does_not_launder_an_illegal_target(backend):
    np.testing.assert_array_equal(
        np.isnan(call(backend, "smooth_labels", [1.04, 1.0, NAN, -0.04], "float32", 0.2)), [True, False, True, True]
    )
    np.testing.assert_array_equal(
        np.isnan(call(backend, "smooth_labels", [2, 1, 0], "int64", 0.9)), [True, False, False]
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [((1.5,), r"`epsilon` must be a number in \[0, 1\]. Received: 1.5"), ((0.1, "both"), "`mode` must be")],
)
def test_smooth_labels_messages(backend, options, match):
    with pytest.raises(ValueError, match=match):
        call(backend, "smooth_labels", [1.0], "float32", options[0], **({"mode": options[1]} if options[1:] else {}))


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_multi_hot(backend, kind):
    """Duplicates count once, order is irrelevant, every class is usable, pads are left out."""
    got = call(backend, "multi_hot", [[0, 2, 2], [3, -1, 0], [-1, -1, -1]], kind, 4)
    np.testing.assert_array_equal(got, [[1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert got.dtype == bool
    np.testing.assert_array_equal(call(backend, "multi_hot", [[0, 7], [1, 7]], kind, 3, pad=7), [[1, 0, 0], [0, 1, 0]])
    assert call(backend, "multi_hot", np.zeros((2, 0), int), kind, 3).tolist() == [[False] * 3] * 2
    assert call(backend, "multi_hot", np.zeros((0, 2), int), kind, 3).shape == (0, 3)
    assert call(backend, "multi_hot", [[[0], [1]]], kind, 2).tolist() == [[[True, False], [False, True]]]


def test_multi_hot_of_small_integers(backend):
    assert call(backend, "multi_hot", [[200, 255]], "uint8", 300).nonzero()[1].tolist() == [200, 255]


@pytest.mark.needs("hides_ids")
@pytest.mark.parametrize("bad", [4, -2])
def test_multi_hot_out_of_range_where_ids_are_not_read(backend, bad):
    """No class: there is no NaN among bools."""
    got = call(backend, "multi_hot", [[0, 1], [bad, 1]], "int64", 4)
    np.testing.assert_array_equal(got, [[1, 1, 0, 0], [0, 1, 0, 0]])


@pytest.mark.needs("reads_ids")
@pytest.mark.parametrize("bad", [4, -2])
def test_multi_hot_out_of_range(backend, bad):
    with pytest.raises(
        IndexError, match=rf"`indices` must be in \[0, 4\) or `pad` \(-1\). Received: {bad} at \[1, 0\]"
    ):
        call(backend, "multi_hot", [[0, 1], [bad, 1]], "int64", 4)


def test_multi_hot_wants_integers(backend):
    with pytest.raises(TypeError, match=r"`indices` must be integer class ids. Received dtype: .*float32"):
        call(backend, "multi_hot", [[0.0]], "float32", 4)


def check_targets(backend, values, dtype, **options):
    return backend.helper("check_targets")(backend.native(values, dtype), **options)


def test_check_targets_accepts(backend, dtype):
    for values, kind in (
        ([0.0, 0.5, 1.0], dtype),
        ([0, 1], "int64"),
        ([True, False], "bool"),
        ([0, 1], "uint8"),
        ([], dtype),
    ):
        assert check_targets(backend, values, kind) is None
    assert check_targets(backend, [0, 1, -100], "int64", ignore_index=-100) is None
    assert check_targets(backend, [0.0, -1.0], dtype, ignore_index=-1) is None


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ([[0, 1], [7, 0]], "int64", r"0 or 1. Received: 7 at \[1, 0\]"),
        ([[0.0, 1.5]], "float32", r"in \[0, 1\]. Received: 1.5 at \[0, 1\]"),
        ([[[0.0, NAN]]], "float64", r"Received: nan at \[0, 0, 1\]"),
        ([255], "uint8", r"Received: 255 at \[0\]"),
        ([-100], "int64", r"Received: -100 at \[0\]"),
    ],
)
def test_check_targets_names_the_first_bad_cell(backend, values, kind, match):
    argument = backend.dialect.get("targets", "targets")
    with pytest.raises(ValueError, match=rf"^`{argument}` must be .*{match}"):
        check_targets(backend, values, kind)
    if -100 in values:
        with pytest.raises(ValueError, match=match):
            check_targets(backend, values, kind, ignore_index=-1)


def test_entropy_matches_oracle(backend, dtype):
    targets = rounded(np.random.default_rng(1).random((4, 7)), dtype)
    targets[0] = [0, 1, 0, 1, 1, 0, 0]
    got = call(backend, "zlpr_entropy", targets, dtype)
    assert value_error(got, [float(oracle.zlpr_entropy(t)) for t in targets], dtype).max() <= 1
    assert got[0] == 0
    masked = call(backend, "zlpr_entropy", targets, dtype, where=np.arange(7)[None] < 3)
    assert value_error(masked, [float(oracle.zlpr_entropy(t[:3])) for t in targets], dtype).max() <= 1
    assert call(backend, "zlpr_entropy", targets, dtype, axis=(0, 1)).shape == ()
    np.testing.assert_array_equal(call(backend, "zlpr_entropy", [[0, 1], [1, 1]], "int64"), [0, 0])
    assert np.isnan(call(backend, "zlpr_entropy", [[0.5, 2.0]], dtype)).all()


def test_predict(backend, dtype):
    logits = [[2.0, -1.0, 0.0, INF], [-3.0, -1.0, -2.0, -INF], [NAN, 1.0, -1.0, -1.0], [-INF] * 4]
    got = call(backend, "predict", logits, dtype)
    np.testing.assert_array_equal(got, [[1, 0, 0, 1], [0] * 4, [0, 1, 0, 0], [0] * 4])
    assert got.dtype == bool
    np.testing.assert_array_equal(
        call(backend, "predict", logits[:2], dtype, at_least_one=True), [[1, 0, 0, 1], [0, 1, 0, 0]]
    )
    np.testing.assert_array_equal(call(backend, "predict", logits[3:], dtype, at_least_one=True), [[0] * 4])
    got = call(backend, "predict", logits[:2], dtype, threshold=-1.5)
    np.testing.assert_array_equal(got, [[1, 1, 1, 1], [0, 1, 0, 0]])
    got = call(backend, "predict", logits[:1], dtype, threshold=np.asarray([3.0, -2.0, 0.0, 1.0]), at_least_one=True)
    np.testing.assert_array_equal(got, [[0, 1, 0, 1]])
    got = call(backend, "predict", [[-3.0, -1.0], [-2.0, -4.0]], dtype, at_least_one=True, axis=(0, 1))
    np.testing.assert_array_equal(got, [[0, 1], [0, 0]])


def test_threshold_is_compared_in_the_precision_that_computes(backend):
    """float16(0.1) lies below 0.1 by more than float32 can overlook."""
    np.testing.assert_array_equal(call(backend, "predict", [0.1], "float32", threshold=0.0999), [True])
    if "float16" in backend.dtypes:
        np.testing.assert_array_equal(call(backend, "predict", [0.1], "float16", threshold=0.1), [False])
        np.testing.assert_array_equal(call(backend, "predict", [0.1], "float16", threshold=0.09997), [True])


def test_probabilities(backend, dtype):
    logits = rounded([0.0, 1.0986, -1.5, 40.0, -40.0], dtype)
    got = call(backend, "probabilities", logits, dtype)
    assert value_error(got, [float(oracle.sigmoid(2 * x)) for x in logits], dtype).max() <= 1
    got = call(backend, "probabilities", logits, dtype, scale=1.0)
    assert value_error(got, [float(oracle.sigmoid(x)) for x in logits], dtype).max() <= 1
    np.testing.assert_array_equal(call(backend, "probabilities", [INF, -INF, 6e4, -6e4, NAN], dtype), [1, 0, 1, 0, NAN])


@pytest.mark.needs("autodiff")
def test_probabilities_have_a_slope_everywhere(backend):
    x = backend.native([0.0, -800.0, 800.0, 1.0], "float64")
    slope = backend.numpy(backend.gradient(lambda s: backend.total(backend.helper("probabilities")(s)), x))
    p = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(slope, [0.5, 0, 0, 2 * p * (1 - p)], rtol=1e-12)


def test_soft_optimum_reads_back_the_targets(backend, dtype):
    """Soft ZLPR is least at s = ½ logit t, where σ(2s) = t and the loss is H(t)."""
    targets = np.asarray([[0.9, 0.2, 0.5, 0.01]])
    logits = 0.5 * np.log(targets / (1 - targets))
    wide = "float64" if dtype == "float64" else "float32"
    floor = call(backend, "zlpr_entropy", targets, wide)
    np.testing.assert_allclose(backend.loss(logits, targets, wide), floor, rtol=1e-6)
    np.testing.assert_allclose(call(backend, "probabilities", logits, wide), targets, rtol=1e-6)
    assert (backend.loss(logits + 0.1, targets, wide) > floor).all()
