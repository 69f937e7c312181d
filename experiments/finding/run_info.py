"""What a run's folder tells at a glance: settings, state, and metrics; no weight is read, and no library is loaded.

The folders may have come from anyone: YAML is read as plain values, nothing in it is looked up, and what is printed of
it passes through `shown`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.finding.fast_yaml import plain_yaml
from experiments.runs.outputs import CONFIG_FILE, METRICS_FILE, PROVENANCE_FILE
from negatives.tables import DAMAGED, InputError, is_held

WEIGHTS, SUMMARY, LAST_CHECKPOINT = "weights.safetensors", "evaluation/summary.json", "checkpoints/last.ckpt"
LARGEST_CONFIG, MOST_KEYS = 1 << 20, 5000
"""Bytes and keys of a configuration that is read: a few letters of YAML can stand for any number of values."""
PLACES = ("name", "output_dir", "logging")
"""Settings that say what a run is called, and change nothing."""


@dataclass(frozen=True)
class Measured:
    """A metric of a run.

    Attributes:
        value: the best of a validation's metric, or that of an evaluation.
        low, high: of its 95 % interval; None for a validation.
        step: of a validation's metric.
    """

    value: float
    low: float | None = None
    high: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class RunInfo:
    """A run.

    Attributes:
        folder: of the run.
        name: as it was configured.
        settings: dotted key -> value; lists stay whole.
        state: "evaluated", "finished", "training", "stopped" or "begun".
        step: the last one that is logged; None before the first.
        changed: when its record or its weights were last written, in seconds since 1970.
        validation: "val/..." -> the record's values by step.
        evaluation: "SET/GROUP_METRIC" -> value and interval.
        provenance: dotted key -> value: commit and versions.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    state: str
    step: int | None
    changed: float
    validation: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    evaluation: Mapping[str, Measured] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def metric(self, name: str, *, lowest: bool = False) -> Measured | None:
        """A metric of its evaluation, or the best one of its validations; None where it has none of this name."""
        if name in self.evaluation:
            return self.evaluation[name]
        points = self.validation.get(name)
        if not points:
            return None
        # the first of equals
        step = (min if lowest else max)(points, key=lambda step: (points[step], step if lowest else -step))
        return Measured(points[step], step=step)

    @property
    def age(self) -> float:
        """Seconds since something was written."""
        return max(0.0, time.time() - self.changed)


def find_runs(folders: list[str]) -> list[RunInfo]:
    """The runs in folders and below, in the order of their names.

    Raises:
        InputError: a folder is not there.
    """
    found: dict[Path, RunInfo] = {}
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"there is no folder {name}; give the folder of a sweep, or one above runs.")
        for place in sorted(_run_folders(folder)):
            found.setdefault(place.resolve(), read_info(place))
    return [*found.values()]


def read_info(folder: Path) -> RunInfo:
    """What one run's folder tells; what cannot be read of it is left out."""
    settings = read_settings(folder / CONFIG_FILE)
    last, validation = _record(folder / "logs" / METRICS_FILE)
    state = _state(folder, last)
    written = [folder / name for name in (WEIGHTS, f"logs/{METRICS_FILE}", SUMMARY, CONFIG_FILE)]
    changed = max((file.stat().st_mtime for file in written if file.is_file()), default=0.0)
    evaluation = _evaluation(folder / "evaluation/metrics.csv") if (folder / SUMMARY).is_file() else {}
    name = str(settings.get("name", folder.name))
    provenance = _provenance(folder / PROVENANCE_FILE)
    return RunInfo(folder, name, settings, state, last, changed, validation, evaluation, provenance)


def read_settings(path: Path) -> dict[str, Any]:
    """Dotted key -> value of a saved configuration; empty where it cannot be read."""
    try:
        if path.stat().st_size > LARGEST_CONFIG or not path.is_file():
            return {}
        content = plain_yaml(path.read_bytes())
        found = {}
        for count, (key, value) in enumerate(_flat(content, "")):
            if count >= MOST_KEYS:
                return {}
            found[key] = value
        return found
    except (*DAMAGED, AttributeError):
        return {}


def differing(runs: list[RunInfo]) -> list[str]:
    """The keys whose values differ between runs, in the order of the first; those that only name things left out."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [
        key
        for key in keys
        if key.split(".")[0] not in PLACES and len({repr(run.settings.get(key)) for run in runs}) > 1
    ]


def metric_names(runs: list[RunInfo]) -> list[str]:
    """All metrics that some run has."""
    return list(dict.fromkeys(name for run in runs for name in (*run.evaluation, *run.validation)))


def usual_metric(runs: list[RunInfo]) -> str | None:
    """The metric to show where none is asked for: what the runs choose their best weights by, or of an evaluation."""
    asked = [str(run.settings.get("trainer.best_metric", "")) for run in runs]
    for name in dict.fromkeys(asked):
        if any(run.validation.get(name) for run in runs):
            return name
    evaluated = [name for run in runs for name in run.evaluation]
    means = [name for name in evaluated if name.split("/")[-1].startswith("mean_")]
    return next(iter([*means, *evaluated]), None)


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders of trainings, at any depth; what lies in a run is not looked through."""
    for place, inner, files in os.walk(folder):
        if PROVENANCE_FILE in files and CONFIG_FILE in files and _verb(Path(place)) == "train":
            inner.clear()
            yield Path(place)
        # links are not followed, and these hold no runs
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("wandb", "tasks"))


def _verb(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["verb"])
    except (*DAMAGED, OSError):
        return None


def _state(folder: Path, last: int | None) -> str:
    if (folder / WEIGHTS).is_file() or (folder / SUMMARY).is_file():
        return "evaluated" if (folder / SUMMARY).is_file() else "finished"
    if is_held(folder):
        return "training"
    return "begun" if last is None and not (folder / LAST_CHECKPOINT).is_file() else "stopped"


def _record(path: Path) -> tuple[int | None, dict[str, dict[int, float]]]:
    """The last step of a record of metrics, and what validations logged."""
    found: dict[str, dict[int, float]] = {}
    last = None
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
    except OSError:
        return None, {}
    for number, line in enumerate(lines, start=1):
        # of a long record most lines are of the training
        if b'"val/' not in line and number < len(lines):
            continue
        try:
            row = json.loads(line)
            last = int(row["step"])
            for name, value in row["metrics"].items():
                if name.startswith("val/") and isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(str(name), {})[last] = float(value)
        except (*DAMAGED, AttributeError):  # a killed run may leave a part of a line
            continue
    return last, found


def _evaluation(path: Path) -> dict[str, Measured]:
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name = f"{row['set']}/{row['group']}{'_' if row['group'] else ''}{row['metric']}"
                numbers = [float(row[key]) if row[key] else None for key in ("value", "low", "high")]
                if numbers[0] is not None:
                    found[name] = Measured(numbers[0], numbers[1], numbers[2])
    except (*DAMAGED, csv.Error):
        return found
    return found


def _provenance(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in _flat(content, "") if key.split(".")[0] in ("git", "packages", "python")}
    except (*DAMAGED, AttributeError):
        return {}


def _flat(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value and depth < 50:
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}" if place else str(key), depth + 1)
    elif not isinstance(value, dict):
        yield place, value
