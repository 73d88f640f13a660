"""JAX at its strictest: no implicit promotion of ranks or dtypes, and its hunters of NaN and infinities, eagerly too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zlpr_jax

RNG = np.random.default_rng(0)
LOGITS, OTHER = (jnp.asarray(RNG.normal(0, 3, (4, 3)), "float32") for _ in range(2))
HARD, SOFT = jnp.asarray(RNG.random((4, 3)) < 0.5), jnp.asarray(RNG.random((4, 3)), "float32")
INTEGERS, IDS = jnp.asarray(HARD, "int32"), jnp.asarray([[0, -1], [1, 2], [-1, -1], [2, 2]], "int32")
ROW = jnp.asarray([0.5, 1.0, 2.0], "float32")
OPTIONS = {
    "none": {},
    "where": {"where": jnp.asarray([True, True, False])},
    "weights": {"weight": ROW, "pos_weight": ROW + 1},
    "weights of integers": {"weight": jnp.asarray([1, 2, 3], "int32"), "pos_weight": 2},
    "lists": {"weight": [0.5, 1.0, 2.0], "where": [True, True, False]},
    "threshold": {"threshold": ROW},
    "threshold to learn": {"threshold": jnp.asarray(0.5, "float32")},
    "axes": {"axis": (0, 1), "weight": ROW},
}
LOSSES = {
    "zlpr_loss": lambda s, t, o: zlpr_jax.zlpr_loss(s, t, **o),
    "zlpr_terms": lambda s, t, o: sum(zlpr_jax.zlpr_terms(s, t, **o)),
    "sparse_zlpr_loss": lambda s, t, o: zlpr_jax.sparse_zlpr_loss(s, IDS[0] if "axis" in o else IDS, **o),
    "rdrop_zlpr_loss": lambda s, t, o: zlpr_jax.rdrop_zlpr_loss(s, OTHER.astype(s.dtype), t, **o),
}
DIVERGENCES = {
    name: lambda s, o, of=name: getattr(zlpr_jax, of)(s, OTHER.astype(s.dtype), **o)
    for name in ("kl_divergence", "symmetric_kl_divergence", "zlpr_divergence")
}
HELPERS = {
    "predict": lambda: zlpr_jax.predict(LOGITS, threshold=ROW, at_least_one=True),
    "probabilities": lambda: zlpr_jax.probabilities(LOGITS, scale=2),
    "zlpr_entropy": lambda: zlpr_jax.zlpr_entropy(SOFT, where=[True, True, False]),
    "smooth_labels": lambda: zlpr_jax.smooth_labels(INTEGERS, 0.1),
    "check_targets": lambda: zlpr_jax.check_targets(INTEGERS, ignore_index=-100),
    "multi_hot": lambda: zlpr_jax.multi_hot(IDS, 3),
    "span_to_index": lambda: zlpr_jax.span_to_index(IDS, IDS, 3),
    "index_to_span": lambda: zlpr_jax.index_to_span(IDS, 3),
}


@pytest.fixture
def strict():
    """As in a project that wants every promotion written out."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def with_slopes(function, logits, options):
    """Shapes of value and slopes, for which nothing is compiled."""
    arrays = {name: x for name, x in options.items() if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)}
    jax.eval_shape(function, logits, arrays)
    jax.eval_shape(jax.grad(lambda s, moved: function(s, moved).sum(), argnums=(0, 1)), logits, arrays)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, options):
    half = LOGITS.astype("bfloat16")
    for logits, targets in ((LOGITS, HARD), (LOGITS, INTEGERS), (half, SOFT), (half, SOFT.astype("bfloat16"))):
        own = OPTIONS[options]
        with_slopes(lambda s, moved, t=targets, o=own: LOSSES[name](s, t, {**o, **moved}), logits, own)


@pytest.mark.usefixtures("strict")
def test_options_of_the_adapter():
    for options in ({"label_smoothing": 0.1}, {"ignore_index": -100}, {"ignore_index": -100, "where": [True] * 3}):
        for targets in (INTEGERS, SOFT):
            with_slopes(lambda s, _, t=targets, o=options: zlpr_jax.zlpr_loss(s, t, **o), LOGITS, {})


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences(name):
    for options in ({}, {"where": [True, True, False]}, {"axis": (0, 1)}):
        for logits in (LOGITS, LOGITS.astype("bfloat16")):
            with_slopes(lambda s, _, o=options: DIVERGENCES[name](s, o), logits, {})


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", HELPERS)
def test_helpers(name):
    HELPERS[name]()


def test_nothing_that_runs_eagerly_makes_a_nan_or_an_infinity():
    """Operation by operation, where no fusion hides what is selected away later."""
    logits = jnp.asarray([[3.0, -100.0, 80.0], [80.0, -80.0, 0.0]], "float32")
    labels = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], "float32")
    with jax.debug_nans(True), jax.debug_infs(True):
        for targets, options in ((labels, {}), (labels > 0, {}), (labels, {"weight": ROW, "threshold": ROW})):
            jax.grad(lambda s, t=targets, o=options: zlpr_jax.zlpr_loss(s, t, **o).sum())(logits)
        for divergence in DIVERGENCES:
            jax.grad(lambda s, of=divergence: getattr(zlpr_jax, of)(s, s[:, ::-1]).sum())(logits)
