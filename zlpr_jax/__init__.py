"""ZLPR for JAX: pure functions, one value per example, as in optax."""

from zlpr_core import check_targets, multi_hot, predict, probabilities, smooth_labels, zlpr_entropy

from ._losses import zlpr_loss, zlpr_terms

__all__ = [
    "check_targets",
    "multi_hot",
    "predict",
    "probabilities",
    "smooth_labels",
    "zlpr_entropy",
    "zlpr_loss",
    "zlpr_terms",
]
