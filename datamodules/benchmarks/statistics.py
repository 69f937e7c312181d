"""What decides between scorers: intervals, paired differences, Holm's correction, pooled seeds, blind scores taken off.

Expanded percentile intervals (Hesterberg, What Teachers Should Know About the Bootstrap, 2015) of the cluster bootstrap
(Cameron, Gelbach and Miller, 2008). A plain percentile interval of few images is too narrow, as a normal one with the
variance over n would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from datamodules.benchmarks.logits import CELLS, Logits
from datamodules.benchmarks.protocols.measured import Measured, MetricName
from negatives.tables import InputError, hash_of

LEVEL = 0.05
ALPHAS = tuple(round(step / 20, 2) for step in range(21))
"""Shares of the blind logit that are tried, as in the paper: 0, 0.05 ... 1.

Above 1 the blind score would count with the opposite sign: a scorer that sees nothing would win where false texts are
the likelier ones.
"""
Array = NDArray[np.float64]


class Intervals(NamedTuple):
    """Values and the ends of their 95 % intervals, (rows,) each."""

    value: Array
    low: Array
    high: Array


class Differences(NamedTuple):
    """Metrics of a less those of b, 95 % intervals, and two-sided p-values of no difference, (rows,) each."""

    value: Array
    low: Array
    high: Array
    p: Array


class Resampled(NamedTuple):
    """Metrics of the items as they are, (rows,), and of each resample of the clusters, (resamples, rows).

    Two scorers on the same items are resampled alike, so that their difference in a resample is that of the rows here.

    Attributes:
        value, drawn: the metrics.
        clusters: how many clusters have items of each row, (rows,).
    """

    value: Array
    drawn: Array
    clusters: NDArray[np.int64]

    def row(self, place: int) -> Resampled:
        """One metric, (1,) and (resamples, 1)."""
        return Resampled(self.value[[place]], self.drawn[:, [place]], self.clusters[[place]])


class Debiased(NamedTuple):
    """What is left of a scorer without its blind score.

    Attributes:
        alpha: how much of the blind logit is taken off, chosen on other images than those of `before` and `after`.
        before: metrics of the scorer as it is.
        after: metrics of logit - alpha x blind logit, on the same images.
    """

    alpha: float
    before: Measured
    after: Measured


def bootstrap_weights(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each resample draws each cluster, (resamples, clusters) in parts of bounded size.

    The draws are the same for the same seed and number of clusters, whatever is measured: two scorers on the same items
    are resampled alike.
    """
    generator = np.random.default_rng(seed)
    # the stream of draws is the same however it is cut, so results do not depend on memory
    part = max(1, CELLS // clusters)
    for start in range(0, resamples, part):
        rows = min(part, resamples - start)
        # every resample has a range of numbers of its own, so that one bincount counts them all
        drawn = generator.integers(0, clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)


def resampled(measured: Measured, *, resamples: int, seed: int) -> Resampled:
    """What the metrics are, and what they would be with other images."""
    weights = bootstrap_weights(len(measured.clusters), resamples, seed)
    drawn = np.concatenate([measured.values(part) for part in weights])
    return Resampled(measured.value(), drawn, measured.spread)


def averaged(values: Sequence[Resampled]) -> Resampled:
    """The mean of metrics with the same resamples; it has as many clusters as the one that has fewest."""
    value, drawn = (np.mean([one[part] for one in values], axis=0) for part in (0, 1))
    return Resampled(value, drawn, np.min([one.clusters for one in values], axis=0))


def intervals(measured: Measured, *, resamples: int, seed: int) -> Intervals:
    """The metrics with 95 % intervals over resampled clusters; see `ends`."""
    return ends(resampled(measured, resamples=resamples, seed=seed))


def ends(found: Resampled) -> Intervals:
    """The values with 95 % intervals.

    A row that no resample defines has its own value for both ends; a row of a single cluster has none (NaN): what other
    images would give is not known from one.
    """
    low, high = found.value.copy(), found.value.copy()
    alone = found.clusters < 2
    low[alone] = high[alone] = np.nan
    for row in np.flatnonzero(~alone & ~np.isnan(found.drawn).all(0)):
        low[row], high[row] = np.nanpercentile(found.drawn[:, row], percentiles(int(found.clusters[row])))
    return Intervals(found.value, low, high)


@cache
def percentiles(clusters: int) -> tuple[float, float]:
    """Between which percentiles of the resamples of at least 2 clusters a 95 % interval lies.

    Further out than 2.5 and 97.5 by as much as Student's t interval with the variance over n - 1 is wider than a normal
    one with that over n.

    >>> [tuple(round(end, 2) for end in percentiles(n)) for n in (5, 60, 1_000_000)]
    [(0.1, 99.9), (2.18, 97.82), (2.5, 97.5)]
    """
    freedom = clusters - 1
    low = 100 * float(ndtr(np.sqrt(clusters / freedom) * stdtrit(freedom, LEVEL / 2)))
    return low, 100 - low


def paired(a: Measured, b: Measured, *, resamples: int, seed: int) -> Differences:
    """How much better a is than b on the same items; both are resampled alike. See `difference`.

    Raises:
        InputError: other metrics, or other images.
    """
    _check_same(a, b)
    return difference(*(resampled(one, resamples=resamples, seed=seed) for one in (a, b)))


def difference(a: Resampled, b: Resampled) -> Differences:
    """How much better a is than b, both with the same rows and resamples.

    p is twice the share of resamples on the other side of 0, (count + 1) / (resamples + 1), so that it is never 0: it
    is at least 2 / (resamples + 1). Of a single cluster there is none (NaN). For m comparisons under Holm's correction
    take at least 40 m resamples, or none of them can be significant at 0.05.
    """
    drawn = a.drawn - b.drawn
    present = (~np.isnan(drawn)).sum(0)
    # NaN is on neither side
    side = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    known = (present > 0) & (a.clusters > 1)
    p = np.where(known, np.minimum(1.0, 2 * (side + 1) / (present + 1)), np.nan)
    return Differences(*ends(Resampled(a.value - b.value, drawn, a.clusters)), p)


def holm(ps: ArrayLike) -> Array:
    """p-values adjusted for all comparisons (Holm, 1979): a difference is significant where its own is at most 0.05.

    NaN (nothing was compared) stays, and does not count among the comparisons.

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    found = np.asarray(ps, dtype=np.float64)
    if ((found < 0) | (found > 1)).any():
        raise ValueError(f"p-values must be in [0, 1], got {found}")
    order = np.argsort(found)[: int((~np.isnan(found)).sum())]
    adjusted = found.copy()
    steps = found[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def tied(ps: ArrayLike) -> NDArray[np.bool_]:
    """Which of several comparisons leave it open who is better: those that Holm's correction leaves above 0.05."""
    return ~(holm(ps) <= LEVEL)


def pooled(seeds: Sequence[Measured]) -> Measured:
    """One method's mean over the runs that differ in their seed alone.

    Raises:
        InputError: no run, other metrics, or other images.
    """
    if not seeds:
        raise InputError("seeds can be pooled where there is a run; got none.")
    for other in seeds[1:]:
        _check_same(seeds[0], other)
    return replace(seeds[0], statistic=lambda weights: np.mean([seed.values(weights) for seed in seeds], axis=0))


def alpha_debias(
    measure: Callable[[Logits], Measured],
    logits: Logits,
    blind: Logits,
    *,
    main: MetricName,
    alphas: Sequence[float] = ALPHAS,
) -> Debiased:
    """Metrics of logit - alpha x blind logit, with the alpha that is best on half of the clusters, on the other half.

    After Lin et al., "Revisiting the Role of Language Priors in Vision-Language Models" (ICML 2024), where the blind
    score is that of images of noise. A cluster's half depends on its name alone, so it is the same for all scorers.

    Args:
        measure: logits to metrics. A difference of logits is calibrated no more, so they must not depend on that.
        logits, blind: of the same pairs.
        main: row whose value chooses; the least alpha of the best ones.
        alphas: what is tried.

    Raises:
        InputError: `main` is no row, one half has no cluster, or a pair has no blind logit.
    """
    plain = measure(logits)
    if main not in plain.rows:
        raise InputError(f"alpha is chosen by a metric of the benchmark, got {main.metric!r} of {main.group!r}.")
    chosen_on = np.array([hash_of("alpha", name) % 2 == 0 for name in plain.clusters])
    if chosen_on.all() or not chosen_on.any():
        raise InputError(f"alpha needs images to be chosen on and others to report; {len(chosen_on)} are too few.")
    row = plain.rows.index(main)
    best, alpha, after = -np.inf, 0.0, plain
    for candidate in sorted(alphas):
        measured = measure(logits.debiased(blind, candidate))
        value = measured.values(chosen_on[None])[0, row]
        if value > best:
            best, alpha, after = value, candidate, measured
    return Debiased(alpha, plain.restricted(~chosen_on), after.restricted(~chosen_on))


def _check_same(a: Measured, b: Measured) -> None:
    if a.rows != b.rows:
        other = next(iter(set(a.rows) ^ set(b.rows)), a.rows[0])
        raise InputError(
            f"scorers are compared on the same metrics; only one has {other.metric!r} of group {other.group!r}."
        )
    if a.clusters != b.clusters or not np.array_equal(a.counts, b.counts):
        other_image = next(iter(set(a.clusters) ^ set(b.clusters)), None)
        what = f"only one has {other_image!r}" if other_image else "the numbers of items differ"
        raise InputError(f"scorers are compared on the same items; {what}; score the same benchmark with both.")
