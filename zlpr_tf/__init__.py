"""ZLPR for TensorFlow and Keras: ``model.compile(loss=ZLPRLoss())``."""

from zlpr_core import __version__ as __version__

from ._classes import SparseZLPRLoss, ZLPRLoss
from ._divergences import kl_divergence, symmetric_kl_divergence, zlpr_divergence
from ._helpers import (
    check_targets,
    index_to_span,
    multi_hot,
    predict,
    probabilities,
    smooth_labels,
    span_to_index,
    zlpr_entropy,
)
from ._linear import linear_zlpr_loss, sparse_linear_zlpr_loss
from ._linear_layer import LinearZLPR
from ._losses import rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss, zlpr_terms
from ._models import RDropZLPR

__all__ = [
    "LinearZLPR",
    "RDropZLPR",
    "SparseZLPRLoss",
    "ZLPRLoss",
    "check_targets",
    "index_to_span",
    "kl_divergence",
    "linear_zlpr_loss",
    "multi_hot",
    "predict",
    "probabilities",
    "rdrop_zlpr_loss",
    "smooth_labels",
    "span_to_index",
    "sparse_linear_zlpr_loss",
    "sparse_zlpr_loss",
    "symmetric_kl_divergence",
    "zlpr_divergence",
    "zlpr_entropy",
    "zlpr_loss",
    "zlpr_terms",
]
