"""What a scorer reaches on one set: metrics with their resamples, on noise, and without the blind score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmarks import (
    Measured,
    MetricName,
    Resampled,
    alpha_debias,
    averaged,
    measure_benchmark,
    pooled,
    resampled,
)
from experiments.report.comparison.reading.evaluated import EvaluatedSet
from negatives.tables import InputError


@dataclass(frozen=True)
class Halved:
    """Alpha debiasing: the metrics of one half of the images, as they are and without alpha x the blind logit.

    Attributes:
        alpha: chosen on the other half; the mean over seeds.
        rows: names of the metrics, in the order of both arrays.
        before: as they are, (rows,).
        after: without the blind logit, with resamples of the images of this half. These know nothing of how alpha was
            chosen: it stays as it is.
    """

    alpha: float
    rows: tuple[MetricName, ...]
    before: NDArray[np.float64]
    after: Resampled

    def row(self, name: MetricName) -> Resampled | None:
        """One metric without the blind logit, (1,) and (resamples, 1); None where this half does not define it."""
        place = self.rows.index(name) if name in self.rows else None
        if place is None or np.isnan([self.before[place], self.after.value[place]]).any():
            return None
        return self.after.row(place)


@dataclass(frozen=True)
class Result:
    """One set's metrics of a run, or of a method over its seeds.

    Attributes:
        rows: names of the metrics, in the order of all arrays.
        seen, blind: on the images and on noise; `blind` is None where it is not known.
        counts, images: items and distinct images of each row.
        seeds: values of each seed, (seeds, rows).
        halved: without the blind score; None where that is not known or the set is too small for two halves.
        training_pairs: group -> items of images that were trained on (the most of any seed), of all for "mean"; None
            where it is not known.
    """

    rows: tuple[MetricName, ...]
    seen: Resampled
    blind: Resampled | None
    counts: NDArray[np.int64]
    images: NDArray[np.int64]
    seeds: NDArray[np.float64]
    halved: Halved | None = None
    training_pairs: Mapping[str, int] | None = field(default=None)

    def row(self, name: MetricName) -> Resampled:
        """One metric, (1,) and (resamples, 1)."""
        return self.seen.row(self.rows.index(name))


def run_result(found: EvaluatedSet, main: MetricName, *, resamples: int, seed: int, debias: bool) -> Result:
    """The metrics of one scorer.

    Args:
        found: the set as it answered it.
        main: the metric that alpha is chosen by.
        resamples, seed: of the bootstrap.
        debias: whether metrics without the blind score are computed.

    Raises:
        InputError: nothing can be measured.
    """
    halved = _halved(found, main, resamples, seed) if debias else None
    return _result([found.measured], [found.blind_measured], [halved], found.training_pairs, resamples, seed)


def method_result(seeds: Sequence[EvaluatedSet], results: Sequence[Result], *, resamples: int, seed: int) -> Result:
    """The mean over the seeds of a method.

    Args:
        seeds: the set as each seed answered it.
        results: of each seed.
        resamples, seed: of the bootstrap.
    """
    trained = [one.training_pairs for one in results]
    counted = [counts for counts in trained if counts is not None]
    most = None
    if len(counted) == len(trained):
        most = {group: max(counts.get(group, 0) for counts in counted) for counts in counted for group in counts}
    # older versions do not say that logits are calibrated: then metrics are those that all seeds have
    calibrated = all(one.calibrated for one in seeds)
    seeds = [replace(one, calibrated=calibrated) if one.calibrated != calibrated else one for one in seeds]
    measured, blind = [one.measured for one in seeds], [one.blind_measured for one in seeds]
    return _result(measured, blind, [one.halved for one in results], most, resamples, seed)


def _result(
    measured: Sequence[Measured],
    blind: Sequence[Measured | None],
    halves: Sequence[Halved | None],
    training_pairs: Mapping[str, int] | None,
    resamples: int,
    seed: int,
) -> Result:
    whole = pooled(measured)
    known = [one for one in blind if one is not None]
    return Result(
        rows=whole.rows,
        seen=resampled(whole, resamples=resamples, seed=seed),
        # the same images are drawn for both
        blind=resampled(pooled(known), resamples=resamples, seed=seed) if len(known) == len(blind) else None,
        counts=whole.counts,
        images=whole.images,
        seeds=np.stack([one.value() for one in measured]),
        # only now is it known that seeds have the same rows and images
        halved=_mean_half(halves),
        training_pairs=training_pairs,
    )


def _mean_half(halves: Sequence[Halved | None]) -> Halved | None:
    """The mean over seeds, whose halves are the same images, and are resampled alike."""
    known = [half for half in halves if half is not None]
    if len(known) < len(halves):
        return None
    alpha, before = (np.mean([getattr(half, name) for half in known], axis=0) for name in ("alpha", "before"))
    return Halved(float(alpha), known[0].rows, before, averaged([half.after for half in known]))


def _halved(found: EvaluatedSet, main: MetricName, resamples: int, seed: int) -> Halved | None:
    if found.blind is None:
        return None
    try:
        debiased = alpha_debias(partial(measure_benchmark, found), found.logits, found.blind, main=main)
    except InputError:
        return None  # too few images for two halves; all else was measured before
    # one pass over the resamples, of the alpha that was chosen: the other 20 have a value alone
    after = resampled(debiased.after, resamples=resamples, seed=seed)
    return Halved(debiased.alpha, debiased.after.rows, debiased.before.value(), after)
