"""ZLPR for TensorFlow and Keras: ``model.compile(loss=ZLPRLoss())``."""

from ._classes import ZLPRLoss
from ._losses import (
    check_targets,
    multi_hot,
    predict,
    probabilities,
    smooth_labels,
    zlpr_entropy,
    zlpr_loss,
    zlpr_terms,
)

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
