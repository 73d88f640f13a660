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
    """(positive, negative) of each logit; the gradient is negative - positive."""
    positive, negative = halves(logits, targets, **options)
    return list(zip(positive.shares, negative.shares, strict=True))


def zlpr_hessian(logits: Row, targets: Row, **options) -> list[list[mpf]]:
    """Each half adds diag(q) - q qᵀ, where q are its softmax weights."""
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
    return 1 / (1 + mpmath.exp(-mpf(x)))  # e^inf is inf, and 1 / inf is 0


def softplus(x: mpf) -> mpf:
    return log1p(mpmath.exp(x))


def kl_cells(p: Row, q: Row, scale: float = 1) -> list[mpf]:
    """Bernoulli KL(σ(c p) ‖ σ(c q)) of each label. An infinity in both is agreement; in q alone it costs infinity."""
    cells = []
    for a, b in zip(p, q, strict=True):
        on, off = sigmoid(scale * mpf(a)), sigmoid(-scale * mpf(a))
        terms = (on, -scale * mpf(b), -scale * mpf(a)), (off, scale * mpf(b), scale * mpf(a))
        cells.append(mpf(0) if a == b else mpmath.fsum(w * (softplus(x) - softplus(y)) for w, x, y in terms if w))
    return cells


def kl_divergence(p: Row, q: Row, scale: float = 1) -> mpf:
    return mpmath.fsum(kl_cells(p, q, scale))


def kl_grad_parts(p: Row, q: Row, scale: float = 1) -> tuple[list[Row], list[Row]]:
    """Of each logit of p, then of q, the parts that the derivative is the sum of."""
    c, own, other = mpf(scale), [], []
    for a, b in zip(p, q, strict=True):
        x, y = c * mpf(a), c * mpf(b)
        own.append([c * sigmoid(x) * sigmoid(-x) * (x - y)])
        other.append([c * sigmoid(y), -c * sigmoid(x)])
    return own, other


def symmetric_kl_divergence(p: Row, q: Row, scale: float = 1) -> mpf:
    return kl_divergence(p, q, scale) + kl_divergence(q, p, scale)


def symmetric_kl_grad_parts(p: Row, q: Row, scale: float = 1) -> tuple[list[Row], list[Row]]:
    (own, other), (back, forth) = kl_grad_parts(p, q, scale), kl_grad_parts(q, p, scale)
    return [a + b for a, b in zip(own, forth, strict=True)], [a + b for a, b in zip(other, back, strict=True)]


def zlpr_divergence(p: Row, q: Row) -> mpf:
    """Soft ZLPR of q against σ(2p), less the entropy of σ(2p); σ(-2p) for 1 - σ(2p), which 50 digits may not hold."""
    positive, negative, weights = _regret_terms(p, q)
    return positive.value + negative.value - 2 * log1p(mpmath.fsum(weights))


def zlpr_divergence_grad_parts(p: Row, q: Row) -> tuple[list[Row], list[Row]]:
    positive, negative, weights = _regret_terms(p, q)
    own, other = [], []
    for a, w, u, v in zip(p, weights, positive.shares, negative.shares, strict=True):
        on, off = sigmoid(2 * mpf(a)), sigmoid(-2 * mpf(a))
        threshold = 2 * w / (1 + mpmath.fsum(weights))
        own.append([2 * off * u, -2 * on * v, threshold * on, -threshold * off])
        other.append([-u, v])
    return own, other


def _regret_terms(p: Row, q: Row) -> tuple[Half, Half, list[mpf]]:
    on, off = [sigmoid(2 * mpf(a)) for a in p], [sigmoid(-2 * mpf(a)) for a in p]
    positive, negative = exp_terms(on, [-mpf(b) for b in q]), exp_terms(off, [mpf(b) for b in q])
    return positive, negative, [mpmath.sqrt(x * y) for x, y in zip(on, off, strict=True)]


def rdrop(s: Row, u: Row, targets: Row, *, alpha: float = 4, scale: float = 1, **options) -> mpf:
    theta = options.get("threshold") or [0] * len(s)
    moved = [[mpf(a) - mpf(b) for a, b in zip(logits, theta, strict=True)] for logits in (s, u)]
    losses = zlpr(s, targets, **options) + zlpr(u, targets, **options)
    return losses / 2 + mpf(alpha) / 4 * symmetric_kl_divergence(*moved, scale)
