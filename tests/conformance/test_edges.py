"""Every row of the contract's edge table, in every dtype and mode."""

import ml_dtypes
import numpy as np
import oracle
import pytest
from tolerances import value_error

INF, NAN = float("inf"), float("nan")


def check_finite_row(backend, dtype, mode, logits, targets, true, **options):
    """Value as the oracle has it, no NaN in the gradient."""
    got = backend.loss(logits, targets, dtype, mode=mode, **options)
    assert value_error(got, np.asarray(true, np.float64), dtype).max() <= 1, got
    return backend.grad(logits, targets, dtype, mode=mode, **options)


def kinds(targets):
    """The same hard targets as integers and as floating numbers."""
    return [np.asarray(targets, int), np.asarray(targets, float)]


def test_no_positive_no_negative(backend, dtype, mode):
    logits = [[1.0, -2.0], [1.0, -2.0]]
    for targets in kinds([[0, 0], [1, 1]]):
        positive, negative = (backend.numpy(t) for t in backend.terms(**backend.problem(logits, targets, dtype)))
        assert positive[0] == 0
        assert negative[1] == 0
        true = [oracle.zlpr(s, t) for s, t in zip(logits, targets.tolist(), strict=True)]
        check_finite_row(backend, dtype, mode, logits, targets, true)


@pytest.mark.parametrize("options", [{}, {"weight": [[2.0, 0.5, 1.0]]}, {"threshold": 0.25}], ids=str)
def test_everything_masked(backend, dtype, mode, options):
    for targets in kinds([[1, 0, 1]]):
        where = np.zeros((1, 3), bool)
        grad = check_finite_row(backend, dtype, mode, [[3.0, INF, NAN]], targets, [0.0], where=where, **options)
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("options", [{}, {"weight": [[2.0, 0.5, 1.0, 1.0]]}, {"threshold": 0.25}], ids=str)
def test_harmless_infinite_logits(backend, dtype, mode, options):
    logits, where = (
        [[-INF, INF, 0.5, -0.25], [-INF, -INF, 0.5, INF]],
        np.asarray([[True] * 4, [True, False, True, True]]),
    )
    for targets in kinds([[0, 1, 1, 0], [0, 1, 0, 1]]):
        full = {k: [v] * 4 if isinstance(v, float) else v[0] for k, v in options.items()}
        true = [oracle.zlpr(s, t, where=w, **full) for s, t, w in zip(logits, targets.tolist(), where, strict=True)]
        grad = check_finite_row(backend, dtype, mode, logits, targets, true, where=where, **options)
        assert not np.isnan(grad).any()
        np.testing.assert_array_equal(grad[np.isinf(logits)], 0)
        assert (grad[np.isfinite(logits)] != 0).all()


def test_soft_cells_beside_harmless_infinities(backend, dtype, mode):
    true = [oracle.zlpr([0.5, 1.0, -1.0], [0.25, 1.0, 0.5])]
    grad = check_finite_row(
        backend, dtype, mode, [[0.5, 1.0, -1.0, -INF, INF]], np.asarray([[0.25, 1.0, 0.5, 0.0, 1.0]]), true
    )
    assert not np.isnan(grad).any()
    np.testing.assert_array_equal(grad[:, 3:], 0)


@pytest.mark.parametrize("options", [{}, {"weight": [1e-3, 0.5, 1.0]}, {"threshold": 0.25}], ids=str)
def test_infinitely_wrong(backend, dtype, mode, options):
    """-inf on a positive or +inf on a negative costs +inf, has no gradient of its own, and spoils no other."""
    logits = [[-INF, 1.0, 1.0], [INF, 1.0, 1.0], [0.0, 1.0, 1.0]]
    for targets in kinds([[1, 1, 0], [0, 1, 0], [1, 1, 0]]):
        got = backend.loss(logits, targets, dtype, mode=mode, **options)
        np.testing.assert_array_equal(got[:2], INF)
        assert np.isfinite(got[2])
        grad = backend.grad(logits, targets, dtype, mode=mode, **options)
        assert not np.isnan(grad).any()
        np.testing.assert_array_equal(grad[:2, 0], 0)
        assert np.abs(grad[2]).min() > 0
    soft = np.asarray([[0.1, 0.9, 0.2]] * 3)
    got = backend.loss(logits, soft, dtype, mode=mode, **options)
    np.testing.assert_array_equal(got[:2], INF)
    assert not np.isnan(backend.grad(logits, soft, dtype, mode=mode, **options)).any()


def test_nan_logit_spoils_its_example_only(backend, dtype, mode):
    logits = [[NAN, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, NAN, 1.0]]
    for targets in [*kinds([[0, 1, 0]] * 3), np.full((3, 3), 0.5)]:
        got = backend.loss(logits, targets, dtype, mode=mode)
        np.testing.assert_array_equal(np.isnan(got), [True, False, True])
        grad = backend.grad(logits, targets, dtype, mode=mode)
        assert np.isfinite(grad[1]).all()
        where = ~np.isnan(logits)
        assert np.isfinite(backend.loss(logits, targets, dtype, mode=mode, where=where)).all()
        grad = backend.grad(logits, targets, dtype, mode=mode, where=where)
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(grad[~where], 0)


def test_targets_a_rounding_beyond_the_ends_are_0_or_1(backend, dtype, mode):
    slack = 8 * float(ml_dtypes.finfo(dtype).eps)
    logits, legal = [[2.0, -1.0, 0.5]] * 4, np.asarray([[1.0, 0.0, 0.0]] * 4)
    beyond = legal + np.asarray([[slack, -slack, 0], [0, 0, -slack], [1.5 * slack, 0, 0], [0, 0, -1.5 * slack]])
    wide = "float64" if dtype == "float64" else "float32"
    got = backend.loss(logits, beyond, wide, target_dtype=dtype, mode=mode)
    true = [float(oracle.zlpr(row, [1, 0, 0])) for row in logits[:2]]
    assert value_error(got[:2], np.asarray(true), wide).max() <= 1
    assert np.isnan(got[2:]).all()


@pytest.mark.parametrize("bad", [7.0, -0.5, 1.1, NAN, INF, -INF])
def test_illegal_floating_target_is_nan_for_its_example(backend, dtype, mode, bad):
    targets = np.asarray([[bad, 0.0, 1.0], [0.5, 0.0, 1.0], [1.0, bad, 0.0]])
    got = backend.loss([[3.0, -2.0, 0.5]] * 3, targets, dtype, mode=mode)
    np.testing.assert_array_equal(np.isnan(got), [True, False, True])
    masked = backend.loss([[3.0, -2.0, 0.5]] * 3, targets, dtype, mode=mode, where=np.isin(targets, [0.0, 0.5, 1.0]))
    assert np.isfinite(masked).all()


@pytest.mark.parametrize(
    ("kind", "bad"), [("int64", 2), ("int32", -1), ("int8", -100), ("uint8", 255), ("int64", 2**32 + 1)]
)
def test_illegal_integer_target_is_nan_for_its_example(backend, mode, kind, bad):
    targets = np.asarray([[bad, 0, 1], [1, 0, 1], [1, bad, 0]]).astype(kind)
    got = backend.loss([[3.0, -2.0, 0.5]] * 3, targets, "float32", mode=mode)
    np.testing.assert_array_equal(np.isnan(got), [True, False, True])


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("bad", [-1.0, NAN])
def test_illegal_weight_is_nan_for_its_example(backend, mode, name, bad):
    weights = np.asarray([[1.0, bad, 1.0], [1.0, 1.0, 1.0]])
    got = backend.loss([[3.0, -2.0, 0.5]] * 2, np.ones((2, 3), int), "float32", mode=mode, **{name: weights})
    np.testing.assert_array_equal(np.isnan(got), [True, False])


SPOILT = {  # logits, targets, options: what is illegal is in the first and the third row, at the first class
    "NaN logit": ([[NAN, 1.0, 0.0, 2.0]], [[1, 1, 0, 1]], {}),
    "NaN logit, soft": ([[NAN, 1.0, 0.0, 2.0]], [[0.5, 1.0, 0.0, 0.25]], {}),
    "integer target": ([[3.0, -2.0, 0.5, 2.0]], [[2, 1, 0, 1]], {}),
    "target above 1": ([[3.0, -2.0, 0.5, 2.0]], [[1.5, 1.0, 0.0, 0.25]], {}),
    "NaN target": ([[3.0, -2.0, 0.5, 2.0]], [[NAN, 1.0, 0.0, 1.0]], {}),
    "weight": ([[3.0, -2.0, 0.5, 2.0]], [[1, 1, 0, 1]], {"weight": [[-1.0, 1.0, 1.0, 2.0]]}),
    "pos_weight": ([[3.0, -2.0, 0.5, 2.0]], [[1.0, 0.5, 0.0, 1.0]], {"pos_weight": [[NAN, 1.0, 1.0, 2.0]]}),
    "infinite weight": ([[3.0, -2.0, 0.5, 2.0]], [[1, 0, 0, 1]], {"weight": [[INF, 1.0, 1.0, 2.0]]}),
    "of a half without weight": ([[3.0, -2.0, 0.5, 2.0]], [[0, 1, 0, 1]], {"pos_weight": [[-1.0, 1.0, 1.0, 2.0]]}),
    "beside a threshold": ([[3.0, -2.0, 0.5, 2.0]], [[NAN, 1.0, 0.0, 1.0]], {"threshold": 0.25}),
}
LEGAL = np.asarray([[1.0, -1.0, 0.5, 2.0]]), np.asarray([[0, 1, 0, 1]]), np.ones((1, 4))


def spoilt(name):
    """Three rows, the middle one legal; the last class is masked."""
    logits, targets, options = SPOILT[name]
    legal = LEGAL[1].astype(np.asarray(targets).dtype)
    rows = {k: np.concatenate([v, LEGAL[2], v]) for k, v in options.items() if not isinstance(v, float)}
    where = np.asarray([True, True, True, False])
    logits, targets = np.concatenate([logits, LEGAL[0], logits]), np.concatenate([targets, legal, targets])
    return logits, targets, {**options, **rows, "where": where}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_illegal_makes_the_gradient_of_its_whole_row_nan(backend, mode, name):
    """So that a gradient scaler skips the step, by whichever way the loss is computed."""
    logits, targets, options = spoilt(name)
    got = backend.loss(logits, targets, "float32", mode=mode, **options)
    np.testing.assert_array_equal(np.isnan(got), [True, False, True])
    grad = backend.grad(logits, targets, "float32", mode=mode, **options)
    np.testing.assert_array_equal(np.isnan(grad[[0, 2]]), [[True, True, True, False]] * 2)
    np.testing.assert_array_equal(grad[:, 3], 0)
    assert np.isfinite(grad[1]).all()


@pytest.mark.parametrize("name", ["NaN logit", "integer target", "target above 1", "NaN target"])
def test_what_is_illegal_without_options(backend, dtype, mode, name):
    logits, targets, _ = spoilt(name)
    grad = backend.grad(logits, targets, dtype, mode=mode)
    np.testing.assert_array_equal(np.isnan(grad), [[True] * 4, [False] * 4, [True] * 4])


@pytest.mark.spare
@pytest.mark.needs("autodiff")
@pytest.mark.parametrize("name", ["kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"])
@pytest.mark.needs("whole")
def test_a_nan_of_either_logits_makes_both_gradients_nan(backend, mode, name):
    logits = np.asarray([[NAN, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, -1.0, 0.0]])
    other = np.asarray([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [1.0, NAN, 0.5]])
    for wrt in ("p_logits", "q_logits"):
        grad = backend.slope(name, wrt, "float32", mode=mode, p_logits=logits, q_logits=other)
        np.testing.assert_array_equal(np.isnan(grad), [[True] * 3, [False] * 3, [True] * 3])


@pytest.mark.spare
@pytest.mark.needs("autodiff")
@pytest.mark.parametrize("name", ["NaN target", "NaN logit"])
@pytest.mark.needs("whole")
def test_r_drop_spreads_a_nan_too(backend, mode, name):
    """Of the logits of one pass to those of the other as well."""
    logits, targets, options = spoilt(name)
    arguments = {"logits1": logits, "logits2": np.nan_to_num(logits) / 2, "targets": targets, **options}
    for wrt in ("logits1", "logits2"):
        grad = backend.slope("rdrop_zlpr", wrt, "float32", mode=mode, **arguments)
        np.testing.assert_array_equal(np.isnan(grad[[0, 2]]), [[True, True, True, False]] * 2)
        assert np.isfinite(grad[1]).all()


@pytest.mark.needs("whole")
def test_both_halves_are_nan_where_one_is(backend):
    logits, targets, options = spoilt("of a half without weight")
    for half in backend.terms(**backend.problem(logits, targets, "float32", **options)):
        np.testing.assert_array_equal(np.isnan(backend.numpy(half)), [True, False, True])


@pytest.mark.needs("traces")
def test_an_illegal_id_that_nobody_can_see_makes_its_row_nan(backend):
    ids = np.asarray([[0, 4], [0, -1], [-2, 1]])
    for mode in backend.tracing_modes:
        grad = backend.slope("sparse_zlpr", "logits", "float32", mode=mode, logits=np.zeros((3, 4)), indices=ids)
        np.testing.assert_array_equal(np.isnan(grad), [[True] * 4, [False] * 4, [True] * 4])


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_an_illegal_weight_of_little_consequence_is_nan(backend, mode, name):
    """By its sign alone: no sum of these is negative."""
    weights = np.asarray([[1.0, -0.01, 1.0], [-0.01, 1.0, 1.0], [0.0, 0.0, 1.0]])
    for targets in kinds([[1, 1, 0]] * 3):
        got = backend.loss([[1.0, 2.0, -1.0]] * 3, targets, "float32", mode=mode, **{name: weights})
        np.testing.assert_array_equal(np.isnan(got), [True, True, False])


def test_empty_batch(backend, dtype, mode):
    for targets in (np.zeros((0, 3), int), np.zeros((0, 3))):
        assert backend.loss(np.zeros((0, 3)), targets, dtype, mode=mode).shape == (0,)
        assert backend.grad(np.zeros((0, 3)), targets, dtype, mode=mode).shape == (0, 3)
