"""What a run's folder tells at a glance: settings, state, and metrics; no weight is read, and no library is loaded.

The folders may have come from anyone: YAML is read as plain values, nothing in it is looked up, and what is printed of
it passes through `shown`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config.names import is_file_name
from experiments.finding.fast_yaml import plain_yaml
from experiments.finding.metrics import (
    SUMMARY_FILE,
    Measured,
    evaluations_in,
    read_evaluations,
    read_object,
    read_record,
)
from experiments.runs.outputs import CONFIG_FILE, METRICS_FILE, PROVENANCE_FILE
from lightning_modules import BEST, BEST_FILE, LAST, weights_file
from negatives.tables import DAMAGED, InputError, is_held

WEIGHTS, SUMMARY, LAST_CHECKPOINT = "weights.safetensors", f"evaluation/{SUMMARY_FILE}", "checkpoints/last.ckpt"
LARGEST_CONFIG, MOST_KEYS = 1 << 20, 5000
"""Bytes and keys of a configuration that is read: a few letters of YAML can stand for any number of values."""
PLACES = ("name", "output_dir", "logging")
"""Settings that say what a run is called, and change nothing."""


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
        evaluations: weights, such as "last" -> "SET/GROUP_METRIC" -> value and interval.
        provenance: dotted key -> value: commit and versions.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    state: str
    step: int | None
    changed: float
    validation: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its weights are there."""
        return (self.folder / WEIGHTS).is_file()

    def metric(self, name: str, *, lowest: bool = False) -> Measured | None:
        """A metric of its evaluations, or the best one of its validations; None where it has none of this name."""
        evaluated = self._evaluated(name)
        # of the last weights, where several were evaluated
        if last := [one for one in evaluated if one.weights == LAST]:
            return last[0]
        points = self.validation.get(name, {})
        return best_of(evaluated or [Measured(value, step=step) for step, value in points.items()], lowest=lowest)

    def loadable(self, name: str, *, lowest: bool = False) -> Measured | None:
        """The best value of a metric that some of its weights have, and which these are; None where none have it."""
        if not self.finished:
            return None
        # what was evaluated may have been removed since
        there = {LAST, *(word for weights, step in self.kept() for word in (weights, str(step)))}
        evaluated = [one for one in self._evaluated(name) if one.weights in there]
        return best_of(evaluated or [*self._validated(name)], lowest=lowest)

    def _evaluated(self, name: str) -> list[Measured]:
        return [values[name] for values in self.evaluations.values() if name in values]

    def _validated(self, name: str) -> Iterator[Measured]:
        points, steps = self.validation.get(name, {}), self.settings.get("trainer.max_steps")
        end = steps if isinstance(steps, int) and steps > 0 else (self.step or 0) + 1
        # a validation has the number of the step that it follows, counted from 0
        for weights, step in ((LAST, end), *self.kept()):
            if step - 1 in points:
                yield Measured(points[step - 1], step=step - 1, weights=weights)

    def kept(self) -> Iterator[tuple[str, int]]:
        """What its kept weights are called, and their steps, the best first; as far as they are there."""
        folder = self.folder / "checkpoints"
        kept = read_object(folder / BEST_FILE).get("kept")
        for place, one in enumerate(kept if isinstance(kept, list) else ()):
            step = one.get("step") if isinstance(one, dict) else None
            if isinstance(step, int) and (folder / weights_file(step)).is_file():
                yield (str(step) if place else BEST), step

    @property
    def age(self) -> float:
        """Seconds since something was written."""
        return max(0.0, time.time() - self.changed)


def best_of(values: Sequence[Measured], *, lowest: bool) -> Measured | None:
    """The best of several values, the first of those that are equal; None of none."""
    return (min if lowest else max)(values, key=lambda one: one.value, default=None)


def find_runs(folders: list[str]) -> list[RunInfo]:
    """The runs in folders and below, and evaluated scorers that are none, in the order of their names.

    Raises:
        InputError: a folder is not there.
    """
    found: dict[Path, RunInfo] = {}
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"there is no folder {name}; give the folder of a sweep, or one above runs.")
        for place, verb in sorted(_result_folders(folder), key=lambda one: natural(str(one[0]))):
            found.setdefault(place.resolve(), read_info(place) if verb == "train" else read_scorer(place))
    return [*found.values()]


def natural(text: str) -> list[tuple[int, str]]:
    """A key by which texts are sorted as people do.

    >>> sorted(["seed=10", "seed=9"], key=natural)
    ['seed=9', 'seed=10']
    """
    return [(int(part[:18]), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", text)]


def read_info(folder: Path) -> RunInfo:
    """What one run's folder tells; what cannot be read of it is left out."""
    settings = read_settings(folder / CONFIG_FILE)
    last, validation = read_record(folder)
    state = _state(folder, last)
    written = [folder / name for name in (WEIGHTS, f"logs/{METRICS_FILE}", SUMMARY, CONFIG_FILE)]
    changed = max((file.stat().st_mtime for file in written if file.is_file()), default=0.0)
    name = str(settings.get("name", folder.name))
    provenance = _provenance(folder / PROVENANCE_FILE)
    return RunInfo(folder, name, settings, state, last, changed, validation, read_evaluations(folder), provenance)


def read_scorer(folder: Path) -> RunInfo:
    """What the folder of an evaluation tells of a scorer that is no run, which has no settings here."""
    summary = folder / SUMMARY_FILE
    name = str(read_object(summary).get("run", folder.name))
    return RunInfo(folder, name, {}, "evaluated", None, summary.stat().st_mtime, {}, evaluations_in([folder]))


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
    # a scorer that is no run has none
    runs = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [
        key
        for key in keys
        if key.split(".")[0] not in PLACES and len({repr(run.settings.get(key)) for run in runs}) > 1
    ]


def metric_names(runs: list[RunInfo]) -> list[str]:
    """All metrics that some run has."""
    tables = (values for run in runs for values in (*run.evaluations.values(), run.validation))
    return list(dict.fromkeys(name for values in tables for name in values))


def usual_metric(runs: list[RunInfo]) -> str | None:
    """The metric to show where none is asked for: what the runs choose their best weights by, or of an evaluation."""
    asked = [str(run.settings.get("trainer.best_metric", "")) for run in runs]
    for name in dict.fromkeys(asked):
        if any(run.validation.get(name) for run in runs):
            return name
    evaluated = [name for run in runs for values in run.evaluations.values() for name in values]
    means = [name for name in evaluated if name.split("/")[-1].startswith("mean_")]
    return next(iter([*means, *evaluated]), None)


def _result_folders(folder: Path) -> Iterator[tuple[Path, str]]:
    """Folders of trainings, at any depth, and of evaluations outside of these, with their verbs."""
    for place, inner, files in os.walk(folder):
        verb = _verb(Path(place)) if {PROVENANCE_FILE, CONFIG_FILE} <= {*files} else None
        if verb in ("train", "evaluate"):
            # what lies in a run is not looked through
            inner.clear()
            yield from ((one, verb) for one in ([Path(place)] if verb == "train" else _scorer_folders(Path(place))))
        # links are not followed, and these hold no runs
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("wandb", "tasks"))


def _scorer_folders(evaluation: Path) -> Iterator[Path]:
    """An evaluation that is finished, or those in it where it is one of several scorers."""
    scorers = read_object(evaluation / SUMMARY_FILE).get("scorers")
    # whoever wrote it: a path would lead out of the folder
    names = [name for name in scorers if is_file_name(name)] if isinstance(scorers, dict) else [""]
    yield from (evaluation / name for name in names if (evaluation / name / SUMMARY_FILE).is_file())


def _verb(folder: Path) -> Any:
    return read_object(folder / PROVENANCE_FILE).get("verb")


def _state(folder: Path, last: int | None) -> str:
    if (folder / WEIGHTS).is_file() or (folder / SUMMARY).is_file():
        return "evaluated" if (folder / SUMMARY).is_file() else "finished"
    if is_held(folder):
        return "training"
    return "begun" if last is None and not (folder / LAST_CHECKPOINT).is_file() else "stopped"


def _provenance(path: Path) -> dict[str, Any]:
    flat = _flat(read_object(path), "")
    return {key: value for key, value in flat if key.split(".")[0] in ("git", "packages", "python")}


def _flat(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value and depth < 50:
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}" if place else str(key), depth + 1)
    elif not isinstance(value, dict):
        yield place, value
