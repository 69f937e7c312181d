"""The metrics of an evaluated set as rows of `metrics.csv`, each value beside its blind value."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.benchmarks import Benchmark, intervals, measure_benchmark
from experiments.report.comparison.reading.evaluated import METRIC_COLUMNS
from experiments.scoring.sets import SetScores


def metric_rows(
    run: str, name: str, benchmark: Benchmark, scores: SetScores, *, calibrated: bool, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each metric and group, in the columns of `METRIC_COLUMNS`; None where a number is not known.

    Args:
        run: name of the scorer.
        name: of the set.
        benchmark: what was asked.
        scores: what the scorer said.
        calibrated: whether a logit of 0 means one half.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: nothing can be measured.
    """
    seen = measure_benchmark(benchmark, scores.logits, calibrated=calibrated)
    found, dark = intervals(seen, resamples=resamples, seed=seed), None
    if scores.blind is not None:
        blind = measure_benchmark(benchmark, scores.blind, calibrated=calibrated)
        # the same images are drawn for both
        dark = intervals(blind, resamples=resamples, seed=seed)
    rows = []
    for place, (metric, group) in enumerate(seen.rows):
        numbers = [column[place] for column in (*found, *(dark or (np.full(len(seen.rows), np.nan),) * 3))]
        counts = int(seen.counts[place]), int(seen.images[place])
        values = (run, name, metric, group, *map(_number, numbers), *counts)
        rows.append(dict(zip(METRIC_COLUMNS, values, strict=True)))
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
