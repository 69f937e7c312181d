"""Correlations of scores and ratings under multiplicities of the items: Pearson, Spearman, Kendall's tau-b and tau-c.

What is computed is exactly what the formulas give where each item is repeated as often as its multiplicity says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmarks.protocols.rows import Weighted

Array = NDArray[np.float64]
METRICS = ("pearson", "spearman", "tau_b", "tau_c")


def correlations(scores: Array, ratings: Array) -> Weighted:
    """All of `METRICS`, ties as in scipy: mid-ranks for Spearman, variants b and c of Kendall's tau.

    Tau-c divides by what its number of levels allows. That is the scale's, so it stays the one of all N items where a
    resample lacks a level.

    Args:
        scores, ratings: (N,) each.

    Returns:
        Multiplicities (N, R) -> (R, 4); NaN where all scores, or all ratings, are equal.
    """
    x, y = _Levels(scores), _Levels(ratings)
    order = Order(scores, ratings)
    levels = min(x.count, y.count)
    # moments of numbers far from 0 would lose their digits
    centred = np.stack([scores - scores.mean(), ratings - ratings.mean()])
    moments = np.stack([*centred, *centred**2, centred.prod(0)])

    def values(weights: Array) -> Array:
        n = weights.sum(0)
        x_counts, y_counts = x.sums(weights), y.sums(weights)
        concordant, discordant = order.concordance(weights)
        untied = [pairs(n) - pairs(counts).sum(0) for counts in (x_counts, y_counts)]
        varied = np.minimum(*untied) > 0
        difference = concordant - discordant
        tau_b = difference / np.sqrt(np.where(varied, untied[0] * untied[1], 1))
        tau_c = 2 * difference / np.where(varied, n**2 * (levels - 1) / max(levels, 1), 1)
        found = [_pearson(moments @ weights, n), _spearman(x, y, x_counts, y_counts, weights), tau_b, tau_c]
        return np.where(varied, found, np.nan).T

    return values


def pairs(counts: Array) -> Array:
    """How many pairs so many items make."""
    return counts * (counts - 1) / 2


class Order:
    """Pairs of items whose ratings differ, sorted such that sums over all of them take N log(levels) steps.

    Two levels of the ratings differ in a highest bit. For each bit, items lie in blocks that agree in the bits above
    it; all pairs of a lower item (bit 0) and an upper one (bit 1) of a block are counted by sums over scores in order.
    """

    def __init__(self, scores: Array, ratings: Array, epsilon: float = 0.0):
        """Scores that differ by at most `epsilon` are tied."""
        self._rounds = list(_rounds(scores, ratings, epsilon))

    def concordance(self, weights: Array) -> tuple[Array, Array]:
        """Concordant and discordant pairs under multiplicities (N, R), (R,) each; ties of either side are neither."""
        concordant, discordant = np.zeros((2, weights.shape[1]))
        for one in self._rounds:
            lower = sums_before(weights[one.order] * ~one.is_upper[:, None])
            upper = weights[one.order[one.is_upper]]
            concordant += (upper * (lower[one.tie_start] - lower[one.block_start])).sum(0)
            discordant += (upper * (lower[one.block_end] - lower[one.tie_end])).sum(0)
        return concordant, discordant


class _Round(NamedTuple):
    """Items by block and score; for each upper item where its block and its ties begin and end."""

    order: NDArray[np.intp]
    is_upper: NDArray[np.bool_]
    block_start: NDArray[np.intp]
    block_end: NDArray[np.intp]
    tie_start: NDArray[np.intp]
    tie_end: NDArray[np.intp]


def _rounds(scores: Array, ratings: Array, epsilon: float) -> Iterator[_Round]:
    levels = np.unique(ratings, return_inverse=True)[1]
    for bit in range(int(levels.max(initial=0)).bit_length()):
        blocks = levels >> (bit + 1)
        order, starts, ends = tie_windows(scores, blocks, epsilon)
        is_upper = ((levels[order] >> bit) & 1).astype(bool)
        sorted_blocks = blocks[order]
        own = sorted_blocks[is_upper]
        block_start, block_end = (np.searchsorted(sorted_blocks, own, side) for side in ("left", "right"))
        yield _Round(order, is_upper, block_start, block_end, starts[is_upper], ends[is_upper])


def tie_windows(
    scores: Array, blocks: NDArray[np.intp], epsilon: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Items by block and score, and for each place the places of its block whose score differs by at most `epsilon`.

    Returns:
        Order, first place and place behind the last one, (N,) each.
    """
    distinct, ranks = np.unique(scores, return_inverse=True)
    low, high = _within(distinct, epsilon)
    order = np.lexsort((ranks, blocks))
    keys = (blocks * len(distinct) + ranks)[order]
    bases = blocks[order] * len(distinct)
    starts = np.searchsorted(keys, bases + low[ranks[order]], "left")
    return order, starts, np.searchsorted(keys, bases + high[ranks[order]], "right")


def _within(distinct: Array, epsilon: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each of the ascending numbers the first and the last one whose distance to it is at most `epsilon`.

    Distances decide, as they are rounded: `epsilon` is often one of them, and `number - epsilon` may round past it.
    """
    size = len(distinct)
    low = np.searchsorted(distinct, distinct - epsilon)
    low = np.minimum(low, np.arange(size))
    while (far := distinct - distinct[low] > epsilon).any():
        low = low + far
    while (near := (low > 0) & (distinct - distinct[low - 1] <= epsilon)).any():
        low = low - near
    # the last one within reach of i is the last whose first one is at most i
    return low, np.searchsorted(low, np.arange(size), "right") - 1


def sums_before(weights: Array) -> Array:
    """(N + 1, R): what has been added before each place."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


class _Levels:
    """Items by value: their number at each value, and their mid-ranks, under multiplicities."""

    def __init__(self, numbers: Array):
        _, self.places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        self.count = len(counts)
        self._order = np.argsort(self.places, kind="stable")
        self._starts = np.cumsum(counts) - counts

    def sums(self, weights: Array) -> Array:
        """(levels, R)."""
        return np.add.reduceat(weights[self._order], self._starts, axis=0)

    def ranks(self, counts: Array) -> Array:
        """Mid-ranks less their mean, (N, R), of the sums at each level."""
        middle = counts.cumsum(0) - counts / 2 - counts.sum(0) / 2
        return middle[self.places]


def _pearson(sums: Array, n: Array) -> Array:
    """Of sums of x, y, xx, yy, xy, (5, R)."""
    means = sums / np.maximum(n, 1)
    x, y, xx, yy, xy = means
    variances = np.maximum(xx - x**2, 0), np.maximum(yy - y**2, 0)
    # two different numbers, however close, have a variance; 1 stands where there is none, which is masked
    spread = np.sqrt(variances[0] * variances[1])
    return (xy - x * y) / np.where(spread > 0, spread, 1)


def _spearman(x: _Levels, y: _Levels, x_counts: Array, y_counts: Array, weights: Array) -> Array:
    x_ranks, y_ranks = x.ranks(x_counts), y.ranks(y_counts)
    covariance = (weights * x_ranks * y_ranks).sum(0)
    spread = np.sqrt((weights * x_ranks**2).sum(0) * (weights * y_ranks**2).sum(0))
    return covariance / np.where(spread > 0, spread, 1)
