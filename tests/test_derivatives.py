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


def test_gradient_in_weight(backend, mode, targets):
    weight = np.broadcast_to(WEIGHT, (3, 5))
    rows = zip(LOGITS, targets.tolist(), weight.tolist(), strict=True)
    true = [[float(g) for g in oracle.zlpr_weight_grad(s, t, weight=w)] for s, t, w in rows]
    got = backend.grad(LOGITS, targets, wrt="weight", mode=mode, weight=weight)
    np.testing.assert_allclose(got, true, rtol=1e-12)


def test_gradient_in_threshold_is_minus_that_in_the_logits(backend, mode, targets):
    theta = np.asarray([[0.4], [-1.0], [3.0]])
    got = backend.grad(LOGITS, targets, wrt="threshold", mode=mode, threshold=theta)
    true = -true_gradient(targets, {"threshold": theta}).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, true, rtol=1e-11, atol=1e-14)


def test_extreme_logits_have_finite_derivatives(backend, dtype, mode):
    logits = np.asarray([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]) * 1e4
    for targets in ([[1, 0, 0, 1]] * 2, [[1.0, 0.0, 0.5, 0.5]] * 2):
        targets = np.asarray(targets)
        for product in ("jvp", "hvp"):
            assert np.isfinite(backend.directional(product, logits, targets, np.ones((2, 4)), dtype, mode=mode)).all()
        assert np.isfinite(backend.grad(logits, targets, dtype, mode=mode)).all()
        if targets.dtype.kind == "f":
            assert np.isfinite(backend.grad(logits, targets, "float32", wrt="targets", mode=mode)).all()


def test_inputs_are_not_modified(backend, dtype, mode):
    arguments = backend.problem(LOGITS, SOFT, dtype, weight=WEIGHT, where=np.ones((3, 5), bool), threshold=WEIGHT)
    before = {name: backend.numpy(tensor).copy() for name, tensor in arguments.items()}
    backend.compiled(lambda tensors: backend.losses(**tensors), mode)(arguments)
    backend.gradient(lambda x: backend.total(backend.losses(**{**arguments, "logits": x})), arguments["logits"])
    for name, tensor in arguments.items():
        np.testing.assert_array_equal(backend.numpy(tensor), before[name])
