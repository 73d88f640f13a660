"""ZLPR for PyTorch: ``ZLPRLoss()`` where ``BCEWithLogitsLoss()`` stood."""

from zlpr_core import check_targets, multi_hot, predict, probabilities, smooth_labels, zlpr_entropy

from ._classes import ZLPRLoss
from ._losses import zlpr_loss, zlpr_terms

__all__ = [
    "ZLPRLoss",
    "check_targets",
    "multi_hot",
    "predict",
    "probabilities",
    "smooth_labels",
    "zlpr_entropy",
    "zlpr_loss",
    "zlpr_terms",
]
