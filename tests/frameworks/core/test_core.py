"""The core as NumPy users meet it: inference of the namespace, an explicit one, no warnings."""

import warnings
from types import SimpleNamespace

import array_api_compat.numpy
import array_api_strict
import numpy as np
import oracle
import pytest
from tolerances import value_error
from truth import divergence

import zlpr_core
from zlpr_core import Namespace
from zlpr_core._namespace import infer, namespace_from
from zlpr_core._options import Options
from zlpr_core._reduce import log_sum, sum_exp
from zlpr_core._targets import prepare_targets
from zlpr_core._terms import Halves, halves_of
from zlpr_core._unshifted import gradient, gradient_factors, unshifted_sums, unshifted_terms

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


IDS = np.asarray([[0, -1], [2, 1]])
OTHER = np.asarray([[1.5, -0.5, 0.25]])
LAYER = np.asarray([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [-1.5, 1.0, 0.5]])
WHERE = np.asarray([True, True, False])
OPTIONS = {"where": WHERE, "weight": np.asarray([1.0, 2.0, 0.5]), "pos_weight": [2, 1, 1], "threshold": np.float32(0.5)}
PUBLIC = {
    "check_targets": lambda xp: zlpr_core.check_targets(TARGETS, xp=xp),
    "index_to_span": lambda xp: zlpr_core.index_to_span(IDS, 4, xp=xp),
    "kl_divergence": lambda xp: zlpr_core.kl_divergence(LOGITS, OTHER, where=WHERE, xp=xp),
    "linear_zlpr": lambda xp: zlpr_core.linear_zlpr(LOGITS, LAYER, TARGETS, chunk=2, **OPTIONS, xp=xp),
    "linear_zlpr_grad": lambda xp: zlpr_core.linear_zlpr_grad(LOGITS, LAYER, TARGETS / 2, bias=LAYER[0], chunk=2, xp=xp),
    "multi_hot": lambda xp: zlpr_core.multi_hot(IDS, 3, xp=xp),
    "predict": lambda xp: zlpr_core.predict(LOGITS, threshold=3.0, at_least_one=True, xp=xp),
    "probabilities": lambda xp: zlpr_core.probabilities(LOGITS, xp=xp),
    "rdrop_zlpr": lambda xp: zlpr_core.rdrop_zlpr(LOGITS, OTHER, TARGETS, **OPTIONS, xp=xp),
    "smooth_labels": lambda xp: zlpr_core.smooth_labels(TARGETS, 0.1, xp=xp),
    "span_to_index": lambda xp: zlpr_core.span_to_index(IDS, IDS, 4, xp=xp),
    "sparse_linear_zlpr": lambda xp: zlpr_core.sparse_linear_zlpr(LOGITS, LAYER, IDS[:1], chunk=2, xp=xp),
    "sparse_zlpr": lambda xp: zlpr_core.sparse_zlpr(LOGITS.reshape(1, 3, 1), [[0]], axis=(1, 2), **{**OPTIONS, "where": None, "weight": None, "pos_weight": None}, xp=xp),
    "symmetric_kl_divergence": lambda xp: zlpr_core.symmetric_kl_divergence(LOGITS, OTHER, xp=xp),
    "zlpr": lambda xp: zlpr_core.zlpr(LOGITS, TARGETS, **OPTIONS, xp=xp),
    "zlpr_divergence": lambda xp: zlpr_core.zlpr_divergence(LOGITS, OTHER, where=WHERE, xp=xp),
    "zlpr_entropy": lambda xp: zlpr_core.zlpr_entropy(LOGITS / 4 + 0.5, where=WHERE, xp=xp),
    "zlpr_grad": lambda xp: zlpr_core.zlpr_grad(LOGITS, TARGETS / 2, **OPTIONS, xp=xp),
    "zlpr_hessian_diag": lambda xp: zlpr_core.zlpr_hessian_diag(LOGITS, TARGETS, **OPTIONS, xp=xp),
    "zlpr_terms": lambda xp: zlpr_core.zlpr_terms(LOGITS, TARGETS, **OPTIONS, xp=xp),
}  # fmt: skip
PROMISED = {*Namespace.__annotations__, *(name for name in vars(Namespace) if not name.startswith("_"))}


@pytest.mark.parametrize("name", sorted(set(zlpr_core.__all__) - {"Array", "LinearGradients", "Namespace"}))
def test_a_new_framework_needs_the_namespace_only(name):
    """Whatever has the protocol's names and no others computes: here NumPy's functions under another roof."""
    library = array_api_compat.numpy
    own = namespace_from(SimpleNamespace(**{member: getattr(library, member) for member in PROMISED}))
    np.testing.assert_equal(PUBLIC[name](own), PUBLIC[name](None))


def test_a_dialect_names_the_arguments():
    own = namespace_from(np, dialect={"logits": "scores"})
    with pytest.raises(TypeError, match="`scores` must have a real floating dtype"):
        zlpr_core.zlpr(TARGETS, TARGETS, xp=own)


def test_none_is_the_default_of_every_option():
    options = dict.fromkeys(("where", "weight", "pos_weight", "threshold"))
    np.testing.assert_array_equal(zlpr_core.zlpr(LOGITS, TARGETS, **options), zlpr_core.zlpr(LOGITS, TARGETS))
    np.testing.assert_array_equal(zlpr_core.predict(LOGITS, threshold=None), zlpr_core.predict(LOGITS))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_as_lists_keep_the_digits_of_the_logits(dtype):
    logits, numbers = LOGITS.astype(dtype), [[0.1, 0.2, 0.7]]
    for option in ("weight", "pos_weight", "threshold"):
        listed = zlpr_core.zlpr(logits, TARGETS, **{option: numbers})
        np.testing.assert_array_equal(listed, zlpr_core.zlpr(logits, TARGETS, **{option: np.asarray(numbers)}))
    listed = zlpr_core.zlpr(logits, TARGETS, where=[[True, False, True]])
    np.testing.assert_array_equal(listed, zlpr_core.zlpr(logits, TARGETS, where=np.asarray([True, False, True])))


@pytest.mark.parametrize("option", [{"weight": "a"}, {"threshold": object()}, {"where": [0, 1, 0]}, {"weight": [1j]}])
def test_an_option_that_no_array_can_be_made_of(option):
    with pytest.raises(TypeError, match=rf"^`{next(iter(option))}` must be a (real|bool) array, .* Received: "):
        zlpr_core.zlpr(LOGITS, TARGETS, **option)


def test_an_infinite_weight_is_no_weight():
    for weight in (np.inf, np.asarray([1.0, np.inf, 1.0])):
        assert np.isnan(zlpr_core.zlpr(LOGITS, TARGETS, weight=weight)).all()


def test_nan_can_mean_not_labelled():
    marked = np.asarray([[1.0, np.nan, 0.0]])
    targets, where = prepare_targets(marked, None, LOGITS, label_smoothing=None, ignore_index=np.nan, xp=infer(np))
    np.testing.assert_array_equal(where, [[True, False, True]])
    np.testing.assert_array_equal(
        zlpr_core.zlpr(LOGITS, targets, where=where), zlpr_core.zlpr(LOGITS[:, ::2], TARGETS[:, ::2])
    )
    zlpr_core.check_targets(marked, ignore_index=np.nan)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("targets", [TARGETS, np.asarray([[0.9, 0.0, 1.0]])], ids=["hard", "soft"])
def test_healthy_input_sets_off_no_floating_point_error(targets):
    """So that a user who hunts a NaN by ``np.errstate`` finds his own."""
    with np.errstate(all="raise", under="ignore"):
        for logits in (LOGITS, 40 * LOGITS, -40 * LOGITS):
            for call in (zlpr_core.zlpr, zlpr_core.zlpr_grad, zlpr_core.zlpr_hessian_diag):
                call(logits, targets, **OPTIONS)
                call(logits, targets)
            for divergence in (zlpr_core.kl_divergence, zlpr_core.symmetric_kl_divergence, zlpr_core.zlpr_divergence):
                divergence(logits, OTHER)


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
    blind = namespace_from(np, readable=lambda x: False)
    logits = np.zeros((3, 4))
    got = zlpr_core.sparse_zlpr(logits, np.asarray([[0, 4], [-2, -1], [3, -1]]), xp=blind)
    np.testing.assert_array_equal(np.isnan(got), [True, True, False])
    got = zlpr_core.sparse_zlpr(logits.reshape(3, 2, 2), np.asarray([[0, 4], [1, -1], [3, 9]]), axis=(1, 2), xp=blind)
    np.testing.assert_array_equal(np.isnan(got), [True, False, True])
    assert zlpr_core.span_to_index(np.asarray([1]), np.asarray([8]), 8, xp=blind).tolist() == [64]


FAR, NAN, INF = 1e3, float("nan"), float("inf")
UNSHIFTED = {  # logits, targets, whether sums without a shift are exact
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
@pytest.mark.parametrize("one_exponential", [False, True])
@pytest.mark.parametrize(("logits", "targets", "exact"), UNSHIFTED.values(), ids=UNSHIFTED)
def test_unshifted_sums_know_where_they_are_exact(logits, targets, exact, one_exponential):
    logits, targets = np.asarray([logits]), np.asarray([targets])
    xp = infer(None, logits=logits)
    sums, is_exact = unshifted_sums(
        unshifted_terms(logits, targets, one_exponential=one_exponential, xp=xp), axis=(1,), xp=xp
    )
    assert is_exact.item() is exact
    if exact:
        halves = [log_sum(half, axis=(1,), xp=xp) for half in sums]
        np.testing.assert_allclose(halves, zlpr_core.zlpr_terms(logits, targets), rtol=1e-15)
    shifted = Halves(*(sum_exp(half, axis=(1,), xp=xp) for half in halves_of(logits, targets, Options(), xp=xp)))
    slopes = gradient(logits, targets, gradient_factors(shifted, xp=xp), xp=xp)
    np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(logits, targets), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("pair", ["one label", "confident", "near"])
def test_a_divergence_leaves_room_for_a_gpu(pair):
    """Its exponential, logarithm and quotient are off by a unit or two in the last place. Here they are rounded correctly."""

    def rounded_from_wide(function):
        return lambda x: function(x.astype(float)).astype(x.dtype)

    xp = namespace_from(array_api_compat.numpy, exp=rounded_from_wide(np.exp), log1p=rounded_from_wide(np.log1p))
    p, q, true, _ = divergence("kl_divergence", pair, "float32", None)
    got = zlpr_core.kl_divergence(p.astype("float32"), q.astype("float32"), xp=xp)
    assert value_error(got, true, "float32").max() < 0.55
