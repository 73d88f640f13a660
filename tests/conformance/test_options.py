"""axis, where, weight, pos_weight, threshold, label_smoothing and ignore_index mean what the contract says."""

import numpy as np
import oracle
import pytest
from cases import rounded
from harness.base import ARRAYS
from tolerances import grad_error, value_error
from truth import dense

RNG = np.random.default_rng(8888)
LOGITS = RNG.normal(0, 4, (8, 6)) * np.repeat([[1], [25]], 4, axis=0)
HARD = (RNG.random((8, 6)) < 0.4).astype(int)
SOFT = np.clip(RNG.normal(0.5, 0.5, (8, 6)), 0, 1)
WHERE = RNG.random((8, 6)) < 0.6
WEIGHT = RNG.uniform(0, 3, 6)
OPTIONS = {
    "where": {"where": WHERE},
    "where for each class": {"where": WHERE[:1]},
    "weight": {"weight": WEIGHT},
    "weight for each cell": {"weight": RNG.uniform(0, 3, (8, 6))},
    "number as weight": {"weight": 2.5},
    "0 as weight": {"weight": 0.0},
    "0 as pos_weight": {"pos_weight": 0.0},
    "pos_weight": {"pos_weight": WEIGHT},
    "extreme weights": {"weight": 10.0 ** RNG.uniform(-30, 30, 6)},
    "threshold": {"threshold": WEIGHT},
    "threshold for each example": {"threshold": LOGITS[:, :1]},
    "number as threshold": {"threshold": -1.25},
    "all": {"where": WHERE, "weight": WEIGHT, "pos_weight": WEIGHT[::-1].copy(), "threshold": WEIGHT},
}


def exact(options, dtype):
    """Options in the dtype that computes."""
    wide = "float64" if dtype == "float64" else "float32"
    return {k: v if k == "where" else rounded(v, wide) for k, v in options.items()}


@pytest.mark.spare
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_options_match_oracle(backend, dtype, mode, name, targets, worst):
    logits, targets, options = rounded(LOGITS, dtype), rounded(targets, dtype), exact(OPTIONS[name], dtype)
    losses, grads, sizes = dense(logits, targets, options)
    given = {k: float(v) if v.ndim == 0 else v for k, v in options.items()}
    worst("value", backend, dtype, value_error(backend.loss(logits, targets, dtype, mode=mode, **given), losses, dtype))
    worst(
        "gradient",
        backend,
        dtype,
        grad_error(backend.grad(logits, targets, dtype, mode=mode, **given), grads, sizes, dtype),
    )


@pytest.mark.spare
def test_a_small_loss_survives_the_threshold(backend, dtype, mode, worst):
    """Rounding s - θ alone would cost 4e-6 of the loss here."""
    logits, theta = rounded(np.linspace(-70, -20, 24).reshape(4, 6), dtype), rounded(0.3, "float32")
    losses, _, _ = dense(logits, np.zeros((4, 6), int), {"threshold": theta})
    for threshold in (float(theta), np.full((1, 1), theta)):
        got = backend.loss(logits, np.zeros((4, 6), int), dtype, mode=mode, threshold=threshold)
        worst("value", backend, dtype, value_error(got, losses, dtype))


@pytest.mark.parametrize("axis", [-1, 2, (2,), 0, 1, (1, 2), (-1, -2), (0, 2), (0, 1, 2)])
def test_axis(backend, mode, axis):
    """Class axes are summed away wherever they stand (D17)."""
    logits, targets = RNG.normal(0, 3, (3, 4, 5)), RNG.random((3, 4, 5)) < 0.3
    axes = [a % 3 for a in ((axis,) if isinstance(axis, int) else axis)]
    kept = [a for a in range(3) if a not in axes]
    rows = [
        np.moveaxis(x, axes, range(-len(axes), 0)).reshape(-1, np.prod([x.shape[a] for a in axes]))
        for x in (logits, targets)
    ]
    true = [float(oracle.zlpr(s, t)) for s, t in zip(rows[0], rows[1].tolist(), strict=True)]
    got = backend.loss(logits, targets, mode=mode, axis=axis)
    np.testing.assert_allclose(got, np.reshape(true, [logits.shape[a] for a in kept]), rtol=1e-13)
    assert backend.grad(logits, targets, mode=mode, axis=axis).shape == (3, 4, 5)


@pytest.mark.spare
def test_ten_thousand_classes_on_a_strided_axis(backend, dtype, mode, worst):
    """Where NumPy and TensorFlow add one by one."""
    logits, targets = np.full((10_000, 2), rounded(-7.3, dtype)), np.zeros((10_000, 2), int)
    true = float(oracle.log1p(10_000 * oracle.mpmath.exp(float(logits[0, 0]))))
    got = backend.loss(logits, targets, dtype, mode=mode, axis=0)
    worst("value", backend, dtype, value_error(got, np.full(2, true), dtype))


def test_no_batch_axis(backend, mode):
    got = backend.loss(LOGITS[0], HARD[0], mode=mode)
    assert got.shape == ()
    np.testing.assert_allclose(got, float(oracle.zlpr(LOGITS[0], HARD[0].tolist())), rtol=1e-13)


@pytest.mark.needs("adapter")
@pytest.mark.spare
@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_label_smoothing(backend, dtype, mode, targets, worst):
    """In the dtype that computes, integer targets too."""
    logits, targets = rounded(LOGITS, dtype), rounded(targets, dtype)
    losses, _, _ = dense(logits, 0.875 * targets + 0.0625, {})
    got = backend.loss(logits, targets, dtype, mode=mode, label_smoothing=0.125)
    worst("value", backend, dtype, value_error(got, losses, dtype))
    tenth, _, _ = dense(logits, 0.9 * targets + 0.05, {})
    got = backend.loss(logits, targets, dtype, mode=mode, label_smoothing=0.1)
    assert value_error(got, tenth, dtype).max() <= 1


@pytest.mark.spare
@pytest.mark.needs("adapter")
@pytest.mark.parametrize(
    ("ignored", "kind"),
    [(-100, "int64"), (-1, "int8"), (-1.0, "float32"), (255, "uint8"), (-100, "uint8"), (-100, "float16")],
)
def test_ignore_index(backend, mode, ignored, kind):
    """Ignored cells are masked; a value that the dtype cannot hold ignores nothing (D9, D10)."""
    if kind not in (*backend.dtypes, "int64", "int8", "uint8"):
        pytest.fail(f"{backend.name} has no {kind}")
    holds = not (kind == "uint8" and ignored < 0)
    targets = np.where(WHERE, HARD, ignored).astype(kind) if holds else HARD.astype(kind)
    where = WHERE if holds else np.ones_like(WHERE)
    got = backend.loss(LOGITS, targets, target_dtype=kind, mode=mode, ignore_index=ignored)
    np.testing.assert_allclose(got, backend.loss(LOGITS, HARD, mode=mode, where=where), rtol=1e-14)
    smooth = backend.loss(LOGITS, targets, target_dtype=kind, mode=mode, ignore_index=ignored, label_smoothing=0.1)
    np.testing.assert_allclose(smooth, backend.loss(LOGITS, 0.9 * HARD + 0.05, mode=mode, where=where), rtol=1e-13)
    both = backend.loss(LOGITS, targets, target_dtype=kind, mode=mode, ignore_index=ignored, where=WHERE[::-1].copy())
    np.testing.assert_allclose(both, backend.loss(LOGITS, HARD, mode=mode, where=where & WHERE[::-1]), rtol=1e-14)


def test_none_is_the_default_of_every_option(backend):
    names = ["where", "weight", "pos_weight", "threshold", *(["label_smoothing", "ignore_index"] * backend.adapter)]
    np.testing.assert_array_equal(backend.loss(LOGITS, HARD, **dict.fromkeys(names)), backend.loss(LOGITS, HARD))


@pytest.mark.needs("converts")
@pytest.mark.parametrize("option", ["where", "weight", "pos_weight", "threshold"])
def test_options_as_numpy_users_have_them(backend, option):
    """Arrays, lists and numbers of NumPy, taken with all their digits."""
    values = WHERE[0] if option == "where" else WEIGHT
    numbers = () if option == "where" else (np.float32(0.5), np.float64(0.5), np.float16(0.5))
    logits, targets = backend.native(LOGITS, "float64"), backend.native(HARD, "int64")
    for given, plain in ((values, values), (values.tolist(), values), *((number, 0.5) for number in numbers)):
        got = backend.numpy(backend.losses(logits, targets, **{option: given}))
        np.testing.assert_allclose(got, backend.loss(LOGITS, HARD, mode="eager", **{option: plain}), rtol=1e-15)


DEFAULTS = {  # every option that has another default than None
    "zlpr": ("axis", "threshold"),
    "zlpr_terms": ("axis", "threshold"),
    "sparse_zlpr": ("axis", "threshold", "pad"),
    "rdrop_zlpr": ("axis", "threshold", "alpha", "scale"),
    "kl_divergence": ("axis", "scale"),
    "symmetric_kl_divergence": ("axis", "scale"),
    "zlpr_divergence": ("axis",),
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.needs("whole")
def test_none_is_the_default_beside_another_default(backend, name):
    """As a configuration file leaves it."""
    every = {**dict.fromkeys(ARRAYS[name], np.asarray([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])), "targets": np.eye(2, 3)}
    arguments = {array: every[array] for array in ARRAYS[name] if array != "indices"}
    ids = {"indices": np.asarray([[0, -1], [1, 2]])} if name == "sparse_zlpr" else {}
    for option in DEFAULTS[name]:
        given, left_out = (backend.native_value(name, "float32", **arguments, **ids, **o) for o in ({option: None}, {}))
        for one, other in zip(_halves(given), _halves(left_out), strict=True):
            np.testing.assert_array_equal(backend.numpy(one), backend.numpy(other))


def _halves(value):
    return value if isinstance(value, tuple) else (value,)


def test_none_is_the_default_of_every_option_of_the_helpers(backend):
    logits, targets = backend.native([[1.0, -2.0]], "float32"), backend.native([[1, 0]], "int64")
    calls = {
        "predict": ((logits,), ("threshold", "at_least_one", "axis")),
        "probabilities": ((logits,), ("scale",)),
        "smooth_labels": ((targets, 0.1), ("mode",)),
        "multi_hot": ((targets, 3), ("pad",)),
        "zlpr_entropy": ((targets,), ("axis", "where")),
    }
    for name, (arguments, options) in calls.items():
        function = backend.helper(name)
        for option in options:
            given, left_out = function(*arguments, **{option: None}), function(*arguments)
            np.testing.assert_array_equal(backend.numpy(given), backend.numpy(left_out))
