"""Pairwise accuracy with tie calibration: do score and ratings order two items alike, or both call them equal?

After Deutsch, Foster and Freitag, "Ties Matter" (EMNLP 2023), as VQAScore's evaluation uses it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmarks.protocols.agreement import Order, pairs, sums_before, tie_windows
from datamodules.benchmarks.protocols.rows import Weighted

Array = NDArray[np.float64]
MOST_ROWS = 10_000  # the search looks at every pair: 50 million, in some seconds
BINS = 1 << 16
BLOCK = 256


def pairwise_accuracy(scores: Array, ratings: Array, epsilon: float) -> Weighted:
    """Share of all pairs that are ordered alike, or tied on both sides; scores within `epsilon` are tied.

    Args:
        scores, ratings: (N,) each.
        epsilon: at least 0.

    Returns:
        Multiplicities (N, R) -> (R, 1); an item that is drawn twice is tied with itself.
    """
    order = Order(scores, ratings, epsilon)
    levels = np.unique(ratings, return_inverse=True)[1]
    by_level, starts, ends = tie_windows(scores, levels, epsilon)

    def values(weights: Array) -> Array:
        n = weights.sum(0)
        own = weights[by_level]
        sums = sums_before(own)
        # each ordered pair, and each item with itself
        tied = ((own * (sums[ends] - sums[starts])).sum(0) - n) / 2
        concordant, _ = order.concordance(weights)
        every = pairs(n)
        return np.divide(concordant + tied, every, out=np.full(len(n), np.nan), where=every > 0)[:, None]

    return values


def calibrated_epsilon(scores: Array, ratings: Array, most_rows: int = MOST_ROWS) -> float:
    """The epsilon of the best pairwise accuracy, among 0 and all differences of two scores; the least of equal ones.

    Officially all rows are searched. Where only some are, the accuracy is not the official number, but at most that:
    `read_benchmark` notes it.

    Args:
        scores, ratings: (N,) each.
        most_rows: where more rows differ, every k-th of them in the order of the scores is searched.
    """
    rows, times = np.unique(np.stack([scores, ratings], axis=1), axis=0, return_counts=True)
    step = -(-len(rows) // most_rows)
    rows, counts = rows[::step], times[::step].astype(np.float64)
    if len(rows) < 2 or rows[0, 0] == rows[-1, 0]:
        return 0.0
    # how many right pairs a larger epsilon adds: the sum over all differences up to it
    width = (rows[-1, 0] - rows[0, 0]) / BINS
    net, gains = np.zeros(BINS), np.zeros(BINS)
    for differences, changes in _changes(rows, counts):
        bins = _bins(differences, width)
        net += np.bincount(bins, changes, BINS)
        gains += np.bincount(bins, np.maximum(changes, 0), BINS)
    before = net.cumsum() - net
    # a bin in which no epsilon can be better than the best end of a bin is not looked into
    promising = (gains > 0) & (before + gains >= max(0.0, net.cumsum().max()))
    found = [
        np.stack([differences[chosen], changes[chosen]])
        for differences, changes in _changes(rows, counts)
        if (chosen := promising[_bins(differences, width)]).any()
    ]
    return _best(np.concatenate(found, axis=1), before, width) if found else 0.0


def _best(changes: Array, before: Array, width: float) -> float:
    differences, sums = changes[:, np.argsort(changes[0], kind="stable")]
    bins = _bins(differences, width)
    sums = sums.cumsum()
    first = np.searchsorted(bins, bins)
    totals = sums - np.where(first > 0, sums[first - 1], 0) + before[bins]
    # equal differences are ties all at once
    last = np.r_[differences[1:] != differences[:-1], True]
    best = np.argmax(totals[last])
    return float(differences[last][best]) if totals[last][best] > 0 else 0.0


def _bins(differences: Array, width: float) -> NDArray[np.intp]:
    return np.minimum((differences / width).astype(np.intp), BINS - 1)


def _changes(rows: Array, counts: Array) -> Iterator[tuple[Array, Array]]:
    """Differences above 0 of all pairs of scores, and what a tie changes: +1 if the ratings tie, -1 if it was right.

    Rows are in the order of their scores, so that a pair is right where its ratings rise, too.
    """
    scores, ratings = rows.T
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        differences = scores[None, start:] - scores[part, None]
        rise = ratings[None, start:] - ratings[part, None]
        changes = np.where(rise == 0, 1.0, np.where(rise > 0, -1.0, 0.0)) * counts[part, None] * counts[None, start:]
        # pairs below the diagonal of the block have a negative difference, or none
        used = (differences > 0) & (changes != 0)
        yield differences[used], changes[used]
