"""NumPy and SciPy alone: a linear classifier in scikit-learn's manner, fitted with ZLPR's closed-form gradient.

``python scipy_linear.py`` compares it on Yeast with scikit-learn's logistic regression, one for each label.
"""

import numpy as np
from data import load_yeast, split
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.utils.validation import check_is_fitted, validate_data

from zlpr_core import predict, zlpr, zlpr_grad


class ZLPRLinear(ClassifierMixin, BaseEstimator):
    """``x W + b`` above 0. ``C`` is the inverse strength of the penalty on W, as in scikit-learn."""

    def __init__(self, C: float = 1.0, max_iter: int = 200) -> None:
        self.C, self.max_iter = C, max_iter

    def fit(self, X, y):
        """Least mean loss, by L-BFGS."""
        X, y = validate_data(self, X, y, multi_output=True, dtype=np.float64)
        shape = X.shape[1] + 1, y.shape[1]
        options = {"maxiter": self.max_iter}
        best = minimize(self._objective, np.zeros(shape).ravel(), (X, y), "L-BFGS-B", jac=True, options=options)
        *self.coef_, self.intercept_ = best.x.reshape(shape)
        self.classes_ = [np.asarray([0, 1])] * y.shape[1]
        return self

    def _objective(self, flat, X, y):
        weights, bias = (parameters := flat.reshape(-1, y.shape[1]))[:-1], parameters[-1]
        logits = X @ weights + bias
        slope = zlpr_grad(logits, y) / len(X)
        decay = weights / (self.C * len(X))
        gradient = np.vstack([X.T @ slope + decay, slope.sum(axis=0)])
        return zlpr(logits, y).mean() + 0.5 * (weights * decay).sum(), gradient.ravel()

    def decision_function(self, X):
        """Logits."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ np.asarray(self.coef_) + self.intercept_

    def predict(self, X):
        """One row of 0 and 1 for each example."""
        return predict(self.decision_function(X)).astype(int)


def main() -> dict[str, tuple[float, float]]:
    """Subset accuracy and example F1 of both on the same split."""
    part = split(load_yeast(), seed=0)
    models = {"ZLPR": ZLPRLinear(C=0.1), "logistic": MultiOutputClassifier(LogisticRegression(C=0.1, max_iter=200))}
    scores = {}
    for name, model in models.items():
        labels = model.fit(part.x_train, part.y_train).predict(part.x_test)
        f1 = f1_score(part.y_test, labels, average="samples", zero_division=1)
        scores[name] = accuracy_score(part.y_test, labels), f1
        print(f"{name:>8}: subset accuracy {scores[name][0]:.3f}, example F1 {scores[name][1]:.3f}")
    return scores


if __name__ == "__main__":
    main()
