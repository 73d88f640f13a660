"""ZLPR for any array library: the formulas, once.

Multi-label classification with one loss: ``log(1 + Σ_pos e^-s) + log(1 + Σ_neg e^s)``, for hard and soft labels.
``zlpr_torch``, ``zlpr_jax`` and ``zlpr_tf`` are the same in the words of their frameworks.
"""

from ._decoding import predict, probabilities
from ._divergences import kl_divergence, rdrop_zlpr, symmetric_kl_divergence, zlpr_divergence
from ._indices import index_to_span, multi_hot, span_to_index
from ._linear import LinearGradients, linear_zlpr, linear_zlpr_grad, sparse_linear_zlpr
from ._losses import sparse_zlpr, zlpr, zlpr_entropy, zlpr_grad, zlpr_hessian_diag, zlpr_terms
from ._targets import check_targets, smooth_labels
from ._typing import Array, Namespace

__version__ = "0.1.0"  # of all four packages, and of the distribution: pyproject.toml reads it here

__all__ = [
    "Array",
    "LinearGradients",
    "Namespace",
    "check_targets",
    "index_to_span",
    "kl_divergence",
    "linear_zlpr",
    "linear_zlpr_grad",
    "multi_hot",
    "predict",
    "probabilities",
    "rdrop_zlpr",
    "smooth_labels",
    "span_to_index",
    "sparse_linear_zlpr",
    "sparse_zlpr",
    "symmetric_kl_divergence",
    "zlpr",
    "zlpr_divergence",
    "zlpr_entropy",
    "zlpr_grad",
    "zlpr_hessian_diag",
    "zlpr_terms",
]
