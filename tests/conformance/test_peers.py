"""Other people's forms of the same numbers, written from their formulas, on the inputs for which those hold.

The author's are at https://kexue.fm/archives/7359 (hard labels), 9064 (soft), 8888 (class ids) and 9039 (the divergence);
timm's is `timm.loss.ZlprLoss`.
"""

import numpy as np
import pytest

RNG = np.random.default_rng(7359)
LOGITS, OTHER = RNG.normal(0, 4, (6, 9)), RNG.normal(0, 4, (6, 9))
HARD, SOFT = (RNG.random((6, 9)) < 0.3).astype(int), RNG.uniform(0.01, 0.99, (6, 9))
IDS = np.asarray([[0, 8], [3, 7], [1, 2], [5, 6], [4, 0], [2, 5]])


def log_sum_exp(cells, *, beside_zero=True):
    """The textbook's, over the last axis; the peers append a logit of 0."""
    zero = np.zeros((*cells.shape[:-1], int(beside_zero)))
    cells = np.concatenate([cells, zero], axis=-1)
    largest = cells.max(axis=-1, keepdims=True)
    return np.log(np.exp(cells - largest).sum(axis=-1)) + largest[..., 0]


def authors_hard(logits, targets):
    """The sign of the positives is turned, and what is not in a half is put 1e12 below."""
    turned = (1 - 2 * targets) * logits
    return log_sum_exp(turned - targets * 1e12) + log_sum_exp(turned - (1 - targets) * 1e12)


def timms(logits, targets):
    """With -inf for what is not in a half; targets above one half are positives."""
    positive = targets > 0.5
    return log_sum_exp(np.where(positive, -np.inf, logits)) + log_sum_exp(np.where(positive, -logits, -np.inf))


def authors_soft(logits, targets):
    return log_sum_exp(np.log(1 - targets) + logits) + log_sum_exp(np.log(targets) - logits)


def authors_sparse(logits, ids):
    """The positives are subtracted from the sum of all: right while they are small beside it."""
    positives = np.take_along_axis(logits, ids, axis=-1)
    every, own = log_sum_exp(logits), log_sum_exp(positives, beside_zero=False)
    return log_sum_exp(-positives) + every + np.log1p(-np.exp(own - every))


def authors_divergence(first, second):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    return ((sigmoid(first) - sigmoid(second)) * (first - second)).sum(axis=-1)


@pytest.mark.parametrize("form", [authors_hard, timms])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_hard_labels(backend, mode, form, scale):
    got = backend.loss(LOGITS * scale, HARD, mode=mode)
    np.testing.assert_allclose(got, form(LOGITS * scale, HARD), rtol=1e-10)


@pytest.mark.spare
def test_timms_in_the_mean_over_a_batch(backend):
    """As timm returns it, to the digits of the float32 that it computes in."""
    single = LOGITS.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(backend.loss(single, HARD, "float32").mean(), timms(single, HARD).mean(), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_soft_labels(backend, mode, scale):
    got = backend.loss(LOGITS * scale, SOFT, mode=mode)
    np.testing.assert_allclose(got, authors_soft(LOGITS * scale, SOFT), rtol=1e-12)


@pytest.mark.spare
def test_class_ids(backend, mode):
    got = backend.value("sparse_zlpr", mode=mode, logits=LOGITS, indices=IDS)
    np.testing.assert_allclose(got, authors_sparse(LOGITS, IDS), rtol=1e-9)


@pytest.mark.spare
def test_the_divergence_and_r_drop(backend, mode):
    """The mean of two losses, and a quarter of what the author calls the divergence for each unit of alpha."""
    got = backend.value("symmetric_kl_divergence", mode=mode, p_logits=LOGITS, q_logits=OTHER)
    np.testing.assert_allclose(got, authors_divergence(LOGITS, OTHER), rtol=1e-12)
    got = backend.value("rdrop_zlpr", mode=mode, logits1=LOGITS, logits2=OTHER, targets=HARD, alpha=2.0)
    losses = authors_hard(LOGITS, HARD) + authors_hard(OTHER, HARD)
    np.testing.assert_allclose(got, losses / 2 + 2.0 / 4 * authors_divergence(LOGITS, OTHER), rtol=1e-10)
