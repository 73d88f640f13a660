"""Every loss of the study. One more is five lines: ``@loss(name, source)`` on a function with one value an example.

It gets logits and labels of shape (batch, classes), then its knob if it has one, then its constant for each class if it
has one. With ``passes=2`` the logits are those of two passes with different dropout, of shape (2, batch, classes).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zlpr_jax import rdrop_zlpr_loss, symmetric_kl_divergence, zlpr_loss

EMPTY = -1e30  # log of an empty sum, finite so that its gradient is 0 instead of NaN


class Loss(NamedTuple):
    """One row of the comparison."""

    name: str
    source: str
    function: Callable[..., jax.Array]
    knob: str = ""
    values: tuple[float, ...] = ()  # of the knob
    per_class: Callable[[np.ndarray], np.ndarray] | None = None  # a constant for each class, from the training labels
    passes: int = 1
    mixup: bool = False  # mixes the examples of a batch; the knob is the parameter of the Beta distribution
    threshold: bool = False  # learns one for each class


LOSSES: dict[str, Loss] = {}


def loss(name: str, source: str, **options: object) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Put the decorated function on the list; the options are the fields of Loss."""

    def register(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        LOSSES[name] = Loss(name, source, function, **options)
        return function

    return register


def odds_against(labels: np.ndarray) -> np.ndarray:
    """Negatives by positives; 1 for a class without positives, where the weight of positives has no effect."""
    positives = labels.sum(axis=0)
    return np.where(positives > 0, (len(labels) - positives) / np.maximum(positives, 1), 1.0).astype(np.float32)


@loss("BCE", "sum over classes of optax.sigmoid_binary_cross_entropy")
def bce(logits, labels):
    """Binary cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


@loss("BCE mean", "the same, mean over classes: what PyTorch and Keras do unless told otherwise")
def bce_mean(logits, labels):
    """Binary cross-entropy, by another scale."""
    return bce(logits, labels) / labels.shape[-1]


@loss("BCE pos_weight", "torch.nn.BCEWithLogitsLoss, pos_weight = negatives / positives", per_class=odds_against)
def bce_balanced(logits, labels, weight):
    """Binary cross-entropy with as much weight on the positives of a class as on its negatives."""
    return (weight * labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)).sum(axis=-1)


@loss("BCE smoothing", "Szegedy et al., CVPR 2016, for each class by itself", knob="epsilon", values=(0.02, 0.1))
def bce_smoothing(logits, labels, epsilon):
    """Binary cross-entropy; both targets move to the middle."""
    return bce(logits, (1 - epsilon) * labels + epsilon / 2)


@loss("BCE mixup", "Zhang et al., ICLR 2018", knob="alpha", values=(0.1, 0.4), mixup=True)
def bce_mixup(logits, labels, _):
    """Binary cross-entropy of mixed examples."""
    return bce(logits, labels)


@loss("BCE R-Drop", "Liang et al., NeurIPS 2021, arXiv:2106.14448", knob="alpha", values=(0.5, 4.0), passes=2)
def bce_rdrop(logits, labels, alpha):
    """Binary cross-entropy with the divergence that R-Drop adds, in the scale of ``rdrop_zlpr_loss``."""
    first, second = logits
    agreement = symmetric_kl_divergence(first, second, scale=1.0)
    return (bce(first, labels) + bce(second, labels)) / 2 + alpha / 4 * agreement


@loss("focal", "Lin et al., ICCV 2017, arXiv:1708.02002, without its alpha", knob="gamma", values=(1.0, 2.0))
def focal(logits, labels, gamma):
    """Binary cross-entropy, each term by the chance of being wrong to the power of gamma."""
    right = (2 * labels - 1) * logits
    return (jnp.exp(gamma * jax.nn.log_sigmoid(-right)) * jax.nn.softplus(-right)).sum(axis=-1)


@loss("ASL", "Ridnik et al., ICCV 2021, arXiv:2009.14119: gamma+ 0, margin 0.05", knob="gamma-", values=(2.0, 4.0))
def asymmetric(logits, labels, gamma):
    """Asymmetric loss: focal on the negatives alone, whose probability is first shifted down."""
    shifted = jnp.maximum(jax.nn.sigmoid(logits) - 0.05, 0)
    negative = -(shifted**gamma) * jnp.log1p(-shifted)
    return (labels * jax.nn.softplus(-logits) + (1 - labels) * negative).sum(axis=-1)


@loss("Dice linear", "Li et al., ACL 2020, arXiv:1911.02855; candidate for DL1", knob="smooth", values=(0.1, 1.0))
def dice_linear(logits, labels, smooth):
    """1 - Dice coefficient of probabilities and labels of an example."""
    p = jax.nn.sigmoid(logits)
    return 1 - (2 * (p * labels).sum(axis=-1) + smooth) / ((p + labels).sum(axis=-1) + smooth)


@loss("Dice squared", "Milletari et al., 3DV 2016; candidate for DL2", knob="smooth", values=(0.1, 1.0))
def dice_squared(logits, labels, smooth):
    """The same with squares in the denominator."""
    p = jax.nn.sigmoid(logits)
    return 1 - (2 * (p * labels).sum(axis=-1) + smooth) / ((p**2 + labels**2).sum(axis=-1) + smooth)


@loss("LSEP", "Li, Song and Luo, CVPR 2017, every pair instead of a sample")
def lsep(logits, labels):
    """log(1 + sum over pairs of exp(negative - positive)), which factorises; without a pair it is 0."""
    positives = jax.nn.logsumexp(jnp.where(labels > 0, -logits, EMPTY), axis=-1)
    negatives = jax.nn.logsumexp(jnp.where(labels > 0, EMPTY, logits), axis=-1)
    return jax.nn.softplus(positives + negatives)


@loss("ZLPR", "Su et al., 2022, arXiv:2208.02955")
def zlpr(logits, labels):
    """As it comes."""
    return zlpr_loss(logits, labels)


@loss("ZLPR smoothing", "zlpr, smooth_labels(mode='positive')", knob="epsilon", values=(0.02, 0.1))
def zlpr_smoothing(logits, labels, epsilon):
    """``smooth_labels``, which wants a Python number, written out."""
    return zlpr_loss(logits, (1 - epsilon) * labels)


@loss("ZLPR mixup", "Su et al., 2022 (soft); Zhang et al., ICLR 2018", knob="alpha", values=(0.1, 0.4), mixup=True)
def zlpr_mixup(logits, labels, _):
    """The soft form on mixed examples."""
    return zlpr_loss(logits, labels)


@loss("ZLPR R-Drop", "Su, kexue.fm 9039; Liang et al., NeurIPS 2021", knob="alpha", values=(0.5, 4.0), passes=2)
def zlpr_rdrop(logits, labels, alpha):
    """Two passes and their divergence."""
    return rdrop_zlpr_loss(*logits, labels, alpha=alpha)


@loss("TLPR", "Su, kexue.fm 7359: ZLPR of logits less their thresholds", threshold=True)
def tlpr(logits, labels):
    """The model has subtracted the threshold of each class, so the loss is ZLPR's."""
    return zlpr_loss(logits, labels)
