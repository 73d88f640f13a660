"""The core as NumPy users meet it: inference of the namespace, an explicit one, no warnings."""

import warnings

import array_api_strict
import numpy as np
import oracle
import pytest

import zlpr_core
from zlpr_core._losses import read_sides
from zlpr_core._namespace import infer, namespace_from
from zlpr_core._quick import quick_slopes, quick_terms, quick_totals, scales_of
from zlpr_core._reduce import log_of, total_of

LOGITS, TARGETS = np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]])
CALLS = {
    "zlpr": lambda **o: zlpr_core.zlpr(LOGITS, TARGETS, **o),
    "zlpr_terms": lambda **o: zlpr_core.zlpr_terms(LOGITS, TARGETS, **o)[0],
    "zlpr_grad": lambda **o: zlpr_core.zlpr_grad(LOGITS, TARGETS, **o),
    "zlpr_entropy": lambda **o: zlpr_core.zlpr_entropy(TARGETS, **o),
    "smooth_labels": lambda **o: zlpr_core.smooth_labels(TARGETS, 0.1, **o),
    "multi_hot": lambda **o: zlpr_core.multi_hot(TARGETS, 3, **o),
    "predict": lambda **o: zlpr_core.predict(LOGITS, **o),
    "probabilities": lambda **o: zlpr_core.probabilities(LOGITS, **o),
}


@pytest.mark.parametrize("name", CALLS)
def test_namespace_can_be_passed(name):
    np.testing.assert_array_equal(CALLS[name](xp=np), CALLS[name]())


def test_a_passed_numpy_adds_as_well_as_an_inferred_one():
    logits, targets = np.full((10_000, 2), np.float32(-7.3)), np.zeros((10_000, 2), int)
    passed = zlpr_core.zlpr(logits, targets, axis=0, xp=np)
    np.testing.assert_array_equal(passed, zlpr_core.zlpr(logits, targets, axis=0))


@pytest.mark.parametrize(
    "arguments", [([[1.0]], [[1]]), (LOGITS, [[1, 0, 0]]), (LOGITS, array_api_strict.asarray(TARGETS)), ("a", "b")]
)
def test_what_is_not_an_array(arguments):
    with pytest.raises(
        TypeError, match=r"^Expected arrays of one library that array-api-compat knows. Received: `logits` of type "
    ):
        zlpr_core.zlpr(*arguments)


def test_a_new_framework_needs_the_namespace_only():
    """Anything that offers the protocol's names computes, here NumPy under another roof."""
    own = namespace_from(np, dialect={"logits": "scores"})
    np.testing.assert_array_equal(zlpr_core.zlpr(LOGITS, TARGETS, xp=own), zlpr_core.zlpr(LOGITS, TARGETS))
    with pytest.raises(TypeError, match="`scores` must have a real floating dtype"):
        zlpr_core.zlpr(TARGETS, TARGETS, xp=own)


def test_a_namespace_that_lacks_a_function_says_which():
    with pytest.raises(AttributeError, match="'object' object has no attribute"):
        namespace_from(object())


def test_legal_input_warns_of_nothing():
    logits = np.asarray([[np.inf, -np.inf, 1e4, -1e4, 0.0]] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for targets in (np.asarray([[1, 0, 0, 1, 1], [0, 1, 1, 0, 0]]), np.asarray([[1.0, 0.0, 0.5, 1e-300, 0.3]] * 2)):
            for options in ({}, {"threshold": 1.5}, {"weight": np.asarray([0.0, 1.0, 1e30, 1e-30, 2.0])}):
                zlpr_core.zlpr(logits, targets, **options)
                zlpr_core.zlpr_grad(logits, targets, **options)
        zlpr_core.probabilities(logits)
        zlpr_core.predict(logits, at_least_one=True)


def test_numpy_scalars_are_options():
    plain = zlpr_core.zlpr(LOGITS, TARGETS, weight=0.5, threshold=0.25)
    scalar = zlpr_core.zlpr(LOGITS, TARGETS, weight=np.float32(0.5), threshold=np.float64(0.25))
    np.testing.assert_array_equal(plain, scalar)


def test_a_subnormal_weight_counts():
    """Where the hardware keeps subnormal numbers; XLA takes them as zero."""
    logits, targets = np.asarray([[-745.0, 1.0]]), np.asarray([[1e-311, 0.5]])
    true = float(oracle.zlpr(logits[0], targets[0]))
    np.testing.assert_allclose(zlpr_core.zlpr(logits, targets), [true], rtol=1e-13)


@pytest.mark.parametrize("targets", [[1, 0, 0, 1, 0, 0], [0.9, 0.2, 0.0, 1.0, 0.5, 0.05]], ids=["hard", "soft"])
@pytest.mark.parametrize("factor", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("options", [{}, {"threshold": 0.5}, {"weight": [0.5, 2.0, 1.0, 0.0, 3.0, 1.0]}], ids=str)
def test_hessian_diagonal_matches_oracle(targets, factor, options):
    logits = np.asarray([1.2, -0.7, 0.3, -2.0, 0.5, 8.0]) * factor
    exact = {name: np.broadcast_to(value, 6).tolist() for name, value in options.items()}
    true = [float(row[i]) for i, row in enumerate(oracle.zlpr_hessian(logits, targets, **exact))]
    given = {name: np.asarray(value) for name, value in options.items()}
    for library in (np, array_api_strict):
        arrays = [library.asarray(x) for x in (logits, targets)]
        got = zlpr_core.zlpr_hessian_diag(*arrays, **{name: library.asarray(v) for name, v in given.items()})
        np.testing.assert_allclose(np.asarray(got), true, rtol=1e-10, atol=1e-15)
    small = zlpr_core.zlpr_hessian_diag(logits.astype(np.float16), np.asarray(targets))
    assert small.dtype == np.float16
    assert ((small >= 0) & (small <= 0.5)).all()


def test_hessian_diagonal_at_the_edges():
    logits = np.asarray([[np.inf, -np.inf, 1.0, np.nan]])
    got = zlpr_core.zlpr_hessian_diag(logits, np.asarray([[1, 0, 0, 1]]), where=np.asarray([[True, True, True, False]]))
    np.testing.assert_array_equal(got[0, [0, 1, 3]], 0)
    q = np.e / (1 + np.e)
    np.testing.assert_allclose(got[0, 2], q * (1 - q), rtol=1e-14)


def test_no_unsigned_id_is_the_pad():
    with pytest.raises(IndexError, match="Received: 18446744073709551615 at"):
        zlpr_core.sparse_zlpr(LOGITS, np.asarray([[2**64 - 1]], np.uint64))


def test_ids_infer_the_namespace_of_the_logits():
    for library in (np, array_api_strict):
        ids = library.asarray([[0, -1]])
        np.testing.assert_array_equal(
            np.asarray(zlpr_core.sparse_zlpr(library.asarray(LOGITS), ids)), zlpr_core.zlpr(LOGITS, TARGETS)
        )


def test_where_nobody_can_look_an_illegal_id_is_nan_for_its_example():
    blind = namespace_from(np, compiling=lambda: True)
    logits = np.zeros((3, 4))
    got = zlpr_core.sparse_zlpr(logits, np.asarray([[0, 4], [-2, -1], [3, -1]]), xp=blind)
    np.testing.assert_array_equal(np.isnan(got), [True, True, False])
    got = zlpr_core.sparse_zlpr(logits.reshape(3, 2, 2), np.asarray([[0, 4], [1, -1], [3, 9]]), axis=(1, 2), xp=blind)
    np.testing.assert_array_equal(np.isnan(got), [True, False, True])
    assert zlpr_core.span_to_index(np.asarray([1]), np.asarray([8]), 8, xp=blind).tolist() == [64]


FAR, NAN, INF = 1e3, float("nan"), float("inf")
QUICK = {  # logits, targets, whether sums without a shift are exact
    "hard": ([2.0, -1.0, 0.5], [True, False, False], True),
    "hard, absent classes": ([2.0, -INF, INF], [False, False, True], True),
    "hard, far on the wrong side": ([2.0, -1.0, FAR], [True, False, False], False),
    "hard, far on the right side": ([2.0, -FAR, FAR], [True, False, True], True),
    "hard, infinitely wrong": ([INF, 0.0, 1.0], [False, True, False], False),
    "integers": ([2.0, -1.0, 0.5], [1, 0, 0], True),
    "soft": ([2.0, -1.0, 0.5], [0.9, 0.0, 1.0], True),
    "soft, far": ([2.0, -1.0, FAR], [0.9, 0.0, 0.5], False),
    "soft, far on the right side": ([2.0, -FAR, FAR], [0.9, 0.0, 1.0], False),
    "NaN logit": ([2.0, NAN, 0.5], [True, False, False], False),
    "NaN target": ([2.0, -1.0, 0.5], [0.9, NAN, 0.5], False),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("logits", "targets", "exact"), QUICK.values(), ids=QUICK)
def test_quick_totals_know_where_they_are_exact(logits, targets, exact):
    logits, targets = np.asarray([logits]), np.asarray([targets])
    xp = infer(None, logits=logits)
    totals, fits = quick_totals(quick_terms(logits, targets, xp=xp), axis=(1,), xp=xp)
    assert fits.item() is exact
    if exact:
        loss = sum(log_of(total, axis=(1,), xp=xp) for total in totals)
        np.testing.assert_allclose(loss, zlpr_core.zlpr(logits, targets), rtol=1e-15)
    totals = tuple(total_of(side, axis=(1,), xp=xp) for side in read_sides(logits, targets, xp=xp))
    slopes = quick_slopes(logits, targets, scales_of(totals, xp=xp), xp=xp)
    np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(logits, targets), rtol=1e-13, atol=1e-16)
