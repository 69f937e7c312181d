"""What W&B's summary shows of a training: the best and the last of its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.report.comparison.reading.curves import read_curves
from experiments.runs.metric_log import kinds_of
from experiments.runs.metric_record import SPEED_FILE
from negatives.tables import InputError

KEPT: Mapping[str, Callable[[list[float]], float]] = {
    "max": max,
    "min": min,
    "mean": lambda values: sum(values) / len(values),
    "last": lambda values: values[-1],
}


def training_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run's training by our own records, from its first step on, however often it was resumed.

    W&B's own begins anew in each process, and an upload of what a later process has recorded may replace it.

    Args:
        folder: of the run.

    Returns:
        Metric -> its last value, or kind -> value; empty where the records cannot be read.
    """
    try:
        curves = read_curves(folder / "logs") | read_curves(folder / "logs", SPEED_FILE)
    except InputError:
        return {}
    return {metric: _kept(kinds_of(metric), [*points.values()]) for metric, points in curves.items()}


def _kept(kinds: tuple[str, ...], values: list[float]) -> Any:
    return {kind: KEPT[kind](values) for kind in kinds} if kinds else values[-1]
