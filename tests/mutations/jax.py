"""One-line breakages of zlpr_jax, and those of zlpr_core that only automatic differentiation notices."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("derivatives", "options"))
TESTS = ("conformance", "frameworks/jax")
DERIVATIVE, LOSSES, NAMESPACE = (f"zlpr_jax/_{name}.py" for name in ("derivative", "losses", "namespace"))
REGRET_FILE = "zlpr_core/_divergences.py"
JAX = ("frameworks/jax",)
DERIVATIVES, EDGES, OPTIONS = (
    ("conformance/test_derivatives.py",),
    ("conformance/test_edges.py",),
    ("conformance/test_options.py",),
)
REGRET, SPARSE, VALUES = (
    ("conformance/test_rounding.py",),
    ("conformance/test_sparse.py",),
    ("conformance/test_values.py",),
)

ROUNDING = {
    "lost: regret, positive, sign": Mutant(REGRET_FILE, "Terms(falling, share, falling_lost)", "Terms(falling, share, -falling_lost)", REGRET),
    "lost: regret, positive, forgotten": Mutant(REGRET_FILE, "Terms(falling, share, falling_lost)", "Terms(falling, share, 0 * falling_lost)", REGRET),
    "lost: regret, negative, sign": Mutant(REGRET_FILE, "Terms(rising, share, rising_lost)", "Terms(rising, share, -rising_lost)", REGRET),
    "lost: regret, negative, forgotten": Mutant(REGRET_FILE, "Terms(rising, share, rising_lost)", "Terms(rising, share, 0 * rising_lost)", REGRET),
}  # fmt: skip

MUTANTS = ROUNDING | {
    # --- arguments on their way
    "weight and pos_weight swapped": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)", "Options.of(scores, kept, pos_weight, weight, threshold, xp=xp)", OPTIONS),
    "mask dropped": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)", "Options.of(scores, None, weight, pos_weight, threshold, xp=xp)", OPTIONS),
    "threshold dropped": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)", "Options.of(scores, kept, weight, pos_weight, None, xp=xp)", OPTIONS),
    "mask dropped from the terms": Mutant(LOSSES, "zlpr_core.zlpr_terms(scores, targets, axis=axis, **options,", "zlpr_core.zlpr_terms(scores, targets, axis=axis, **{**options, \"where\": None},"),
    "class ids: one beyond the last wraps": Mutant(NAMESPACE, '.set(True, mode="drop")', ".set(True, mode=\"clip\")", SPARSE),
    "tracers are readable": Mutant(NAMESPACE, "if isinstance(x, jax.core.Tracer):\n        return False", "if isinstance(x, jax.core.Tracer):\n        return True", SPARSE),
    "options keep their rank": Mutant(NAMESPACE, "x[(None,) * (rank - x.ndim)]", "x", JAX),
    "a NaN of a divergence stays in its cell": Mutant(REGRET_FILE, "return spread_nan(total, total, xp=xp)", "return total", EDGES),
    # --- the derivative
    "gradient of the other sign": Mutant(DERIVATIVE, "negative - positive, 0.0)", "positive - negative, 0.0)", OPTIONS),
    "gradient in the dtype of the logits": Mutant(DERIVATIVE, "slopes * logits_dot.astype(slopes.dtype)", "slopes.astype(logits_dot.dtype) * logits_dot", (*VALUES, *JAX)),
    "gradient of masked logits": Mutant(DERIVATIVE, 'is_movable(logits, arrays.get("where"), xp=xp)', "is_movable(logits, None)", (*OPTIONS, *EDGES)),
    "tangent summed over all axes": Mutant(DERIVATIVE, "logits_dot.astype(slopes.dtype), axis=fixed.axes)", "logits_dot.astype(slopes.dtype))", DERIVATIVES),
    "no derivative in the options": Mutant(DERIVATIVE, "losses_dot = _dot_of_arrays(fixed, logits, arrays, arrays_dot)", "losses_dot = 0.0", DERIVATIVES),
    "derivative in the options only": Mutant(DERIVATIVE, "losses_dot = losses_dot + jnp.sum(", "losses_dot = losses_dot + 0 * jnp.sum(", VALUES),
    "options swapped in the tangent": Mutant(DERIVATIVE, "_exact_sums(fixed, logits, {**arrays, **moved})", "_exact_sums(fixed, logits, {**moved, **arrays})", DERIVATIVES),
    "one half only": Mutant(DERIVATIVE, "log_sum(sums.positive, axis=fixed.axes, xp=xp) + log_sum(sums.negative, axis=fixed.axes, xp=xp)", "2 * log_sum(sums.positive, axis=fixed.axes, xp=xp)", VALUES),
    "halves swapped in the sums": Mutant(DERIVATIVE, "sum_exp(halves.positive, axis=fixed.axes, xp=xp),\n        sum_exp(halves.negative,", "sum_exp(halves.negative, axis=fixed.axes, xp=xp),\n        sum_exp(halves.positive,", OPTIONS),
    # --- sums without a shift
    "unshifted with options": Mutant(DERIVATIVE, "plain = len(arrays) == 1 and Options(**dict(fixed.options)).are_default", "plain = True", OPTIONS),
    "unshifted with options that are numbers": Mutant(DERIVATIVE, "len(arrays) == 1 and Options(**dict(fixed.options)).are_default", "len(arrays) == 1", OPTIONS),
    "inexact sums are kept": Mutant(DERIVATIVE, "_replaced(jnp.all(exact), sums,", "_replaced(jnp.any(exact), sums,", VALUES),
    "illegal targets without a shift": Mutant(DERIVATIVE, "(targets.max(fixed.axes, keepdims=True) <= 1)", "(targets.max(fixed.axes, keepdims=True) <= 99)", EDGES),
    "the last part is left out": Mutant(DERIVATIVE, "parts = -(-count // step) if count else 0", "parts = -(-count // step) - 1 if count else 0", VALUES),
    "parts of another place": Mutant(DERIVATIVE, "first = jnp.minimum(part * step, count - step)", "first = jnp.minimum(part, count - step)", VALUES),
}  # fmt: skip
