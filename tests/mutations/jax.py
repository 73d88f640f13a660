"""One-line breakages of zlpr_jax, and those of zlpr_core that only automatic differentiation notices."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("derivatives", "options"))
TESTS = ("conformance", "frameworks/jax")
DERIVATIVE, LOSSES, NAMESPACE = (f"zlpr_jax/_{name}.py" for name in ("derivative", "losses", "namespace"))
PAIR_DERIVATIVE = "zlpr_jax/_divergence_derivative.py"
BERNOULLI, PAIRS, REGRET_FILE = (f"zlpr_core/_{name}.py" for name in ("bernoulli", "pairs", "regret"))
BLOCKS = "zlpr_jax/_blocks.py"
UNSHIFTED_REGRET = "zlpr_core/_unshifted_regret.py"
JAX = ("frameworks/jax",)
CORE_LOSSES, LINEAR, PARTS = "zlpr_core/_losses.py", "zlpr_jax/_linear.py", "zlpr_jax/_parts.py"
LINEARLY = ("frameworks/jax/test_jax_linear.py",)
DERIVATIVES, EDGES, OPTIONS = (
    ("conformance/test_derivatives.py",),
    ("conformance/test_edges.py",),
    ("conformance/test_options.py",),
)
DIVERGENCES, ROUNDED, SPARSE, VALUES = (
    ("conformance/test_divergences.py",),
    ("conformance/test_rounding.py",),
    ("conformance/test_sparse.py",),
    ("conformance/test_values.py",),
)

ROUNDING = {
    "lost: regret, positive, sign": Mutant(REGRET_FILE, "Terms(falling, share, falling_lost)", "Terms(falling, share, -falling_lost)", ROUNDED),
    "lost: regret, positive, forgotten": Mutant(REGRET_FILE, "Terms(falling, share, falling_lost)", "Terms(falling, share, 0 * falling_lost)", ROUNDED),
    "lost: regret, negative, sign": Mutant(REGRET_FILE, "Terms(rising, share, rising_lost)", "Terms(rising, share, -rising_lost)", ROUNDED),
    "lost: regret, negative, forgotten": Mutant(REGRET_FILE, "Terms(rising, share, rising_lost)", "Terms(rising, share, 0 * rising_lost)", ROUNDED),
    "lost: agreement, forgotten in both slopes": Mutant(BERNOULLI, "(x, y, gap, lost, xp=xp)", "(x, y, gap, xp=xp)", ROUNDED),
    "lost: agreement, forgotten in the first slope": Mutant(BERNOULLI, "_slope(pair.x, pair.lost[0], xp=xp) * pair.gap - apart", "_slope(pair.x, None, xp=xp) * pair.gap - apart", ROUNDED),
    "lost: agreement, of the other in the second slope": Mutant(BERNOULLI, "_slope(pair.y, pair.lost[1], xp=xp)", "_slope(pair.y, pair.lost[0], xp=xp)", ROUNDED),
}  # fmt: skip

CLOSED = {  # the divergences' derivatives in closed form, the core's and what JAX makes of them
    "KL: slope forgotten": Mutant(BERNOULLI, "_slope(pair.x, pair.lost[0], xp=xp) * pair.gap, _gap", "pair.gap, _gap", DIVERGENCES),
    "KL: gap forgotten": Mutant(BERNOULLI, "_slope(pair.x, pair.lost[0], xp=xp) * pair.gap, _gap", "_slope(pair.x, pair.lost[0], xp=xp), _gap", DIVERGENCES),
    "KL: sign of the second": Mutant(BERNOULLI, "pair.gap, _gap_of_negatives(", "pair.gap, -_gap_of_negatives(", DIVERGENCES),
    "agreement: gap forgotten": Mutant(BERNOULLI, "_slope(pair.x, pair.lost[0], xp=xp) * pair.gap - apart", "_slope(pair.x, pair.lost[0], xp=xp) - apart", DIVERGENCES),
    "agreement: sign of the second": Mutant(BERNOULLI, "in_q = apart - _slope(", "in_q = apart + _slope(", DIVERGENCES),
    "agreement: slope of the other": Mutant(BERNOULLI, "_slope(pair.y, pair.lost[1], xp=xp)", "_slope(pair.x, pair.lost[0], xp=xp)", DIVERGENCES),
    "regret: sign of the second": Mutant(REGRET_FILE, "in_q = negative - positive", "in_q = positive - negative", DIVERGENCES),
    "regret: half the first": Mutant(REGRET_FILE, "in_p = 2 * (read.off *", "in_p = (read.off *", DIVERGENCES),
    "regret: floor forgotten": Mutant(REGRET_FILE, "floor = read.weight / (read.total if sums is None else sums.total)", "floor = 0 * read.weight", DIVERGENCES),
    "regret: on and off": Mutant(REGRET_FILE, "Regret(positive, negative, on, off,", "Regret(positive, negative, off, on,", DIVERGENCES),
    "unshifted regret without its centre": Mutant(UNSHIFTED_REGRET, "terms = _moved(cells, mean, xp=xp)", "mean = 0.0 * mean\n    terms = _moved(cells, mean, xp=xp)", DIVERGENCES),
    "unshifted regret: sums out of range pass": Mutant(UNSHIFTED_REGRET, "total < too_much", "total == total", DIVERGENCES),
    "unshifted regret: first order left": Mutant(UNSHIFTED_REGRET, "exp_minus_one(xp.where(is_near, centred, 0.0)), moved - 1)", "moved - 1, moved - 1)", DIVERGENCES),
    "unshifted regret: the one forgotten": Mutant(UNSHIFTED_REGRET, "(both - one_high * one_low)", "both", DIVERGENCES),
    "unshifted regret: halves of other rows": Mutant(UNSHIFTED_REGRET, "xp.exp(-mean) * total * (1 - fall) - 1", "xp.exp(mean) * total * (1 - fall) - 1", DIVERGENCES),
    "slopes of the scaled logits": Mutant(PAIRS, "pair.scale * gradient, nan)", "gradient, nan)", DIVERGENCES),
    "infinite logits move": Mutant(PAIRS, "xp.where(cells, 0.0, gradient)", "gradient", DIVERGENCES),
    "beside an infinite logit the other is still": Mutant(BERNOULLI, "movable(in_q, pair, values, pair.q_infinite, xp=xp)", "movable(in_q, pair, values, *either, xp=xp)", DIVERGENCES),
    "a NaN stays in its slope": Mutant(PAIRS, "xp.where(values == values, pair.scale * gradient, nan)", "pair.scale * gradient", DIVERGENCES),
    "slopes dropped": Mutant(PAIR_DERIVATIVE, "value_dot = value_dot + jnp.sum(", "value_dot = value_dot + 0 * jnp.sum(", DIVERGENCES),
    "second slope dropped": Mutant(PAIR_DERIVATIVE, "if not isinstance(dot, SymbolicZero):", "if not isinstance(dot, SymbolicZero) and dot is tangents[0]:", DIVERGENCES),
    "slopes summed over all axes": Mutant(PAIR_DERIVATIVE, "dot.astype(gradient.dtype), axis=pair.axes)", "dot.astype(gradient.dtype))", (*DIVERGENCES, *JAX)),
    "tangent of threshold and scale dropped": Mutant(PAIR_DERIVATIVE, "value_dot = _dot_of_arrays(fixed, primals, tangents[2], jnp.zeros_like(value))", "value_dot = jnp.zeros_like(value)", (*DIVERGENCES, *JAX)),
    "tangent of threshold and scale where they do not move": Mutant(PAIR_DERIVATIVE, "{**arrays, **moved}", "{**moved, **arrays}", (*DIVERGENCES, *JAX)),
}  # fmt: skip

MUTANTS = ROUNDING | CLOSED | {
    # --- arguments on their way
    "weight and pos_weight swapped": Mutant(LOSSES, "options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return zlpr(scores", "options = Options.of(scores, kept, pos_weight, weight, threshold, xp=xp)\n    return zlpr(scores", OPTIONS),
    "mask dropped": Mutant(LOSSES, "options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return zlpr(scores", "options = Options.of(scores, None, weight, pos_weight, threshold, xp=xp)\n    return zlpr(scores", OPTIONS),
    "threshold dropped": Mutant(LOSSES, "options = Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return zlpr(scores", "options = Options.of(scores, kept, weight, pos_weight, None, xp=xp)\n    return zlpr(scores", OPTIONS),
    "mask dropped from the terms": Mutant(LOSSES, "terms(scores, targets, axis, Options.of(scores, kept,", "terms(scores, targets, axis, Options.of(scores, None,"),
    "class ids: one beyond the last wraps": Mutant(NAMESPACE, '.set(True, mode="drop")', ".set(True, mode=\"clip\")", SPARSE),
    "tracers are readable": Mutant(NAMESPACE, "if isinstance(x, jax.core.Tracer):\n        return False", "if isinstance(x, jax.core.Tracer):\n        return True", SPARSE),
    "options keep their rank": Mutant(NAMESPACE, "x[(None,) * (rank - x.ndim)]", "x", JAX),
    "a NaN of a divergence stays in its cell": Mutant(PAIRS, "return spread_nan(values, values, xp=xp)", "return values", (*EDGES, *DIVERGENCES)),
    # --- the derivative
    "gradient of the other sign": Mutant(CORE_LOSSES, "xp.where(movable, -positive, 0.0)", "xp.where(movable, positive, 0.0)", OPTIONS),
    "gradient in the dtype of the logits": Mutant(DERIVATIVE, "slope * dot.astype(slope.dtype)", "slope.astype(dot.dtype) * dot", (*VALUES, *JAX)),
    "gradient of masked logits": Mutant(DERIVATIVE, 'is_movable(logits, arrays.get("where"), xp=xp)', "is_movable(logits, None, xp=xp)", (*OPTIONS, *EDGES)),
    "tangent summed over all axes": Mutant(DERIVATIVE, "jnp.sum(cells, axis=fixed.axes)", "jnp.sum(cells)", DERIVATIVES),
    "no derivative in the options": Mutant(DERIVATIVE, "values_dot = _dot_of_arrays(rule, fixed, logits, arrays, rest)", "values_dot = ()", DERIVATIVES),
    "threshold the wrong way": Mutant(DERIVATIVE, "(-1, arrays_dot.get(", "(1, arrays_dot.get(", DERIVATIVES),
    "derivative in the options only": Mutant(DERIVATIVE, "sign * _sum(fixed, slope", "0 * _sum(fixed, slope", VALUES),
    "options swapped in the tangent": Mutant(DERIVATIVE, "_exact_sums(fixed, logits, {**arrays, **moved})", "_exact_sums(fixed, logits, {**moved, **arrays})", DERIVATIVES),
    "one half only": Mutant(DERIVATIVE, "return (positive + negative,)\n\n\ndef _terms(", "return (positive + positive,)\n\n\ndef _terms(", VALUES),
    "a NaN of one half stays there": Mutant(DERIVATIVE, "spread_nan(log, logs[0] + logs[1], xp=xp)", "log", EDGES),
    "the other slope of the halves": Mutant(CORE_LOSSES, "-positive, 0.0), xp.where(movable, negative, 0.0)", "-positive, 0.0), xp.where(movable, -negative, 0.0)", DERIVATIVES),
    "halves swapped in the sums": Mutant(DERIVATIVE, "sum_exp(halves.positive, axis=fixed.axes, xp=xp),\n        sum_exp(halves.negative,", "sum_exp(halves.negative, axis=fixed.axes, xp=xp),\n        sum_exp(halves.positive,", OPTIONS),
    # --- sums without a shift
    "unshifted with options": Mutant(DERIVATIVE, "plain = len(arrays) == 1 and Options(**dict(fixed.options)).are_default", "plain = True", OPTIONS),
    "unshifted with options that are numbers": Mutant(DERIVATIVE, "len(arrays) == 1 and Options(**dict(fixed.options)).are_default", "len(arrays) == 1", OPTIONS),
    "inexact sums are kept": Mutant(DERIVATIVE, "lax.cond(jnp.all(exact),", "lax.cond(jnp.any(exact),", VALUES),
    "a mapped axis is a class": Mutant(BLOCKS, "tuple(axis + 1 for axis in axes)", "axes", JAX),
    "a mapped condition": Mutant(BLOCKS, "    either.def_vmap(mapped)\n    found: Tree = either(", "    found: Tree = partial(function, axes)(", JAX),
    "illegal targets without a shift": Mutant(DERIVATIVE, "(targets.max(fixed.axes, keepdims=True) <= 1)", "(targets.max(fixed.axes, keepdims=True) <= 99)", EDGES),
    "the last part is left out": Mutant(BLOCKS, "fori_loop(0, -(-count // step) if count else 0", "fori_loop(0, -(-count // step) - 1 if count else 0", VALUES),
    "parts of another place": Mutant(BLOCKS, "first = jnp.minimum(part * step, count - step)", "first = jnp.minimum(part, count - step)", VALUES),
    # --- a linear layer and its loss
    "linear: what is left over is forgotten": Mutant(PARTS, "[Chunk(self.classes, done, 1, self.classes - done)] if done < self.classes else []", "[]", LINEARLY),
    "linear: chunks of another place": Mutant(PARTS, "Chunk(self.classes, number * self.size, 1, self.size)", "Chunk(self.classes, number, 1, self.size)", LINEARLY),
    "linear: options not cut": Mutant(LINEAR, 'part.of(option, -1) if hasattr(option, "shape") else option', "option", LINEARLY),
    "linear: bias of the first chunk": Mutant(LINEAR, "part.of(layer.bias, 0)", "layer.bias[: part.size]", LINEARLY),
    "linear: inputs' gradient added up in half precision": Mutant(LINEAR, "x.astype(dtype), weights,", "x, weights,", LINEARLY),
}  # fmt: skip
