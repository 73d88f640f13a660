"""One-line breakages of zlpr_tf, on TensorFlow: arguments, Keras spelled as a namespace, classes, the graph's derivative."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("edges", "options"))
TESTS = ("conformance", "frameworks/tf", "frameworks/keras")
CLASSES, LOSSES, MODELS = (f"zlpr_tf/_{name}.py" for name in ("classes", "losses", "models"))
NAMESPACE, RULE = (f"zlpr_tf/_{name}.py" for name in ("namespace", "rule"))
KERAS, TF = ("frameworks/keras",), ("frameworks/tf",)
DERIVATIVES, EDGES, OPTIONS = (
    ("conformance/test_derivatives.py",),
    ("conformance/test_edges.py",),
    ("conformance/test_options.py",),
)
DIVERGENCES, SPARSE, VALUES = (
    ("conformance/test_divergences.py",),
    ("conformance/test_sparse.py",),
    ("conformance/test_values.py",),
)

MUTANTS = {
    # --- arguments on their way
    "mask dropped": Mutant(LOSSES, 'arrays = {"where": kept,', 'arrays = {"where": None,', OPTIONS),
    "weight is pos_weight": Mutant(LOSSES, '"weight": _tensor(weight), "pos_weight"', '"weight": _tensor(pos_weight), "pos_weight"', OPTIONS),
    "threshold dropped": Mutant(LOSSES, "axis=axis, **arrays, threshold=_tensor(threshold), xp=xp)", "axis=axis, **arrays, xp=xp)", OPTIONS),
    "lists through float32": Mutant(LOSSES, "option = np.asarray(option)", "option = np.asarray(option, 'float32')"),
    "shapes that turn out to differ": Mutant(LOSSES, "return ops.reshape(x, ops.shape(like)) if unknown else x", "return x", TF),
    # --- Keras as a namespace
    "numbers through float32": Mutant(NAMESPACE, "x2 = ops.convert_to_tensor(x2, dtype=x1.dtype)", "x2 = ops.convert_to_tensor(x2)", VALUES),
    "naive sum": Mutant(NAMESPACE, 'if backend.backend() != "tensorflow":', "if True:", (*VALUES, *OPTIONS)),
    "an empty batch": Mutant(NAMESPACE, ", initial=-inf)", ")", EDGES),
    "classes unsigned": Mutant(NAMESPACE, 'dtype.startswith(("int", "uint"))', 'dtype.startswith("int")', VALUES),
    "bfloat16 is no float": Mutant(NAMESPACE, 'dtype.startswith(("float", "bfloat"))', 'dtype.startswith("float")', VALUES),
    "ids of the first row": Mutant(NAMESPACE, "row = ops.repeat(ops.arange(prod(rows), dtype=ids.dtype), slots)", "row = 0 * ops.repeat(ops.arange(prod(rows), dtype=ids.dtype), slots)", SPARSE),
    # --- classes and models
    "predictions in their own dtype": Mutant(CLASSES, "ops.convert_to_tensor(y_pred, dtype=self.dtype)", "ops.convert_to_tensor(y_pred)", KERAS),
    "sample_weight dropped": Mutant(CLASSES, "(losses, y_pred, sample_weight)", "(losses, y_pred)", KERAS),
    "config without its options": Mutant(CLASSES, "{**super().get_config(), **self._options(),", "{**super().get_config(),", KERAS),
    "R-Drop: half the agreement": Mutant(MODELS, "self.alpha / 4", "self.alpha / 8", KERAS),
    "R-Drop: ignored cells": Mutant(MODELS, "where = None if ignored is None else", "where = None if True else", KERAS),
    "R-Drop: the same pass twice": Mutant(MODELS, "again = self(x, training=True)", "again = y_pred", KERAS),
    # --- the derivative in a graph
    "derivative eagerly": Mutant(RULE, 'backend.backend() == "tensorflow" and not tf.executing_eagerly()', "False", TF),
    "graph: axes mixed up": Mutant(RULE, "ops.transpose(cells, (*batch, *axes))", "cells", OPTIONS),
    "graph: upstream gradient forgotten": Mutant(RULE, "half * (share * each) for half", "half * share for half", TF),
    "graph: upstream gradient forgotten, exact": Mutant(RULE, "scales_of(_unpacked(columns), xp=xp), xp=xp) * each,", "scales_of(_unpacked(columns), xp=xp), xp=xp),", (*VALUES, *TF)),
    "graph: dtype of the gradient": Mutant(RULE, "for half, share in terms), s.dtype)", 'for half, share in terms), "float32")', VALUES),
    "graph: halves swapped": Mutant(RULE, "positive, negative = ops.split(columns, 2, axis=1)", "negative, positive = ops.split(columns, 2, axis=1)", VALUES),
    "graph: inexact sums are kept": Mutant(RULE, "tf.reduce_all(fits)", "tf.reduce_any(fits)", VALUES),
    "graph: illegal targets": Mutant(RULE, "near = (t >= 0) & (t <= 1) & (ops.abs(s) <= far)", "near = ops.abs(s) <= far", EDGES),
    "graph: far logits": Mutant(RULE, "& (ops.abs(s) <= far)", "", (*VALUES, *EDGES)),
    "graph: no gradient in the targets": Mutant(RULE, 'if xp.isdtype(t.dtype, "real floating") else None\n            return', "if False else None\n            return", DERIVATIVES),
    "graph: second order": Mutant(RULE, "tf.gradients(_plain_pull(s, t, upstream, s), [s, t, upstream], again)", "tf.gradients(_plain_pull(s, t, upstream, s), [s, t, upstream])", DERIVATIVES),
    "graph: the last block": Mutant(RULE, "first = tf.minimum(first, count - step)", "first = tf.minimum(first, 0)", (*VALUES, *TF)),
}  # fmt: skip
