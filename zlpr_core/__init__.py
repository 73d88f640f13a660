"""ZLPR for any array library: the formulas, once.

Multi-label classification with one loss: ``log(1 + Σ_pos e^-s) + log(1 + Σ_neg e^s)``, for hard and soft labels.
``zlpr_torch``, ``zlpr_jax`` and ``zlpr_tf`` are the same in the words of their frameworks.
"""

from ._decoding import predict, probabilities
from ._losses import zlpr, zlpr_entropy, zlpr_grad, zlpr_terms
from ._targets import check_targets, multi_hot, smooth_labels
from ._typing import Array, Namespace

__all__ = [
    "Array",
    "Namespace",
    "check_targets",
    "multi_hot",
    "predict",
    "probabilities",
    "smooth_labels",
    "zlpr",
    "zlpr_entropy",
    "zlpr_grad",
    "zlpr_terms",
]
