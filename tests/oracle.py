"""What every loss should be, in 50 digits and straight from the formulas. Shares no code with the packages.

One example at a time: sequences of Python floats in, mpmath numbers out. A weight of zero drops its term, so an
infinite logit beside it is harmless.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mpmath
from mpmath import mpf

mpmath.mp.dps = 50

Row = Sequence[float]


class Half(NamedTuple):
    """``log(1 + Σ terms)``, term by term."""

    terms: list[mpf]

    @property
    def value(self) -> mpf:
        total = mpmath.fsum(self.terms)
        return mpmath.inf if mpmath.isinf(total) else log1p(total)

    @property
    def shares(self) -> list[mpf]:
        total = 1 + mpmath.fsum(self.terms)
        return [term / total for term in self.terms]


def log1p(x: mpf) -> mpf:
    return x - x**2 / 2 + x**3 / 3 if x < mpf(10) ** -20 else mpmath.log(1 + x)


def exp_terms(weights: list[mpf], exponents: list[mpf]) -> Half:
    return Half([w * mpmath.exp(x) if w else mpf(0) for w, x in zip(weights, exponents, strict=True)])


def halves(logits: Row, targets: Row, *, where=None, weight=None, pos_weight=None, threshold=None) -> tuple[Half, Half]:
    count = len(logits)
    keep = [True] * count if where is None else where
    w = [mpf(1)] * count if weight is None else [mpf(x) for x in weight]
    p = [mpf(1)] * count if pos_weight is None else [mpf(x) for x in pos_weight]
    theta = [mpf(0)] * count if threshold is None else [mpf(x) for x in threshold]
    z = [mpf(s) - c if k else mpf(0) for s, c, k in zip(logits, theta, keep, strict=True)]
    t = [mpf(x) if k else mpf(0) for x, k in zip(targets, keep, strict=True)]
    positive = [w[i] * p[i] * t[i] for i in range(count)]
    negative = [w[i] * (1 - t[i]) if keep[i] else mpf(0) for i in range(count)]
    return exp_terms(positive, [-x for x in z]), exp_terms(negative, z)


def zlpr(logits: Row, targets: Row, **options) -> mpf:
    positive, negative = halves(logits, targets, **options)
    return positive.value + negative.value


def zlpr_grad_parts(logits: Row, targets: Row, **options) -> list[tuple[mpf, mpf]]:
    """(pull, push) of each logit; the gradient is push - pull."""
    positive, negative = halves(logits, targets, **options)
    return list(zip(positive.shares, negative.shares, strict=True))


def zlpr_hessian(logits: Row, targets: Row, **options) -> list[list[mpf]]:
    """Each half adds diag(share) - share shareᵀ."""
    count = len(logits)
    matrix = [[mpf(0)] * count for _ in range(count)]
    for half in halves(logits, targets, **options):
        q = half.shares
        for i in range(count):
            for j in range(count):
                matrix[i][j] += (q[i] if i == j else 0) - q[i] * q[j]
    return matrix


def zlpr_target_grad(logits: Row, targets: Row) -> list[mpf]:
    """∂L/∂t = e^(-s - P) - e^(s - N), at 0 and 1 too."""
    positive, negative = halves(logits, targets)
    return [mpmath.exp(-mpf(s) - positive.value) - mpmath.exp(mpf(s) - negative.value) for s in logits]


def zlpr_weight_grad(logits: Row, targets: Row, *, weight: Row) -> list[mpf]:
    positive, negative = halves(logits, targets, weight=weight)
    return [
        mpf(t) * mpmath.exp(-mpf(s) - positive.value) + (1 - mpf(t)) * mpmath.exp(mpf(s) - negative.value)
        for s, t in zip(logits, targets, strict=True)
    ]


def zlpr_entropy(targets: Row) -> mpf:
    return 2 * log1p(mpmath.fsum(mpmath.sqrt(mpf(t) * (1 - mpf(t))) for t in targets))


def bce(logits: Row, targets: Row) -> mpf:
    return mpmath.fsum(
        log1p(mpmath.exp(-mpf(s))) if t else log1p(mpmath.exp(mpf(s))) for s, t in zip(logits, targets, strict=True)
    )


def lsep(logits: Row, targets: Row) -> mpf:
    positive, negative = halves(logits, targets)
    return log1p(mpmath.fsum(positive.terms) * mpmath.fsum(negative.terms))


def softmax_cross_entropy(logits: Row, target: int) -> mpf:
    return log1p(mpmath.fsum(mpmath.exp(mpf(s) - mpf(logits[target])) for i, s in enumerate(logits) if i != target))


def sigmoid(x: float) -> mpf:
    return 1 / (1 + mpmath.exp(-mpf(x)))
