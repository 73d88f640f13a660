"""One-line breakages of zlpr_tf, on TensorFlow: arguments, Keras spelled as a namespace, classes, the graph's derivative."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("edges", "options"))
TESTS = ("conformance", "frameworks/tf", "frameworks/keras")
CLASSES, LOSSES, MODELS, REDUCTION = (f"zlpr_tf/_{name}.py" for name in ("classes", "losses", "models", "reduction"))
DERIVATIVE, NAMESPACE, SYMBOLIC = (f"zlpr_tf/_{name}.py" for name in ("derivative", "namespace", "symbolic"))
REGRET, UNSHIFTED_REGRET = "zlpr_tf/_regret.py", "zlpr_core/_unshifted_regret.py"
KERAS, TF = ("frameworks/keras",), ("frameworks/tf",)
LINEAR, LINEAR_GRAPH, LINEAR_LAYER = (f"zlpr_tf/_linear{name}.py" for name in ("", "_graph", "_layer"))
LINEARLY, LAYERED = (
    ("frameworks/tf/test_tf_linear.py", "frameworks/keras/test_keras_linear.py"),
    ("frameworks/keras/test_keras_linear_layer.py",),
)
DERIVATIVES, EDGES, OPTIONS = (
    ("conformance/test_derivatives.py",),
    ("conformance/test_edges.py",),
    ("conformance/test_options.py",),
)
REGRETS = ("frameworks/tf/test_tf_divergences.py",)
DIVERGENCES, SPARSE, VALUES = (
    ("conformance/test_divergences.py",),
    ("conformance/test_sparse.py",),
    ("conformance/test_values.py",),
)

MUTANTS = {
    # --- arguments on their way
    "mask dropped": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return _derivative.loss(", "Options.of(scores, None, weight, pos_weight, threshold, xp=xp)\n    return _derivative.loss(", OPTIONS),
    "weight is pos_weight": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return _derivative.loss(", "Options.of(scores, kept, pos_weight, weight, threshold, xp=xp)\n    return _derivative.loss(", OPTIONS),
    "threshold dropped": Mutant(LOSSES, "Options.of(scores, kept, weight, pos_weight, threshold, xp=xp)\n    return _derivative.loss(", "Options.of(scores, kept, weight, pos_weight, None, xp=xp)\n    return _derivative.loss(", OPTIONS),
    "shapes that turn out to differ": Mutant(NAMESPACE, "return ops.reshape(x, ops.shape(like)) if unknown else x", "return x", TF),
    # --- Keras as a namespace
    "numbers through float32": Mutant(NAMESPACE, "return ops.convert_to_tensor(value, dtype=dtype)", "return ops.convert_to_tensor(value)", VALUES),
    "sums in float32": Mutant(NAMESPACE, 'ops.sum(ops.cast(parts, "float64"), axis', "ops.sum(parts, axis", ("frameworks/tf",)),
    "naive sum": Mutant(NAMESPACE, 'if backend.backend() != "tensorflow":', "if True:", (*VALUES, *OPTIONS)),
    "an empty batch": Mutant(NAMESPACE, ", initial=least)", ")", EDGES),
    "classes unsigned": Mutant(NAMESPACE, 'dtype.startswith(("int", "uint"))', 'dtype.startswith("int")', VALUES),
    "bfloat16 is no float": Mutant(NAMESPACE, 'dtype.startswith(("float", "bfloat"))', 'dtype.startswith("float")', VALUES),
    "ids of the first row": Mutant(NAMESPACE, "(*rows, 1)) + ops.zeros_like(ids)", "(*rows, 1)) * 0 + ops.zeros_like(ids)", SPARSE),
    # --- a linear layer and its loss
    "linear: classes counted twice": Mutant(LINEAR_GRAPH, "return None if filling == 0 else (tf.range(self.size) >= filling) | (number > 0)", "return None", LINEARLY),
    "linear: options of all classes": Mutant(LINEAR_GRAPH, "for x in (layer.kernel, layer.bias, *layer.options))", "for x in (layer.kernel, layer.bias, *[None] * 3, 0.0))", LINEARLY),
    "linear: upstream gradient forgotten": Mutant(LINEAR_GRAPH, "(positive + negative) * each[..., None]", "positive + negative", LINEARLY),
    "linear: second order of a constant": Mutant(LINEAR_GRAPH, "return _gradients(layer, sums, each), backward", "return _gradients(layer, sums, each), lambda *_: [None] * (1 + len(tensors))", LINEARLY),
    "linear: total derivatives": Mutant(LINEAR_GRAPH, "stop_gradients=list(given))", "stop_gradients=None)", LINEARLY),
    "linear: derivatives in others, silently": Mutant(LINEAR_GRAPH, "if needs_only_gradients(own, others) and", "if", LINEARLY),
    "linear: ids of other pads": Mutant(LINEAR, "read, _ = read_ids(ids, logits, (len(logits.shape) - 1,), pad, xp=xp)", "read, _ = read_ids(ids, logits, (len(logits.shape) - 1,), -1, xp=xp)", LINEARLY),
    "linear layer: masks of the network": Mutant(LINEAR_LAYER, "where = kept_cells(like, labels, logits, mask_of(features))", "where = kept_cells(like, labels, logits, None)", LAYERED),
    "linear layer: sample_weight dropped": Mutant(LINEAR_LAYER, "total = reduced(losses, where, self.criterion, sample_weight)", "total = reduced(losses, where, self.criterion, None)", LAYERED),
    "linear layer: regularizers dropped": Mutant(LINEAR_LAYER, "return total + super().compute_loss(x, y, y_pred, sample_weight, training) if self.losses else total", "return total", LAYERED),
    # --- classes and models
    "predictions in their own dtype": Mutant(CLASSES, "ops.convert_to_tensor(y_pred, dtype=self.dtype)", "ops.convert_to_tensor(y_pred)", KERAS),
    "sample_weight dropped": Mutant(REDUCTION, "return keras_reduced(losses, losses, sample_weight)", "return keras_reduced(losses, losses)", KERAS),
    "config without its options": Mutant(CLASSES, "{**super().get_config(), **self._options(),", "{**super().get_config(),", KERAS),
    "R-Drop: half the agreement": Mutant(MODELS, "self.alpha / 4 * jeffreys", "self.alpha / 8 * jeffreys", KERAS),
    "R-Drop: ignored cells": Mutant(MODELS, "where = kept_cells(like, y, s, mask_of(first))", "where = None", KERAS),
    "R-Drop: the same pass twice": Mutant(MODELS, "repeated = self(x, training=True)", "repeated = y_pred", KERAS),
    "the mean counts all": Mutant(REDUCTION, "ops.divide_no_nan(keras_reduced(losses, losses, sample_weight), ops.mean(kept))", "keras_reduced(losses, losses, sample_weight)", KERAS),
    "the mean divides by all weights": Mutant(REDUCTION, "kept * _aligned(sample_weight, kept)", "_aligned(sample_weight, kept)", KERAS),
    "the mask of the predictions dropped": Mutant(REDUCTION, "return labelled if where is None else labelled & where", "return labelled", KERAS),
    "functions that saved models do not know": Mutant(SYMBOLIC, 'keras.saving.register_keras_serializable(package="zlpr")(call)', "call", KERAS),
    "options of a functional model lost": Mutant(SYMBOLIC, "self.function(**self.options, **dict(", "self.function(**dict(", KERAS),
    "infinity in a graph": Mutant(NAMESPACE, "if isfinite(value) or not is_in_graph() or is_compiled_by_xla():", "if True:", ("conformance/test_silence.py",)),
    "code that AutoGraph rewrites": Mutant(SYMBOLIC, "    @do_not_convert\n", "", TF),
    # --- the derivative in a graph
    "derivative eagerly": Mutant(NAMESPACE, 'backend.backend() == "tensorflow" and not tf.executing_eagerly()', "False", TF),
    "graph: axes mixed up": Mutant(DERIVATIVE, "ops.transpose(x, (*batch, *axes))", "x", OPTIONS),
    "graph: upstream gradient forgotten": Mutant(DERIVATIVE, "terms.positive * (factors.positive * each.positive)", "terms.positive * factors.positive", TF),
    "graph: upstream gradient forgotten, exact": Mutant(DERIVATIVE, "positive * each[:, :1] +", "positive +", (*VALUES, *TF)),
    "graph: dtype of the gradient": Mutant(DERIVATIVE, "[ops.cast(slope, s.dtype), in_targets", "[slope, in_targets", VALUES),
    "graph: halves swapped": Mutant(DERIVATIVE, "positive, negative = ops.split(columns, 2, axis=1)", "negative, positive = ops.split(columns, 2, axis=1)", VALUES),
    "graph: inexact sums are kept": Mutant(DERIVATIVE, "tf.reduce_all(exact)", "tf.reduce_any(exact)", VALUES),
    "graph: illegal targets": Mutant(DERIVATIVE, "is_usable = (t >= 0) & (t <= 1) & (ops.abs(rising.z) <= log(most))", "is_usable = ops.abs(rising.z) <= log(most)", EDGES),
    "graph: large logits": Mutant(DERIVATIVE, "& (ops.abs(rising.z) <= log(most))", "", (*VALUES, *EDGES)),
    "graph: no gradient in the targets": Mutant(DERIVATIVE, 'if xp.isdtype(t.dtype, "real floating"):\n                (in', "if False:\n                (in", DERIVATIVES),
    "graph: gradient in the threshold": Mutant(DERIVATIVE, "ops.cast(-_sum_to(slope, x), x.dtype)", "ops.cast(_sum_to(slope, x), x.dtype)", TF),
    "graph: rounding error of a threshold": Mutant(DERIVATIVE, "positive * (1 - falling.lost)", "positive", OPTIONS),
    "graph: one NaN half": Mutant(DERIVATIVE, "spread_nan(positive, whole, xp=xp), spread_nan(negative, whole, xp=xp)", "positive, negative", EDGES),
    "graph: second order": Mutant(DERIVATIVE, "tf.gradients(plain, given, upstream_of_gradient, stop", "tf.gradients(plain, given, stop", DERIVATIVES),
    "graph: derivatives of what the upstream gradient is computed of": Mutant(DERIVATIVE, "upstream_of_gradient, stop_gradients=given)", "upstream_of_gradient)", TF),
    "graph: logits that are computed of the labels": Mutant(DERIVATIVE, ", stop_gradients=fixed)", ")", TF),
    # --- the regret under XLA
    "regret: upstream gradient forgotten in p": Mutant(REGRET, "return in_p * each, in_q * each", "return in_p, in_q * each", REGRETS),
    "regret: upstream gradient forgotten, exact": Mutant(REGRET, "[in_p * each, in_q * each]", "[in_p * each, in_q]", REGRETS),
    "regret: one exact row does for all": Mutant(REGRET, "exact = tf.reduce_all(", "exact = tf.reduce_any(", REGRETS),
    "regret: dtype of the gradient": Mutant(REGRET, "ops.cast(in_q, u.dtype)", "in_q", REGRETS),
    "regret: loop in forward mode": Mutant("zlpr_tf/_divergence_derivative.py", " and needs_only_gradients([p, q], [])", "", REGRETS),
    "regret: second order": Mutant(REGRET, "given, list(upstreams), stop", "given, stop", REGRETS),
    "regret: second order of the upstream gradient alone": Mutant(REGRET, "read(*given[:2]), ops", "read(s, u), ops", REGRETS),
    "regret: gradient, floor forgotten": Mutant(UNSHIFTED_REGRET, "floor = cells.weight * (1 / sums.total)", "floor = 0 * cells.weight", REGRETS),
    "regret: gradient, halves of the second": Mutant(UNSHIFTED_REGRET, "_softmax_weights(other, sums.negative, sums.positive)", "_softmax_weights(other, sums.positive, sums.negative)", REGRETS),
    "graph: the last block": Mutant(DERIVATIVE, "first = tf.minimum(first, count - step)", "first = tf.minimum(first, 0)", (*VALUES, *TF)),
}  # fmt: skip
