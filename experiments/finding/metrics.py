"""What a run's training logged of its validations, and what its evaluations measured, by the names of the metrics."""

from __future__ import annotations

import csv
import io
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.report.comparison.reading.curves import read_curves
from experiments.report.csv_files import unguarded
from experiments.runs.outputs import METRICS_FILE
from lightning_modules import LAST, checkpoint_faults
from negatives.tables import DAMAGED, InputError

# written out, since the modules of evaluations import all protocols, which would double the time of a short list
SUMMARY_FILE = "summary.json"
LARGEST_FILE = 1 << 24
"""Bytes of a summary or a table of metrics that is read."""
END = 1 << 16
"""Bytes at the end of a record in which its last whole line is looked for."""
VALIDATION = "val/"
Points = dict[str, dict[int, float]]
"""Metric -> step -> value."""


@dataclass(frozen=True)
class Measured:
    """A metric of a run.

    Attributes:
        value: of a validation, or of an evaluation.
        low, high: of its 95 % interval; None for a validation.
        step: of a validation's metric.
        weights: which of the run's weights have the value: last, best or a step's number; None where none were kept.
    """

    value: float
    low: float | None = None
    high: float | None = None
    step: int | None = None
    weights: str | None = None


def lower_is_better(metric: str) -> bool | None:
    """Whether the lowest value of a metric is the best; None where its name does not tell.

    >>> [lower_is_better(name) for name in ("val/mean/accuracy", "coco/i2t_mean_rank", "set/mean_blind_accuracy")]
    [False, True, None]
    """
    name = metric.rpartition("/")[2]
    # what noise images or chance reach says nothing of a scorer
    if "blind_" in name or name.endswith(("_random", "_oracle")):
        return None
    return name.endswith("_rank") or "wrong_" in name or "loss" in metric.split("/")


def read_record(run: Path) -> tuple[int | None, Points]:
    """The last step that a training logged, None before the first, and what its validations logged."""
    record = run / "logs" / METRICS_FILE
    if not record.is_file():
        return _former(run)
    found: Points = {}
    try:
        for line in _lines_with(record, f'"{VALIDATION}'.encode()):
            if (row := _row(line)) is not None:
                for name, value in row[1].items():
                    if name.startswith(VALIDATION):
                        found.setdefault(name, {})[row[0]] = value
        return _last_step(record), found
    except OSError:
        return None, found


def read_evaluations(run: Path) -> dict[str, dict[str, Measured]]:
    """`evaluations_in` of a run's own."""
    return evaluations_in(sorted(run.glob("evaluation*")))


def evaluations_in(folders: Sequence[Path]) -> dict[str, dict[str, Measured]]:
    """Which weights -> SET/GROUP_METRIC -> value, of the finished evaluations among some folders."""
    found: dict[str, dict[str, Measured]] = {}
    for folder in folders:
        if (folder / SUMMARY_FILE).is_file():
            about = read_object(folder / SUMMARY_FILE).get("checkpoint")
            # older versions evaluated the last weights alone, and did not say so
            weights = str(about.get("name", LAST)) if isinstance(about, Mapping) else LAST
            # the folder may be anyone's, and this becomes a word of a command
            if not any(checkpoint_faults(weights, "")):
                of_weights = found.setdefault(weights, {})
                for name, measured in _evaluation(folder / "metrics.csv", weights).items():
                    # `evaluation` comes before others of the same weights, as with another score
                    of_weights.setdefault(name, measured)
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; an empty one where it does not, or cannot be read."""
    try:
        content = json.loads(read_text(path))
    except DAMAGED:
        return {}
    return content if isinstance(content, dict) else {}


def read_text(path: Path) -> str:
    """A file of a reasonable size.

    Raises:
        OSError, ValueError: it is none.
    """
    # a pipe of this name would be waited for
    if not path.is_file():
        raise FileNotFoundError(path)
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is too large")
    return path.read_text(encoding="utf-8")


def _former(run: Path) -> tuple[int | None, Points]:
    """The same of an older version's run, which logged to CSV."""
    try:
        curves = read_curves(run / "logs")
    except InputError:
        return None, {}
    steps = [step for points in curves.values() for step in points]
    return max(steps, default=None), {name: of for name, of in curves.items() if name.startswith(VALIDATION)}


def _lines_with(record: Path, text: bytes) -> Iterator[bytes]:
    """The whole lines of a record that hold a text; the others, of the training, are passed over unread."""
    if not record.stat().st_size:
        return
    with record.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(text)
        # a line without its end was torn by a kill
        while place >= 0 and (end := content.find(b"\n", place)) >= 0:
            yield content[content.rfind(b"\n", 0, place) + 1 : end]
            place = content.find(text, end)


def _last_step(record: Path) -> int | None:
    with record.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - END))
        lines = file.read().split(b"\n")[:-1]
    return next((row[0] for line in reversed(lines) if (row := _row(line)) is not None), None)


def _row(line: bytes) -> tuple[int, dict[str, float]] | None:
    """Step and metrics of a line; None where it is none that `MetricLog` writes."""
    try:
        row = json.loads(line)
        values = {str(key): _number(value) for key, value in row["metrics"].items()}
        return int(row["step"]), {key: value for key, value in values.items() if value is not None}
    except DAMAGED:
        return None


def _evaluation(path: Path, weights: str) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
        for row in rows:
            # older versions knew pairs alone, and had a column for their accuracy
            former = "negative_type" in row
            metric, group = ("accuracy", row["negative_type"]) if former else (row["metric"], row["group"])
            value, low, high = (_number(row[key]) for key in ("accuracy" if former else "value", "low", "high"))
            if value is not None:
                name = f"{unguarded(row['set'])}/{unguarded(group)}{'_' if group else ''}{unguarded(metric)}"
                found[name] = Measured(value, low, high, weights=weights)
    except DAMAGED:
        return found
    return found


def _number(value: Any) -> float | None:
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None
