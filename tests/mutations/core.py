"""One-line breakages of zlpr_core, which NumPy notices. mutations/jax.py has those that need automatic differentiation."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("values", "options", "rounding", "edges"))
TESTS = ("conformance", "frameworks/core")
CHECKS, DECODING, NAMESPACE = (f"zlpr_core/_{name}.py" for name in ("checks", "decoding", "namespace"))
DIVERGENCES, INDICES, LOGISTIC = (f"zlpr_core/_{name}.py" for name in ("divergences", "indices", "logistic"))
LOSSES, OPTIONS, REDUCE = (f"zlpr_core/_{name}.py" for name in ("losses", "options", "reduce"))
PARTS = "zlpr_core/_parts.py"
LINEARLY = ("frameworks/core/test_core_linear.py",)
BERNOULLI, PAIRS, REGRET = (f"zlpr_core/_{name}.py" for name in ("bernoulli", "pairs", "regret"))
TARGETS, TERMS, UNSHIFTED = (f"zlpr_core/_{name}.py" for name in ("targets", "terms", "unshifted"))

ROUNDING = {  # every use of `lost`, the rounding error of subtracting a threshold
    "lost: not measured": Mutant(TERMS, "xp.where(abs(lost) < 0.01, lost, 0.0)", "0.0 * lost"),
    "lost: of the other sign": Mutant(TERMS, "xp.where(abs(lost) < 0.01, lost, 0.0)", "xp.where(abs(lost) < 0.01, -lost, 0.0)"),
    "lost: what the threshold lost": Mutant(TERMS, "(finite - (difference - part)) - (theta + part)", "finite - (difference - part)"),
    "lost: what the logit lost": Mutant(TERMS, "(finite - (difference - part)) - (theta + part)", "-(theta + part)"),
    "lost: positives, sign": Mutant(TERMS, "None if lost is None else -lost", "lost"),
    "lost: positives, forgotten": Mutant(TERMS, "None if lost is None else -lost", "None"),
    "lost: negatives, sign": Mutant(TERMS, "_half(z, rest, [weight], lost, xp=xp)", "_half(z, rest, [weight], None if lost is None else -lost, xp=xp)"),
    "lost: negatives, forgotten": Mutant(TERMS, "_half(z, rest, [weight], lost, xp=xp)", "_half(z, rest, [weight], None, xp=xp)"),
    "lost: forgotten in the sums": Mutant(REDUCE, "scaled if terms.lost is None else scaled * (1 + terms.lost)", "scaled"),
    "lost: sign in the sums": Mutant(REDUCE, "scaled * (1 + terms.lost)", "scaled * (1 - terms.lost)"),
    "lost: sigmoids, both minus": Mutant(LOGISTIC, "xp.where(is_positive, -lost, lost)", "-lost"),
    "lost: sigmoids, both plus": Mutant(LOGISTIC, "xp.where(is_positive, -lost, lost)", "lost"),
    "lost: sigmoids, forgotten": Mutant(LOGISTIC, "small if lost is None else small *", "small if True else small *"),
    "lost: gap, forgotten in x": Mutant(LOGISTIC, "tail(x, lost[0], xp=xp)", "tail(x, xp=xp)"),
    "lost: gap, forgotten in y": Mutant(LOGISTIC, "tail(y, lost[1], xp=xp)", "tail(y, xp=xp)"),
    "lost: gap, of the other in x": Mutant(LOGISTIC, "tail(x, lost[0], xp=xp)", "tail(x, lost[1], xp=xp)"),
    "lost: gap, of the other in y": Mutant(LOGISTIC, "tail(y, lost[1], xp=xp)", "tail(y, lost[0], xp=xp)"),
    "lost: forgotten in R-Drop": Mutant(BERNOULLI, "cells = logistic_gap(pair.x, pair.y, pair.gap, pair.lost, xp=xp)", "cells = logistic_gap(pair.x, pair.y, pair.gap, xp=xp)"),
    "lost: not scaled": Mutant(PAIRS, "else scale * keep(lost, where, xp=xp)", "else keep(lost, where, xp=xp)"),
    "lost: sign where scaled": Mutant(PAIRS, "else scale * keep(lost, where, xp=xp)", "else -scale * keep(lost, where, xp=xp)"),
    "lost: of the other logits": Mutant(PAIRS, "(x_lost, y_lost)", "(y_lost, x_lost)"),
    "lost: regret, shift, sign": Mutant(REGRET, "(1 + total.rest) * (1 + lost)", "(1 + total.rest) * (1 - lost)"),
    "lost: regret, shift, forgotten": Mutant(REGRET, "(1 + total.rest) * (1 + lost)", "(1 + total.rest)"),
}  # fmt: skip

MUTANTS = ROUNDING | {
    # --- the terms of the two halves
    "drop the threshold": Mutant(TERMS, "return z - theta, xp", "return z, xp"),
    "threshold the wrong way": Mutant(TERMS, "return z - theta, xp", "return z + theta, xp"),
    "swap the sign of the positives": Mutant(TERMS, "_half(-z, t,", "_half(z, t,"),
    "swap the sign of the negatives": Mutant(TERMS, "_half(z, rest,", "_half(-z, rest,"),
    "swap the halves": Mutant(TERMS, "return Halves(positive, _half(z, rest, [weight], lost, xp=xp))", "return Halves(_half(z, rest, [weight], lost, xp=xp), positive)"),
    "feed hard code to soft labels": Mutant(TERMS, "read_targets(targets, dtype,", "read_targets(targets > 0.5, dtype,"),
    "hard cells in both halves": Mutant(TERMS, "logit = xp.where(share, logit, absent(logit.dtype, xp=xp))", "pass"),
    "cast to half inside": Mutant(TERMS, "z = xp.astype(logits, dtype)", "z = xp.astype(logits, xp.float16)"),
    "weight forgotten in the negatives": Mutant(TERMS, "_half(z, rest, [weight],", "_half(z, rest, [],"),
    "pos_weight on the negatives": Mutant(TERMS, "_half(z, rest, [weight],", "_half(z, rest, [weight, pos_weight],"),
    "pos_weight forgotten": Mutant(TERMS, "[weight, pos_weight]", "[weight]"),
    "weights replace each other": Mutant(TERMS, "weight = factor if weight is None else factor * weight", "weight = factor"),
    "mask keeps its NaN": Mutant(TERMS, "z, lost, t = keep(z, where, xp=xp), ", "z, lost, t = z, "),
    "mask forgotten in the negatives": Mutant(TERMS, "rest = keep(~t if xp.isdtype(t.dtype, \"bool\") else 1 - t, where, xp=xp)", "rest = ~t if xp.isdtype(t.dtype, \"bool\") else 1 - t"),
    "illegal targets pass": Mutant(TERMS, "if legal is not None:", "if False:"),
    "illegal soft targets pass": Mutant(TERMS, "xp.where(legal, t, nan)", "t"),
    "a NaN stays in its half": Mutant(LOSSES, "loss = positive + negative\n    return", "loss = negative\n    return"),
    "longdouble computes in float32": Mutant(NAMESPACE, "xp.finfo(dtype).bits > 32", "xp.finfo(dtype).bits == 64"),
    "an unknown size fits none": Mutant(CHECKS, "or left != left or right != right", ""),
    "multi-hot ids pass": Mutant(INDICES, "_refuse_multi_hot(ids, classes, pad, xp=xp)\n    _refuse", "_refuse"),
    "illegal weights pass": Mutant(TERMS, "xp.where((weight >= 0) & (weight <= largest(like.dtype, xp=xp)), weight, nan)", "weight"),
    "an illegal number as weight passes": Mutant(TERMS, "(weight if 0 <= weight < inf else nan)", "weight"),
    "infinite logits can move": Mutant(TERMS, "finite: Any = ~(abs(logits) > largest(logits.dtype, xp=xp))", "finite: Any = logits == logits"),
    # --- the log-sum-exp
    "log instead of log1p": Mutant(REDUCE, "xp.log1p(total.rest)", "xp.log(1 + total.rest)"),
    "forget the one": Mutant(REDUCE, "xp.log1p(total.rest)", "xp.log(total.rest)"),
    "count the one twice": Mutant(REDUCE, "one = xp.expm1(", "one = xp.exp("),
    "no shift": Mutant(REDUCE, "xp.floor(xp.where(highest > 0, highest, 0.0))", "0 * highest"),
    "forget the absent in the maximum": Mutant(REDUCE, "return xp.where(present, log_weight + terms.logit, absent(terms.logit.dtype, xp=xp))", "return terms.logit"),
    "no cap beside zero weights": Mutant(REDUCE, "xp.where((gap > cap) & (weight <= 0), cap, gap)", "gap"),
    "infinite logits meet": Mutant(REDUCE, "xp.where(terms.logit > most, most,", "xp.where(terms.logit > most, inf,"),
    "softmax without the one": Mutant(REDUCE, "/ (1 + total.rest)", "/ total.rest"),
    # --- the public losses
    "swap the sign of the gradient": Mutant(LOSSES, "-positive, 0.0), xp.where(movable, negative, 0.0)", "positive, 0.0), xp.where(movable, -negative, 0.0)"),
    "gradient in the dtype that computes": Mutant(LOSSES, "infer(xp, logits=logits, targets=targets).astype(negative + positive, logits.dtype)", "negative + positive"),
    "curvature without its square": Mutant(LOSSES, "positive * (1 - positive) +", "positive +"),
    "half the entropy": Mutant(LOSSES, "= 2 * xp.squeeze", "= xp.squeeze"),
    "one half only": Mutant(LOSSES, "loss: ArrayT = positive + negative", "loss: ArrayT = positive"),
    "weight lost on the way of class ids": Mutant(LOSSES, 'options: Any = {"weight": weight,', 'options: Any = {"weight": None,'),
    # --- options and checks
    "a threshold alone is the default": Mutant(OPTIONS, "and pos_weight is None and is_zero(threshold)", "and pos_weight is None"),
    "options of any shape": Mutant(OPTIONS, "if not broadcasts(tuple(array.shape), tuple(logits.shape))", "if False"),
    "options of any kind": Mutant(OPTIONS, "if not _has_kind(array, kinds, xp=xp)", "if False"),
    "targets broadcast": Mutant(CHECKS, "if not same_shape(logits.shape, targets.shape)", "if False"),
    "an axis twice": Mutant(CHECKS, "len(set(axes)) != len(axes) or ", ""),
    "naive sum": Mutant(NAMESPACE, "if name in _NAIVE_SUM else", "if False else"),
    "compute float64 in float32": Mutant(NAMESPACE, "return xp.float64 if is_wide else xp.float32", "return xp.float32"),
    # --- targets
    "mixup rounding is illegal": Mutant(TARGETS, "slack = 8 *", "slack = 0 *"),
    "a rounding beyond 1 stays": Mutant(TARGETS, "xp.where(soft > 1, 1.0, soft), legal", "soft, legal"),
    "smoothing forgets its half": Mutant(TARGETS, 'epsilon / 2 if mode == "symmetric"', 'epsilon if mode == "symmetric"'),
    "any integer is a label": Mutant(TARGETS, "return targets == 1, (targets == 0) | (targets == 1)", "return targets == 1, targets == targets"),
    # --- class ids
    "class ids off by one": Mutant(INDICES, "xp.mark(xp.where(unused, classes, ids), classes)", "xp.mark(xp.where(unused, classes, ids + 1), classes)"),
    "one id beyond the last passes": Mutant(INDICES, "(ids >= classes)", "(ids > classes)"),
    "padding is a class": Mutant(INDICES, "unused = outside | (ids == pad)", "unused = outside"),
    "class axes out of place": Mutant(INDICES, "tuple(order.index(a) for a in range(len(sizes)))", "order"),
    "an illegal id goes unnoticed while tracing": Mutant(INDICES, "Ids(ids, unused, xp.any(outside, axis=-1))", "Ids(ids, unused, xp.any(outside & (ids < 0), axis=-1))"),
    "end before start": Mutant(INDICES, "first * length + last", "last * length + first"),
    # --- decoding
    "σ(s) for σ(2s)": Mutant(DECODING, "2.0 if scale is None else scale", "1.0 if scale is None else scale"),
    "predict at the threshold": Mutant(DECODING, "margin > 0", "margin >= 0"),
    # --- divergences
    "first order left in KL": Mutant(BERNOULLI, "exp_minus_line(r * off)", "exp_minus_line(r)"),
    "fewer terms": Mutant(LOGISTIC, "z * (135135 + z * (990 + z))", "z * 135135"),
    "one of two products": Mutant(LOGISTIC, "more - less) /", "more) /"),
    "scale in the probabilities only": Mutant(PAIRS, "return Pair(x, y, scale * (s - u),", "return Pair(x, y, (s - u),"),
    "gap rounded by the threshold": Mutant(PAIRS, "return Pair(x, y, scale * (s - u),", "return Pair(x, y, x - y,"),
    "threshold of the first logits only": Mutant(PAIRS, "_scaled(u, threshold, where,", "_scaled(u, 0.0, where,"),
    "masked cells apart": Mutant(PAIRS, "keep(xp.astype(q, dtype), where, xp=xp)", "xp.astype(q, dtype)"),
    "the first logits' dtype computes": Mutant(PAIRS, "if xp.float64 in wide", "if xp.float64 == wide[0]"),
    "impossible is finite": Mutant(BERNOULLI, "xp.where(pair.q_infinite & pair.differ, inf, cells)", "cells"),
    "agreeing infinities cost": Mutant(PAIRS, "abs(u) > most, s != u", "abs(u) > most, s == s"),
    "twice the agreement": Mutant(DIVERGENCES, "(alpha / 4)", "(alpha / 2)"),
    "R-Drop's divergence at another threshold": Mutant(DIVERGENCES, "pair = read_pair(logits1, logits2, axis, options,", "pair = read_pair(logits1, logits2, axis, Options(where),"),
    "regret without its centre": Mutant(REGRET, "negative, xp.where(near, mean, 0.0), near", "negative, 0.0 * mean, near"),
    "regret by three logarithms": Mutant(REGRET, "xp.where(near, xp.stop_gradient(xp.log1p(centred)) + slopes, direct)", "direct"),
    "masked labels weigh in the regret": Mutant(REGRET, "keep(more, pair.where, xp=xp)", "more"),
    # --- sums without a shift
    "sums out of range pass": Mutant(UNSHIFTED, "(positive < most) & (negative < most)", "(positive == positive) & (negative == negative)"),
    "unshifted terms that share an exponential, swapped": Mutant(UNSHIFTED, "Halves(xp.where(hard, exp, 0.0), xp.where(hard, 0.0, exp))", "Halves(xp.where(hard, 0.0, exp), xp.where(hard, exp, 0.0))"),
    "unshifted gradient the wrong way": Mutant(UNSHIFTED, "-1 / (1 + sums.positive.rest)", "1 / (1 + sums.positive.rest)"),
    "unshifted gradient of infinite logits": Mutant(UNSHIFTED, "xp.where(abs(z) > largest(z.dtype, xp=xp), 0.0, slopes)", "slopes"),
    "unshifted gradient without a cap": Mutant(UNSHIFTED, "xp.exp(xp.where(gap > cap, cap, gap))", "xp.exp(gap)"),
    "unshifted gradient, one half NaN": Mutant(UNSHIFTED, "xp.where(both == both, positive, nan)", "positive"),
    # --- parts of a row
    "the 1 of every part counts": Mutant(PARTS, "(xp.expm1(each - common) - one)", "xp.exp(each - common)", LINEARLY),
    "the 1 counts by its rounded exponential": Mutant(PARTS, "(xp.expm1(each - common) - one)", "(xp.exp(each - common) - xp.exp(-common))", LINEARLY),
    "an infinite part is NaN": Mutant(PARTS, "(_finite(part, xp=xp) for part in (parts.shift, shift))", "(parts.shift, shift)", LINEARLY),
    "linear: options not cut": Mutant(OPTIONS, "return option[..., first:last]", "return option[..., : last - first]", LINEARLY),
    "linear: ids of other classes": Mutant(INDICES, "ids = read.ids - first\n    beyond", "ids = read.ids\n    beyond", LINEARLY),
    "linear: an illegal id in one chunk": Mutant(INDICES, "_spoiled(hot, read.illegal[..., None], xp=xp)\n\n\ndef _spoiled", "hot\n\n\ndef _spoiled", LINEARLY),
}  # fmt: skip
