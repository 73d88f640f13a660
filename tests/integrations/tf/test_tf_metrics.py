"""Keras's metrics on raw logits: which take a threshold of 0, and what the others need."""

import keras
import numpy as np
import pytest
from keras import metrics

from zlpr_tf import ZLPRLoss, predict

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (40, 5)).astype("float32")
LOGITS[:4] = [[0.0, -0.0, 1e-20, -1e-20, 0.3]] * 4  # a threshold of 0.5, or of 1e-7, would judge these differently
LABELS = RNG.random((40, 5)) < 0.4
CHOSEN = LOGITS > 0
HIT, EXTRA, MISSED = CHOSEN & LABELS, CHOSEN & ~LABELS, ~CHOSEN & LABELS
NEXT_TO_0 = 1e-30


def f_score(beta=1.0, axis=None):
    hit, extra, missed = HIT.sum(axis), EXTRA.sum(axis), MISSED.sum(axis)
    return (1 + beta**2) * hit / ((1 + beta**2) * hit + beta**2 * missed + extra)


def result(metric, logits=LOGITS):
    metric.update_state(LABELS[:30], logits[:30])
    metric.update_state(LABELS[30:], logits[30:])
    return np.asarray(metric.result())


WITH_0 = [
    (metrics.BinaryAccuracy(threshold=0), (CHOSEN == LABELS).mean()),
    (metrics.Precision(thresholds=0), HIT.sum() / CHOSEN.sum()),
    (metrics.Recall(thresholds=0), HIT.sum() / LABELS.sum()),
    (metrics.Precision(thresholds=0, class_id=2), HIT[:, 2].sum() / CHOSEN[:, 2].sum()),
    (metrics.TruePositives(thresholds=0), HIT.sum()),
    (metrics.TrueNegatives(thresholds=0), (~CHOSEN & ~LABELS).sum()),
    (metrics.FalsePositives(thresholds=0), EXTRA.sum()),
    (metrics.FalseNegatives(thresholds=0), MISSED.sum()),
]
NEXT_TO_IT = [
    (metrics.F1Score(average="micro", threshold=NEXT_TO_0), f_score()),
    (metrics.F1Score(average="macro", threshold=NEXT_TO_0, name="macro_f1"), f_score(axis=0).mean()),
    (metrics.F1Score(threshold=NEXT_TO_0), f_score(axis=0)),
    (metrics.FBetaScore(average="micro", beta=2.0, threshold=NEXT_TO_0), f_score(beta=2.0)),
]


@pytest.mark.parametrize(("metric", "expected"), WITH_0 + NEXT_TO_IT, ids=lambda m: getattr(m, "name", ""))
def test_equals_what_predict_says(metric, expected):
    np.testing.assert_array_equal(predict(LOGITS), CHOSEN)
    np.testing.assert_allclose(result(metric), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", [metrics.F1Score, metrics.FBetaScore])
def test_f_scores_refuse_0(metric):
    """If this fails, Keras takes a threshold of 0, and docs/keras.md need not write 1e-30."""
    with pytest.raises(ValueError, match="It should verify 0 < threshold <= 1"):
        metric(threshold=0.0)


@pytest.mark.parametrize("metric", [metrics.Precision, metrics.Recall, metrics.TruePositives])
def test_a_threshold_below_0_is_refused(metric):
    """docs/keras.md shifts the logits by the learned threshold instead."""
    with pytest.raises(ValueError, match=r"Threshold values must be in \[0, 1\]"):
        metric(thresholds=-0.5)


def test_binary_iou_counts_a_logit_of_0_as_chosen():
    """It asks for ``>=`` where everything else asks for ``>``."""
    at_0, above_0 = metrics.BinaryIoU([1], threshold=0.0), metrics.BinaryIoU([1], threshold=NEXT_TO_0)
    np.testing.assert_allclose(result(at_0), (LABELS & (LOGITS >= 0)).sum() / (LABELS | (LOGITS >= 0)).sum(), rtol=1e-6)
    np.testing.assert_allclose(result(above_0), HIT.sum() / (LABELS | CHOSEN).sum(), rtol=1e-6)


def test_auc_wants_to_know_of_logits():
    """Without from_logits=True, all logits below 0 are ranked alike, and all above 1."""
    logits = LOGITS + 4 * LABELS - 3
    true = np.mean(logits[LABELS][:, None] > logits[~LABELS])
    assert abs(result(metrics.AUC(from_logits=True), logits) - true) < 0.005
    assert abs(result(metrics.AUC(), logits) - true) > 0.05


def subset_accuracy(y_true, y_pred):
    return keras.ops.all(keras.ops.cast(y_true, "bool") == predict(y_pred), axis=-1)


def test_subset_accuracy_as_a_function():
    wrapped = metrics.MeanMetricWrapper(subset_accuracy)
    np.testing.assert_allclose(result(wrapped), (CHOSEN == LABELS).all(1).mean(), rtol=1e-6)
    assert result(wrapped) > 0


@pytest.mark.parametrize("jit", [False, True])
def test_in_a_compiled_model(jit):
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Identity()])
    chosen = [metric for metric, _ in WITH_0[:3] + NEXT_TO_IT[:2]]
    fresh = [type(metric).from_config(metric.get_config()) for metric in chosen]
    model.compile(loss=ZLPRLoss(), metrics=[*fresh, subset_accuracy], jit_compile=jit)
    report = model.evaluate(LOGITS, LABELS, batch_size=16, verbose=0)
    expected = [value for _, value in WITH_0[:3] + NEXT_TO_IT[:2]] + [(CHOSEN == LABELS).all(1).mean()]
    np.testing.assert_allclose(report[1:], expected, rtol=1e-6)
