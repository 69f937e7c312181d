"""The learning curves of a run, from what its training logged."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

from experiments.runs.outputs import METRICS_FILE
from negatives.tables import DAMAGED, InputError


def read_curves(logs: Path, record_file: str = METRICS_FILE) -> dict[str, dict[int, float]]:
    """Metric -> step -> value from a run's `logs/`; what a resumed run logged again replaces the old.

    Runs of older versions have `version_*/metrics.csv`, one for each time they were started.

    Raises:
        InputError: If a line is none that `MetricLog` writes.
    """
    curves: dict[str, dict[int, float]] = {}
    # by number: version_10 comes after version_9
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda path: _numbers(path.parent.name)):
        for row in csv.DictReader(_whole_lines(path)):
            if (step := _number(row.pop("step", None))) is not None:
                _add_metrics(curves, step, row)
    record = logs / record_file
    for number, line in enumerate(_whole_lines(record) if record.is_file() else [], start=1):
        try:
            row = json.loads(line)
            _add_metrics(curves, row["step"], row["metrics"])
        except DAMAGED as error:
            raise InputError(f"{record}, line {number}, must be a step's metrics, and is not. Remove it.") from error
    return {metric: dict(sorted(points.items())) for metric, points in sorted(curves.items())}


def _whole_lines(path: Path) -> list[str]:
    # a killed run may leave a part of the last line, whose number is not the one that was logged
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _add_metrics(curves: dict[str, dict[int, float]], step: Any, metrics: dict[str, Any]) -> None:
    for metric, logged in metrics.items():
        value = _number(logged)
        if metric != "epoch" and value is not None:
            curves.setdefault(metric, {})[int(step)] = value


def _number(value: Any) -> float | None:
    # the CSV leaves a cell empty where a row has no such metric
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]
