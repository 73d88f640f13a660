"""Break the maths in one line, many ways: the suite must notice each. Run by ``nox -s mutants``.

Each mutant is a copy of the project with one piece of text replaced; the suite runs on it until the first failure.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("zlpr_core", "zlpr_torch", "zlpr_jax", "zlpr_tf")
LOSSES, REDUCE, TARGETS = "zlpr_core/_losses.py", "zlpr_core/_reduce.py", "zlpr_core/_targets.py"
QUICK, INDICES, DIVERGENCES = "zlpr_core/_quick.py", "zlpr_core/_indices.py", "zlpr_core/_divergences.py"
MUTANTS = {
    "drop the threshold": (LOSSES, "return z - theta,", "return z,"),
    "threshold the wrong way": (LOSSES, "return z - theta,", "return z + theta,"),
    "forget what the threshold's rounding lost": (REDUCE, "if terms.lost is None else scaled * (1 + terms.lost)", ""),
    "swap the sign of the positives": (LOSSES, "_terms(-z, t,", "_terms(z, t,"),
    "swap the sign of the negatives": (LOSSES, "_terms(z, rest,", "_terms(-z, rest,"),
    "swap the sign of the gradient": (LOSSES, "push - pull", "pull - push"),
    "swap the halves": (LOSSES, "return positive, negative\n", "return negative, positive\n"),
    "feed hard code to soft labels": (
        LOSSES,
        "t, valid = read_targets(targets,",
        "t, valid = read_targets(targets > 0.5,",
    ),
    "forget the absent in the maximum": (
        REDUCE,
        "return xp.where(present, xp.log(xp.where(present, terms.weight, 1.0)) + terms.logit, -inf)",
        "return terms.logit",
    ),
    "forget the mask in the sum": (LOSSES, "logit = xp.where(share, logit, -inf)", "pass"),
    "cast to half inside": (LOSSES, "z = xp.astype(logits, dtype)", "z = xp.astype(logits, xp.float16)"),
    "compute float64 in float32": (
        TARGETS,
        "return xp.float64 if xp.isdtype(dtype, xp.float64) else xp.float32",
        "return xp.float32",
    ),
    "log instead of log1p": (REDUCE, "xp.log1p(total.rest)", "xp.log(1 + total.rest)"),
    "forget the one": (REDUCE, "total.shift + xp.log1p(total.rest)", "total.shift + xp.log(total.rest)"),
    "count the one twice": (
        REDUCE,
        "one = xp.expm1(xp.where(shift < inf, -shift, 0.0))",
        "one = xp.exp(xp.where(shift < inf, -shift, 0.0))",
    ),
    "no maximum kept apart": (REDUCE, "shift = xp.floor(xp.where(largest > 0, largest, 0.0))", "shift = 0 * largest"),
    "shift not whole": (
        REDUCE,
        "shift = xp.floor(xp.where(largest > 0, largest, 0.0))",
        "shift = xp.where(largest > 0, largest, 0.0)",
    ),
    "no cap beside zero weights": (REDUCE, "xp.where((gap > cap) & (weight <= 0), cap, gap)", "gap"),
    "infinite logits meet": (REDUCE, "xp.where(terms.logit == inf, far,", "xp.where(terms.logit == inf, inf,"),
    "weight outside the logarithm": (
        LOSSES,
        "_terms(z, rest, (both,), lost, xp=xp)",
        "_terms(z, rest, (), lost, xp=xp)",
    ),
    "pos_weight on the negatives": (
        LOSSES,
        "_terms(z, rest, (both,), lost, xp=xp)",
        "_terms(z, rest, (both, ours), lost, xp=xp)",
    ),
    "mask keeps its NaN": (LOSSES, "z, lost, t = kept(z, where, xp=xp),", "z, lost, t = z,"),
    "mask forgotten in the weights": (LOSSES, "rest = kept(~t if", "rest = (lambda x, *_, **__: x)(~t if"),
    "illegal targets pass": (LOSSES, "z if valid is None else xp.where(valid, z, nan)", "z"),
    "mixup rounding is illegal": (TARGETS, "slack = 8 *", "slack = 0 *"),
    "illegal weights pass": (LOSSES, "return xp.where(weight >= 0, weight, nan)", "return weight"),
    "gradient in float32 only": (
        LOSSES,
        "xp.astype(xp.where(movable, push - pull, 0.0), logits.dtype)",
        "xp.where(movable, push - pull, 0.0)",
    ),
    "half the entropy": (LOSSES, "= 2 * xp.squeeze", "= xp.squeeze"),
    "σ(s) for σ(2s)": ("zlpr_core/_decoding.py", "scale: float = 2.0", "scale: float = 1.0"),
    "predict at the threshold": ("zlpr_core/_decoding.py", "margin > 0", "margin >= 0"),
    "narrow sum": ("zlpr_core/_namespace.py", "if name in _NAIVE_SUM else", "if False else"),
    "targets broadcast": ("zlpr_core/_checks.py", "if not same_shape(logits.shape, targets.shape)", "if False"),
    "smoothing forgets its half": (TARGETS, 'epsilon / 2 if mode == "symmetric"', 'epsilon if mode == "symmetric"'),
    "class ids off by one": (
        INDICES,
        "xp.mark(xp.where(unused, classes, ids), classes)",
        "xp.mark(xp.where(unused, classes, ids + 1), classes)",
    ),
    "one id beyond the last passes": (INDICES, "(ids >= classes)", "(ids > classes)"),
    "padding is a class": (
        INDICES,
        "hot: ArrayT = _marked(ids, outside | (ids == pad)",
        "hot: ArrayT = _marked(ids, outside",
    ),
    "class axes out of place": (INDICES, "tuple(order.index(a) for a in range(len(sizes)))", "order"),
    "an illegal id goes unnoticed while tracing": (
        INDICES,
        "illegal = xp.astype(xp.any(outside, axis=-1)",
        "illegal = xp.astype(xp.any(outside & (ids < 0), axis=-1)",
    ),
    "end before start": (INDICES, "first * length + last", "last * length + first"),
    "first order left in KL": (DIVERGENCES, "exp_beyond_line(r * off, xp=xp)", "exp_beyond_line(r, xp=xp)"),
    "fewer terms": ("zlpr_core/_elementary.py", "(13, 11, 9, 7, 5, 3)", "(7, 5, 3)"),
    "one kind of gap for both signs": (
        "zlpr_core/_elementary.py",
        "return xp.where(rises, -x_up * y_down * above, x_down * y_up * below)",
        "return -x_up * y_down * xp.expm1(-gap)",
    ),
    "scale in the probabilities only": (DIVERGENCES, "_Pair(x, y, scale * (s - u)", "_Pair(x, y, (s - u)"),
    "impossible is finite": (DIVERGENCES, "xp.where(pair.q_alone, inf, cells)", "cells"),
    "agreeing infinities cost": (DIVERGENCES, "(abs(u) == inf) & (s != u)", "abs(u) == inf"),
    "twice the agreement": (DIVERGENCES, "(alpha / 4)", "(alpha / 2)"),
    "R-Drop's divergence at another threshold": (
        DIVERGENCES,
        '("logits1", "logits2"), threshold, xp=xp)',
        '("logits1", "logits2"), xp=xp)',
    ),
    "regret without its centre": (
        DIVERGENCES,
        "_centred(contest, xp.where(close, mean, 0.0), close",
        "_centred(contest, 0.0 * mean, close",
    ),
    "regret by three logarithms": (
        DIVERGENCES,
        "regret = xp.where(xp.squeeze(close, axis=axes), xp.stop_gradient(near) + slopes, far)",
        "regret = far",
    ),
    "masked labels weigh in the regret": (
        DIVERGENCES,
        "share = kept(1 / (1 + small * small), where, xp=xp)",
        "share = 1 / (1 + small * small)",
    ),
    "quick sums out of range": (QUICK, "(falls < most) & (rises < most)", "(falls == falls) & (rises == rises)"),
    "quick slopes the wrong way": (QUICK, "-1 / (1 + positive.rest)", "1 / (1 + positive.rest)"),
    "quick slopes of infinite logits": (QUICK, "xp.where(abs(z) == inf, 0.0, slopes)", "slopes"),
    "quick slopes without a cap": (QUICK, "xp.where(gap > cap, cap, gap)", "gap"),
    "curvature without its square": (LOSSES, "pull * (1 - pull)", "pull"),
}


def survives(file, old, new):
    """Whether the suite passes on a copy where ``old`` reads ``new``."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (*PACKAGES, "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        text = Path(folder, file).read_text(encoding="utf-8")
        if old not in text:
            sys.exit(f"`{file}` no longer has {old!r}: mend tests/mutants.py.")
        Path(folder, file).write_text(text.replace(old, new, 1), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            *sys.argv[1:],
        ]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def main():
    if not survives(LOSSES, "log1p_sum_exp", "log1p_sum_exp"):
        sys.exit("The suite fails on the code as it is, so it would catch anything.")
    alive = []
    for name, mutant in MUTANTS.items():
        alive += [name] * survives(*mutant)
        print(f"{'ALIVE' if name in alive else 'caught':>6}  {name}", flush=True)
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} caught")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
