"""The metrics of an evaluated set as rows of `metrics.csv`, each value beside its blind value."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from datamodules.benchmarks import Benchmark, Measured, find_protocol, intervals
from experiments.report.comparison.reading.evaluated import METRIC_COLUMNS
from experiments.scoring.sets import SetScores


def measured(benchmark: Benchmark, scores: SetScores, *, calibrated: bool) -> tuple[Measured, Measured | None]:
    """What a benchmark's protocol finds, and finds of the blind logits, where they are known.

    Raises:
        InputError: nothing can be measured.
    """
    measure = partial(
        find_protocol(benchmark.protocol).measure, benchmark.key, calibrated=calibrated, aggregates=benchmark.aggregates
    )
    return measure(scores.logits), None if scores.blind is None else measure(scores.blind)


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
    seen, blind = measured(benchmark, scores, calibrated=calibrated)
    found = intervals(seen, resamples=resamples, seed=seed)
    # the same images are drawn for both
    dark = None if blind is None else intervals(blind, resamples=resamples, seed=seed)
    rows = []
    for place, (metric, group) in enumerate(seen.rows):
        numbers = [column[place] for column in (*found, *(dark or (np.full(len(seen.rows), np.nan),) * 3))]
        counts = int(seen.counts[place]), int(seen.images[place])
        values = (run, name, metric, group, *map(_number, numbers), *counts)
        rows.append(dict(zip(METRIC_COLUMNS, values, strict=True)))
    return rows


def main_row(rows: list[dict[str, Any]], benchmark: Benchmark) -> dict[str, Any]:
    """The row that stands for a set: its main metric, the mean over groups where there are several."""
    main = [row for row in rows if row["metric"] == find_protocol(benchmark.protocol).main]
    return next((row for row in main if row["group"] == "mean"), main[0])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
