"""ROC-AUC, average precision and medians under multiplicities of the items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmarks.protocols.agreement import sums_before
from datamodules.benchmarks.protocols.rows import Weighted

Array = NDArray[np.float64]


def auc(scores: Array, labels: NDArray[np.bool_]) -> Weighted:
    """Area under the ROC curve: the share of pairs of a positive and a negative in which the positive scores higher.

    Ties count one half.

    Args:
        scores: (N,), larger = positive.
        labels: (N,).

    Returns:
        Multiplicities (N, R) -> (R, 1); NaN where one of the classes is not there.
    """
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    up_to = np.searchsorted(scores[negatives], scores[positives], side="right")

    def values(weights: Array) -> Array:
        positive, negative = weights[positives], sums_before(weights[negatives])
        wins = np.einsum("nr,nr->r", positive, negative[below])
        if (below != up_to).any():
            wins = (wins + np.einsum("nr,nr->r", positive, negative[up_to])) / 2
        return _over(wins, positive.sum(0) * negative[-1])[:, None]

    return values


def auc_and_precision(scores: Array, labels: NDArray[np.bool_]) -> Weighted:
    """ROC-AUC and average precision of N scores.

    Average precision is the sum over score levels, from the highest, of precision times the recall that the level
    adds; equal scores are one level (both as in scikit-learn).

    Args:
        scores: (N,), larger = positive.
        labels: (N,).

    Returns:
        Multiplicities (N, R) -> (R, 2); NaN where one of the classes is not there.
    """
    area = auc(scores, labels)
    order = np.argsort(-scores, kind="stable")
    starts = _starts(scores[order])
    signs = labels[order, None]

    def values(weights: Array) -> Array:
        sorted_weights = weights[order]
        positives = np.add.reduceat(sorted_weights * signs, starts, axis=0)
        every = np.add.reduceat(sorted_weights, starts, axis=0)
        positive = positives.sum(0)
        negative = every.sum(0) - positive
        seen = np.maximum(every.cumsum(0), 1)  # no item so far: no positive either
        precise = (positives * positives.cumsum(0) / seen).sum(0)
        precision = _over(precise, positive * (negative > 0))[:, None]
        return np.concatenate([area(weights), precision], axis=1)

    return values


def median(numbers: Array) -> Weighted:
    """The median of N numbers, of an even number of them the mean of the two in the middle.

    Returns:
        Multiplicities (N, R) -> (R, 1).
    """
    order = np.argsort(numbers, kind="stable")
    ascending = numbers[order]

    def values(weights: Array) -> Array:
        reached = weights[order].cumsum(0)
        total = reached[-1]
        # the first number at which at least half, or more than half, of the items are behind
        low = np.argmax(reached >= total / 2, axis=0)
        high = np.argmax(reached > total / 2, axis=0)
        return np.where(total > 0, (ascending[low] + ascending[high]) / 2, np.nan)[:, None]

    return values


def _starts(sorted_values: Array) -> NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.r_[True, sorted_values[1:] != sorted_values[:-1]])


def _over(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
