"""ZLPR for JAX: pure functions, one value per example, as in optax."""

from zlpr_core import check_targets, predict, probabilities, smooth_labels, zlpr_entropy

from ._losses import (
    index_to_span,
    kl_divergence,
    multi_hot,
    rdrop_zlpr_loss,
    span_to_index,
    sparse_zlpr_loss,
    symmetric_kl_divergence,
    zlpr_divergence,
    zlpr_loss,
    zlpr_terms,
)

__all__ = [
    "check_targets",
    "index_to_span",
    "kl_divergence",
    "multi_hot",
    "predict",
    "probabilities",
    "rdrop_zlpr_loss",
    "smooth_labels",
    "span_to_index",
    "sparse_zlpr_loss",
    "symmetric_kl_divergence",
    "zlpr_divergence",
    "zlpr_entropy",
    "zlpr_loss",
    "zlpr_terms",
]
