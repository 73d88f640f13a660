"""scikit-learn, SciPy and XGBoost, each for real, with the closed-form derivatives."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

import boosting
import scipy_linear
from data import Split

from zlpr_core import zlpr

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, 4)) + 0.5 * RNG.normal(size=(240, 4)) > 0.5).astype(np.int64)
PART = Split(X[:200], Y[:200], X[200:], Y[200:])


def test_the_linear_classifier_stands_at_the_minimum():
    """Every small step away from the fitted parameters costs more."""
    model = scipy_linear.ZLPRLinear(C=1.0, max_iter=1000).fit(X, Y)
    best = np.vstack([*model.coef_, model.intercept_]).ravel()
    least, slope = model._objective(best, X.astype(float), Y)
    assert np.abs(slope).max() < 1e-4
    for _ in range(20):
        assert model._objective(best + 0.01 * RNG.normal(size=best.size), X.astype(float), Y)[0] > least


def test_the_linear_classifier_is_scikit_learns():
    model = clone(scipy_linear.ZLPRLinear(C=0.5))
    assert model.get_params() == {"C": 0.5, "max_iter": 200}
    assert cross_val_score(model, X, Y, cv=3).mean() > 0.35  # subset accuracy; 0.3 without a look at X
    with pytest.raises(ValueError, match="features"):
        model.fit(X, Y).predict(X[:, :3])


def test_the_linear_example_on_yeast(capsys):
    scores = scipy_linear.main()
    assert "ZLPR: subset accuracy 0." in capsys.readouterr().out
    assert all(0.1 < subset < f1 < 0.8 for subset, f1 in scores.values())


def test_boosting_lowers_the_loss_round_by_round():
    losses = [zlpr(boosting.boost(PART, boosting.zlpr_objective, rounds=n), PART.y_test).mean() for n in (1, 5, 20)]
    untrained = zlpr(np.zeros(PART.y_test.shape), PART.y_test).mean()
    assert untrained > losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.6 * untrained


def test_the_objective_is_a_newton_step():
    """With one leaf, no penalty and a learning rate of 1, XGBoost adds -gradient / curvature."""
    rows = xgboost.DMatrix(X, Y)
    own = {"num_target": 4, "base_score": 0.0, "max_depth": 1, "min_child_weight": 0.0, "lambda": 0.0, "eta": 1.0}
    booster = xgboost.train(
        {**own, "disable_default_eval_metric": 1, "gamma": 1e9}, rows, 1, obj=boosting.zlpr_objective
    )
    gradient, curvature = boosting.zlpr_objective(np.zeros(Y.shape, np.float32), rows)
    step = -gradient.sum(axis=0) / curvature.sum(axis=0)
    got = booster.predict(rows, output_margin=True)
    np.testing.assert_allclose(got, np.broadcast_to(step, Y.shape), rtol=1e-4)


def test_the_boosting_example_on_yeast(capsys):
    scores = boosting.main(rounds=4)
    assert "ZLPR: subset accuracy 0." in capsys.readouterr().out
    assert all(0.05 < subset < f1 < 0.8 for subset, f1 in scores.values())
