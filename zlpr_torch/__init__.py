"""ZLPR for PyTorch: ``ZLPRLoss()`` where ``BCEWithLogitsLoss()`` stood."""

import zlpr_core
from zlpr_core import check_targets, predict, probabilities, smooth_labels, zlpr_entropy
from zlpr_core._namespace import bound

from ._classes import RDropZLPRLoss, SparseZLPRLoss, ZLPRKLDivLoss, ZLPRLoss
from ._divergences import kl_divergence, symmetric_kl_divergence, zlpr_divergence
from ._losses import rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss, zlpr_terms
from ._namespace import xp

index_to_span = bound(zlpr_core.index_to_span, xp)
multi_hot = bound(zlpr_core.multi_hot, xp)
span_to_index = bound(zlpr_core.span_to_index, xp)

__all__ = [
    "RDropZLPRLoss",
    "SparseZLPRLoss",
    "ZLPRKLDivLoss",
    "ZLPRLoss",
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
