"""A blind learner that is trained with an offset: logistic regression on z + s b, and asked by z alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS = 200  # of L-BFGS, which stops by itself where the gradient vanishes


@dataclass(frozen=True)
class OffsetLearner:
    """Logistic regression on the features of a judge.

    Attributes:
        judge: whose features it reads.
        regularisation: inverse strength of the L2 penalty, as scikit-learn's C: its capacity.
    """

    judge: str
    regularisation: float

    def __str__(self) -> str:
        return f"{self.judge}, C {self.regularisation:g}"


def fit_pairs(features: Any, offsets: np.ndarray, regularisation: float) -> np.ndarray:
    """[F] weights whose difference between the texts of a pair, plus its offset, is the logit that the first is true.

    Args:
        features: [P, F] differences, sparse or dense.
        offsets: [P] logits, already scaled.
        regularisation: see `OffsetLearner`.
    """
    return _minimised(features, offsets, np.ones(len(offsets)), np.ones(len(offsets)), regularisation)


def fit_texts(features: Any, labels: np.ndarray, offsets: np.ndarray, regularisation: float) -> np.ndarray:
    """[F] weights of single texts, both classes weighing the same; the intercept, which no pair sees, is left out.

    Args:
        features: [N, F] sparse or dense.
        labels: [N] 1 or 0.
        offsets, regularisation: see `fit_pairs`.
    """
    share = np.where(labels == 1, (labels == 1).mean(), (labels == 0).mean())
    return _minimised(features, offsets, np.where(labels == 1, 1.0, -1.0), 0.5 / share, regularisation)


def _minimised(
    features: Any, offsets: np.ndarray, signs: np.ndarray, weights: np.ndarray, regularisation: float
) -> np.ndarray:
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (features @ vector + offsets)
        slope = -signs * weights * expit(-margins)
        value = weights @ np.logaddexp(0.0, -margins) + vector @ vector / (2 * regularisation)
        return float(value), features.T @ slope + vector / regularisation

    start = np.zeros(features.shape[1])
    found: np.ndarray = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return found
