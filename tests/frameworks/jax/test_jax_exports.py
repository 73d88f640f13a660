"""Every public name of the JAX package: what it takes, and that it traces; and what one device may not notice."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import zlpr_core
import zlpr_jax

RNG = np.random.default_rng(0)
LOGITS, OTHER, SOFT = RNG.normal(0, 3, (4, 3)), RNG.normal(0, 3, (4, 3)), RNG.random((4, 3))
HARD, IDS, SPANS = SOFT > 0.5, np.array([[0, 2], [1, -1], [2, 2], [-1, -1]]), np.array([0, 5, 8, -1])
LAYER = OTHER[:3] + OTHER[:3].T  # symmetric, as JAX's kernel is the transpose of the core's weight
CALLS = {
    "index_to_span": ([SPANS], {"length": 3}),
    "kl_divergence": ([LOGITS, OTHER], {"where": HARD, "scale": 2.0}),
    "linear_zlpr_loss": ([LOGITS, LAYER, SOFT], {"threshold": [0.1, 0.2, 0.3], "chunk": 2}),
    "multi_hot": ([IDS], {"num_classes": 3}),
    "predict": ([LOGITS], {"threshold": [0.1, 0.2, 0.3], "at_least_one": True}),
    "probabilities": ([LOGITS], {"scale": 1.0}),
    "rdrop_zlpr_loss": ([LOGITS, OTHER, HARD], {"weight": [1.0, 2.0, 3.0]}),
    "smooth_labels": ([HARD], {"epsilon": 0.1}),
    "span_to_index": ([SPANS % 3, SPANS // 3], {"length": 3}),
    "sparse_linear_zlpr_loss": ([LOGITS, LAYER, IDS], {"bias": np.arange(3.0, dtype="float32")}),
    "sparse_zlpr_loss": ([LOGITS, IDS], {"pos_weight": np.float32(2)}),
    "symmetric_kl_divergence": ([LOGITS, OTHER], {"axis": (0, 1)}),
    "zlpr_divergence": ([LOGITS, OTHER], {"where": HARD.tolist()}),
    "zlpr_entropy": ([SOFT], {"where": HARD}),
    "zlpr_loss": ([LOGITS, SOFT], {"threshold": np.float64(0.5), "label_smoothing": None, "ignore_index": None}),
    "zlpr_terms": ([LOGITS, SOFT], {"threshold": None, "where": HARD}),
}
every_name = pytest.mark.parametrize("name", CALLS)


def reference(name, arrays, options):
    function = getattr(zlpr_core, name.replace("zlpr_loss", "zlpr"))
    options = {k: v for k, v in options.items() if k not in ("label_smoothing", "ignore_index")}
    positional = [options.pop(k) for k in ("length", "num_classes", "epsilon") if k in options]
    arrays = [np.asarray(a, "float32") if a.dtype == float else a for a in arrays]
    return function(*arrays, *positional, **options)


def check(got, expected):
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-6), got, expected)


def test_every_public_name_is_the_package_s_own():
    assert set(CALLS) | {"check_targets"} == set(zlpr_jax.__all__)
    for name in zlpr_jax.__all__:
        function = getattr(zlpr_jax, name)
        assert function.__module__.startswith("zlpr_jax.")
        assert "xp" not in inspect.signature(function).parameters
        assert ">>>" in function.__doc__


@every_name
def test_lists_numpy_and_jax_arrays_are_taken(name):
    arrays, options = CALLS[name]
    arrays = [np.asarray(a, "float32") if a.dtype == float else a for a in arrays]
    expected = reference(name, arrays, options)
    for convert in (jnp.asarray, np.asarray, np.ndarray.tolist):
        got = getattr(zlpr_jax, name)(*map(convert, arrays), **options)
        check(got, expected)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))


@every_name
def test_every_name_traces(name):
    arrays, options = CALLS[name]
    got = jax.jit(lambda *a: getattr(zlpr_jax, name)(*a, **options))(*map(jnp.asarray, arrays))
    check(got, reference(name, arrays, options))


def test_check_targets_takes_lists():
    zlpr_jax.check_targets([[0, 1], [1, -100]], ignore_index=-100)
    with pytest.raises(ValueError, match=r"Received: 7.0 at \[1, 1\]"):
        zlpr_jax.check_targets([[0.0, 1.0], [0.5, 7.0]])


def test_helpers_name_what_is_wrong():
    with pytest.raises(TypeError, match="`logits` must have a real floating dtype"):
        zlpr_jax.predict([[1, 2]])
    with pytest.raises(TypeError, match="`threshold` must be a real array"):
        zlpr_jax.predict(LOGITS, threshold="high")
    with pytest.raises(ValueError, match="`where` must broadcast to the shape of `logits`"):
        zlpr_jax.kl_divergence(LOGITS, OTHER, where=[True, False])


def test_lists_keep_the_digits_of_float64():
    assert jax.config.jax_enable_x64
    as_list = zlpr_jax.zlpr_loss(LOGITS, HARD, threshold=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(as_list, zlpr_core.zlpr(LOGITS, HARD, threshold=np.array([0.1, 0.2, 0.3])), rtol=1e-14)


def test_values_are_read_on_a_cpu_outside_tracing_only():
    with pytest.raises(IndexError, match=r"Received: 3 at \[0, 0\]"):
        zlpr_jax.sparse_zlpr_loss(LOGITS[:1], jnp.asarray([[3]]))
    assert np.isnan(jax.jit(zlpr_jax.sparse_zlpr_loss)(LOGITS[:1], jnp.asarray([[3]]))).all()
    assert np.isnan(jax.vmap(zlpr_jax.sparse_zlpr_loss)(LOGITS[:1], jnp.asarray([[3]]))).all()


FAR = np.array([[3e3, -2e3, 1e3], [300.0, 2.0, 1.0], [-50.0, 100.0, 1.0], [0.0, 0.5, 1.0]])


@pytest.mark.parametrize("labels", [HARD, HARD.astype(int), SOFT], ids=["bool", "int", "soft"])
@pytest.mark.parametrize(
    ("logits", "sizes"), [(LOGITS, "b, c"), (FAR, "b, c"), (FAR, "b, 3")], ids=["near", "far", "batch"]
)
def test_a_symbolic_shape_exports(logits, sizes, labels):
    """The batch and the classes, or the batch alone; in FAR sums without a shift will not do."""
    shape = export.symbolic_shape(sizes)
    arguments = [jax.ShapeDtypeStruct(shape, a.dtype) for a in (logits, labels)]

    def both(s, t):
        return jax.value_and_grad(lambda s: zlpr_jax.zlpr_loss(s, t).sum())(s)

    exported = export.export(jax.jit(both))(*arguments)
    loss, slopes = exported.call(logits, labels)
    np.testing.assert_allclose(loss, zlpr_core.zlpr(logits, labels).sum(), rtol=1e-12)
    np.testing.assert_allclose(slopes, zlpr_core.zlpr_grad(logits, labels), rtol=1e-11, atol=1e-30)


@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 65, 100])
def test_every_part_of_the_batch_is_replaced(rows, labels):
    """Whatever the number of rows is beside the number of parts."""
    logits, targets = np.tile(FAR, (25, 1))[:rows], np.tile(labels, (25, 1))[:rows]
    got = jax.jit(zlpr_jax.zlpr_loss)(logits, targets)
    np.testing.assert_allclose(got, zlpr_core.zlpr(logits, targets), rtol=1e-13)


@pytest.mark.parametrize("axis", [0, (0, 1), (0, 2), (0, 1, 2)])
def test_every_part_of_the_batch_is_replaced_on_any_axis(axis):
    logits, targets = np.tile(FAR, (2, 1)).reshape(2, 3, 4) / 7, np.tile(HARD, (2, 1)).reshape(2, 3, 4)
    got = jax.jit(zlpr_jax.zlpr_loss, static_argnames="axis")(logits, targets, axis=axis)
    np.testing.assert_allclose(got, zlpr_core.zlpr(logits, targets, axis=axis), rtol=1e-13)


def test_an_eager_call_compiles_once():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    for _ in range(2):
        compiled.clear()
        zlpr_jax.zlpr_loss(LOGITS, SOFT)
    assert not compiled


def test_debug_nans_finds_none():
    logits, labels = jnp.asarray([[3.0, -100.0]], "float32"), jnp.asarray([[1.0, 0.0]], "float32")
    with jax.debug_nans(True):
        np.testing.assert_allclose(zlpr_jax.zlpr_loss(logits, labels), np.log1p(np.exp(-3.0)), rtol=1e-6)
        jax.grad(lambda s: zlpr_jax.zlpr_loss(s, labels).sum())(logits)
