"""Every derivative that the packages promise: both orders, both modes, every differentiable argument."""

from functools import partial

import numpy as np
import oracle
import pytest

pytestmark = pytest.mark.needs("autodiff")

RNG = np.random.default_rng(9064)
LOGITS = RNG.normal(0, 3, (3, 5))
HARD = np.asarray([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
SOFT = np.asarray([[0.9, 0.2, 0.6, 0.05, 0.5], [0.0, 1.0, 0.3, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
WEIGHT = np.asarray([0.5, 2.0, 1.0, 0.0, 3.0])
TANGENT = RNG.normal(0, 1, (3, 5))
OPTIONS = {
    "plain": {},
    "weighted": {"weight": WEIGHT, "pos_weight": np.asarray([[2.0], [0.5], [1.0]])},
    "threshold": {"threshold": np.asarray([0.3, -0.2, 1.0, 0.0, 2.0])},
    "masked": {"where": np.asarray([[True, False, True, True, True]])},
}


def full(options):
    """Options as the oracle wants them: one row of five for each example."""
    return [{k: np.broadcast_to(v, (3, 5))[row].tolist() for k, v in options.items()} for row in range(3)]


@pytest.fixture(params=[HARD, SOFT], ids=["hard", "soft"])
def targets(request):
    return request.param


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


def true_gradient(targets, options):
    rows = zip(LOGITS, targets.tolist(), full(options), strict=True)
    return np.asarray([[float(b - a) for a, b in oracle.zlpr_grad_parts(s, t, **o)] for s, t, o in rows])


def test_gradient(backend, mode, targets, options):
    got = backend.grad(LOGITS, targets, mode=mode, **options)
    np.testing.assert_allclose(got, true_gradient(targets, options), rtol=1e-12, atol=1e-15)


def test_forward_mode(backend, mode, targets, options):
    got = backend.directional("jvp", LOGITS, targets, TANGENT, mode=mode, **options)
    np.testing.assert_allclose(got, np.sum(true_gradient(targets, options) * TANGENT), rtol=1e-12)


def test_second_order(backend, mode, targets, options):
    rows = zip(LOGITS, targets.tolist(), full(options), strict=True)
    hessians = [np.asarray(oracle.zlpr_hessian(s, t, **o), float) for s, t, o in rows]
    true = np.stack([h @ v for h, v in zip(hessians, TANGENT, strict=True)])
    got = backend.directional("hvp", LOGITS, targets, TANGENT, mode=mode, **options)
    np.testing.assert_allclose(got, true, rtol=1e-11, atol=1e-14)


def test_gradient_in_floating_targets(backend, mode):
    """At targets of exactly 0 and 1 too, where masking by value would make it silently zero."""
    true = [[float(g) for g in oracle.zlpr_target_grad(s, t)] for s, t in zip(LOGITS, SOFT, strict=True)]
    got = backend.grad(LOGITS, SOFT, wrt="targets", mode=mode)
    np.testing.assert_allclose(got, true, rtol=1e-12)


@pytest.mark.spare
@pytest.mark.parametrize("wrt", ["targets", "weight", "pos_weight", "threshold"])
def test_forward_and_second_order_in_the_other_arguments(backend, mode, targets, wrt):
    """Against central differences of the gradient that the tests around this one hold against the oracle."""
    if wrt == "targets" and targets is HARD:
        targets = HARD.astype(float)
    inputs = {"weight": np.full((3, 5), 0.7), "pos_weight": np.full((3, 5), 1.3), "threshold": np.full((3, 5), 0.2)}
    inputs["targets"] = 0.05 + 0.9 * targets if wrt == "targets" else targets
    at = inputs.pop(wrt)
    step = 1e-5 * TANGENT

    def call(method, value, *args):
        arguments = {**inputs, wrt: value}
        return method(LOGITS, arguments.pop("targets"), *args, wrt=wrt, mode=mode, **arguments)

    slope = (call(backend.grad, at + step) - call(backend.grad, at - step)) / 2e-5
    np.testing.assert_allclose(call(partial(backend.directional, "hvp"), at, TANGENT), slope, rtol=1e-6, atol=1e-7)
    jvp = call(partial(backend.directional, "jvp"), at, TANGENT)
    np.testing.assert_allclose(jvp, np.sum(call(backend.grad, at) * TANGENT), rtol=1e-12)


@pytest.mark.spare
def test_gradient_in_weight(backend, mode, targets):
    weight = np.broadcast_to(WEIGHT, (3, 5))
    rows = zip(LOGITS, targets.tolist(), weight.tolist(), strict=True)
    true = [[float(g) for g in oracle.zlpr_weight_grad(s, t, weight=w)] for s, t, w in rows]
    got = backend.grad(LOGITS, targets, wrt="weight", mode=mode, weight=weight)
    np.testing.assert_allclose(got, true, rtol=1e-12)


@pytest.mark.spare
def test_gradient_in_threshold_is_minus_that_in_the_logits(backend, mode, targets):
    theta = np.asarray([[0.4], [-1.0], [3.0]])
    got = backend.grad(LOGITS, targets, wrt="threshold", mode=mode, threshold=theta)
    true = -true_gradient(targets, {"threshold": theta}).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, true, rtol=1e-11, atol=1e-14)


@pytest.mark.spare
def test_extreme_logits_have_finite_derivatives(backend, dtype, mode):
    logits = np.asarray([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]) * 1e4
    for targets in ([[1, 0, 0, 1]] * 2, [[1.0, 0.0, 0.5, 0.5]] * 2):
        targets = np.asarray(targets)
        for product in ("jvp", "hvp"):
            assert np.isfinite(backend.directional(product, logits, targets, np.ones((2, 4)), dtype, mode=mode)).all()
        assert np.isfinite(backend.grad(logits, targets, dtype, mode=mode)).all()
        if targets.dtype.kind == "f":
            assert np.isfinite(backend.grad(logits, targets, "float32", wrt="targets", mode=mode)).all()


@pytest.mark.spare
def test_inputs_are_not_modified(backend, dtype, mode):
    arguments = backend.problem(LOGITS, SOFT, dtype, weight=WEIGHT, where=np.ones((3, 5), bool), threshold=WEIGHT)
    before = {name: backend.numpy(tensor).copy() for name, tensor in arguments.items()}
    backend.compiled(lambda tensors: backend.losses(**tensors), mode)(arguments)
    backend.gradient(lambda x: backend.total(backend.losses(**{**arguments, "logits": x})), arguments["logits"])
    for name, tensor in arguments.items():
        np.testing.assert_array_equal(backend.numpy(tensor), before[name])


@pytest.mark.parametrize("wrt", ["logits", "targets", "weight", "pos_weight", "threshold"])
@pytest.mark.parametrize("scale", [2.0, 65536.0])
def test_a_loss_scale_does_not_overflow(backend, wrt, scale):
    """An upstream gradient as large as GradScaler's leaves slopes finite, beside logits far out or infinite too."""
    ones = np.ones((2, 4))
    options = {"weight": ones, "pos_weight": 2 * ones, "threshold": 0.5 * ones}
    for targets in (np.asarray([[1, 0, 0, 0]] * 2), np.asarray([[1.0, 0.0, 0.5, 0.0]] * 2)):
        if wrt == "targets" and targets.dtype.kind == "i":
            continue
        logits = np.asarray([[2.0, -100.0, 0.5, -1e4], [2.0, -80.0, 100.0, -np.inf]])
        tensors = backend.problem(logits, targets, "float32", **options)
        x = tensors.pop(wrt)
        slope = backend.gradient(lambda at, t=tensors: scale * backend.total(backend.losses(**{**t, wrt: at})), x)
        assert np.isfinite(backend.numpy(slope)).all()


@pytest.mark.spare
@pytest.mark.parametrize("wrt", ["logits", "weight", "threshold"])
@pytest.mark.parametrize("targets", [HARD.astype(float), SOFT], ids=["hard", "soft"])
def test_whatever_a_masked_cell_holds_stays_out_of_every_slope(backend, mode, wrt, targets):
    where = np.asarray([[True, False, True, True, True]])
    clean = {"weight": np.ones((3, 5)), "threshold": np.full((3, 5), 0.5)}
    dirty = {name: np.where(where, value, np.nan) for name, value in clean.items()}
    got = backend.grad(LOGITS, np.where(where, targets, np.nan), wrt=wrt, mode=mode, where=where, **dirty)
    true = backend.grad(LOGITS, targets, wrt=wrt, mode=mode, where=where, **clean)
    np.testing.assert_allclose(got, true, rtol=1e-13, atol=1e-300)


@pytest.mark.needs("adapter")
def test_smoothing_an_ignored_cell_spoils_no_slope(backend, mode):
    targets = np.where(TANGENT > 0, HARD, -100)
    for wrt, option in {"threshold": np.zeros((3, 5)), "weight": np.ones((3, 5))}.items():
        got = backend.grad(LOGITS, targets, wrt=wrt, mode=mode, ignore_index=-100, label_smoothing=0.1, **{wrt: option})
        assert np.isfinite(got).all()
