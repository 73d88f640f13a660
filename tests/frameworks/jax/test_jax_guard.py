"""The sums without a shift and the condition that guards them, as XLA gets them on a CPU and, forced here, on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zlpr_core
from zlpr_jax import zlpr_loss, zlpr_terms

RNG = np.random.default_rng(18)
ROWS, CLASSES = 6, 5
NEAR = RNG.normal(0, 3, (ROWS, CLASSES))
FAR = NEAR.copy()
FAR[2] *= 300  # one row for which sums without a shift will not do
HARD, SOFT = RNG.random((ROWS, CLASSES)) < 0.4, RNG.random((ROWS, CLASSES))
TANGENT = RNG.normal(size=(ROWS, CLASSES))

every_logits = pytest.mark.parametrize("logits", [NEAR, FAR], ids=["near", "far"])
every_labels = pytest.mark.parametrize("labels", [HARD, HARD.astype(int), SOFT], ids=["bool", "int", "soft"])


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def platform(request, monkeypatch):
    if request.param != "cpu":
        jax.clear_caches()  # of what was traced for a CPU
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: request.param)
        yield request.param
    if request.param != "cpu":
        jax.clear_caches()


def total(logits, labels):
    return zlpr_loss(logits, labels).sum()


def equations(jaxpr):
    """All of a program, those of the programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def count(function, name, *arrays):
    """How often an operation stands in what ``function`` traces to."""
    return sum(equation.primitive.name == name for equation in equations(jax.make_jaxpr(function)(*arrays).jaxpr))


@every_labels
@every_logits
def test_values_and_slopes(logits, labels):
    got, slopes = jax.jit(jax.value_and_grad(total))(logits, labels)
    np.testing.assert_allclose(got, zlpr_core.zlpr(logits, labels).sum(), rtol=1e-13)
    np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(logits, labels), rtol=1e-12, atol=1e-30)
    for half, true in zip(zlpr_terms(logits, labels), zlpr_core.zlpr_terms(logits, labels), strict=True):
        np.testing.assert_allclose(half, true, rtol=1e-13)


@every_labels
@every_logits
def test_forward_mode_and_second_order(logits, labels):
    slopes = zlpr_core.zlpr_grad(logits, labels)
    along = jax.jvp(lambda s: zlpr_loss(s, labels), (logits,), (TANGENT,))[1]
    np.testing.assert_allclose(along, (slopes * TANGENT).sum(-1), rtol=1e-11)
    got = jax.jit(jax.jacfwd(jax.grad(total)))(NEAR, labels)
    step = 1e-5
    ends = (zlpr_core.zlpr_grad(NEAR + sign * step * TANGENT, labels) for sign in (1, -1))
    np.testing.assert_allclose(np.tensordot(got, TANGENT, 2), np.subtract(*ends) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["bool", "soft"])
@every_logits
def test_mapped_over_any_axis_of_either_argument(logits, labels):
    true, slopes = zlpr_core.zlpr(logits, labels), zlpr_core.zlpr_grad(logits, labels)
    np.testing.assert_allclose(jax.vmap(zlpr_loss)(logits, labels), true, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(zlpr_loss, in_axes=(1, 0))(logits.T, labels), true, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(jax.grad(zlpr_loss))(logits, labels), slopes, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(
        jax.grad(lambda s: jax.vmap(zlpr_loss)(s, labels).sum())(logits), slopes, rtol=1e-12, atol=1e-30
    )
    pairs = jax.vmap(jax.vmap(zlpr_loss, in_axes=(None, 0)), in_axes=(0, None))(
        logits, labels
    )  # every row with every row
    rows = [zlpr_core.zlpr(np.broadcast_to(row, labels.shape), labels) for row in logits]
    np.testing.assert_allclose(pairs, rows, rtol=1e-13)
    onto_columns = jax.vmap(lambda s, t: zlpr_loss(s, t, axis=0), in_axes=1)(logits.T, labels.T)
    np.testing.assert_allclose(onto_columns, true, rtol=1e-13)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["bool", "soft"])
def test_one_condition_however_it_is_mapped(labels):
    """A mapped ``cond`` would be a select: both ways in every call."""
    cubes = [np.broadcast_to(x, (3, *x.shape)) for x in (NEAR, labels)]
    for function, arrays in (
        (zlpr_loss, (NEAR, labels)),
        (jax.vmap(zlpr_loss), (NEAR, labels)),
        (jax.vmap(jax.vmap(zlpr_loss)), cubes),
        (jax.grad(lambda s, t: jax.vmap(zlpr_loss)(s, t).sum()), (NEAR, labels)),
    ):
        assert count(function, "cond", *arrays) == 1
        (condition,) = (e for e in equations(jax.make_jaxpr(function)(*arrays).jaxpr) if e.primitive.name == "cond")
        assert condition.invars[0].aval.shape == ()


def test_one_exponential_for_both_halves_on_a_gpu(platform):
    """Beside the two of the exact way, which both have."""
    assert count(zlpr_loss, "exp", NEAR, HARD) == (3 if platform == "gpu" else 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", [bool, float])
def test_no_tool_finds_anything(kind, dtype):
    """On logits within ±80, eagerly, traced and mapped; sums without a shift will not do for them in float32."""
    logits = jnp.asarray(np.where(np.arange(ROWS * CLASSES).reshape(ROWS, CLASSES) % 2, 80.0, -80.0), dtype)
    labels = jnp.asarray(HARD if kind is bool else SOFT, bool if kind is bool else dtype)
    with jax.debug_nans(True), jax.debug_infs(True):
        for function in (total, jax.jit(total), lambda s, t: jax.vmap(zlpr_loss)(s, t).sum()):
            value, slopes = jax.value_and_grad(function)(logits, labels)
            assert np.isfinite(np.asarray(value, float))
            assert np.isfinite(np.asarray(slopes, float)).all()


@pytest.mark.parametrize("bad", [-0.5, 1.5, np.nan])
def test_an_illegal_target_spoils_its_example_only(bad):
    labels = SOFT.copy()
    labels[3, 1] = bad
    spoilt = np.arange(ROWS) == 3
    for got in (zlpr_loss(NEAR, labels), jax.vmap(zlpr_loss)(NEAR, labels)):
        np.testing.assert_array_equal(np.isnan(got), spoilt)
    np.testing.assert_array_equal(np.isnan(jax.grad(total)(NEAR, labels)).any(-1), spoilt)
