"""Reading what `itm train` and `itm evaluate` leave in a run's folder, and checking that runs can be compared."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.config.names import name_faults
from experiments.config.values import is_encodable
from experiments.report.intervals import MEAN, is_right
from experiments.runs.outputs import METRICS_FILE
from lightning_modules import run_label
from negatives.tables import DAMAGED, InputError, quoted, read_parquet

SUMMARY_FILE = "summary.json"
"""In the folder of an evaluation: which run and weights it is of, and its sets."""
PAIR_KEY = ("image_id", "caption_id", "negative_id", "negative_type", "caption", "negative_caption")
LOGITS = ("positive_logit", "negative_logit", "blind_positive_logit", "blind_negative_logit")
TEXTS = (*PAIR_KEY, "image")
COLUMNS = (*TEXTS, *LOGITS, "positive_score", "negative_score")
TYPES = pa.schema([(name, pa.string() if name in TEXTS else pa.float64()) for name in COLUMNS])


@dataclass(frozen=True)
class EvaluatedSet:
    """One set as one run scored it.

    Attributes:
        image_root: where its images lie.
        pairs: its pairs, in the order of `PAIR_KEY`.
        training_pairs: negative type -> how many pairs are of images that the run was trained on, of all for "mean";
            None where that is not known.
    """

    image_root: Path
    pairs: pa.Table
    training_pairs: dict[str, int] | None = None

    @property
    def right(self) -> np.ndarray:
        """(pairs,) whether the run prefers the positive."""
        return is_right(self.pairs["positive_logit"], self.pairs["negative_logit"])

    @property
    def blind_right(self) -> np.ndarray:
        """(pairs,) whether the run prefers the positive on a noise image."""
        return is_right(self.pairs["blind_positive_logit"], self.pairs["blind_negative_logit"])


@dataclass(frozen=True)
class EvaluatedRun:
    """A run: its sets, and its training log as metric -> step -> value."""

    name: str
    folder: Path
    sets: dict[str, EvaluatedSet]
    curves: dict[str, dict[int, float]]


def read_runs(folders: Sequence[str | Path]) -> list[EvaluatedRun]:
    """The runs in the order given; runs of one name are called by their folders instead.

    Raises:
        InputError: If a folder is missing, listed twice, not evaluated or damaged, the runs have no set in common, or
            two runs scored different pairs under the same set's name.
    """
    if not folders:
        raise InputError("`runs` must name at least one evaluated run, got none. Give folders: itm compare RUN RUN.")
    # resolved: a run and a link to it are one run
    twice = [path for path, count in Counter(Path(folder).resolve() for folder in folders).items() if count > 1]
    if twice:
        raise InputError(f"A run can be compared once, {twice[0]} is listed more often. Take it out of `runs`.")
    runs = [read_run(Path(folder)) for folder in folders]
    names = Counter(run.name for run in runs)
    # two runs of one name would share a row of every table
    runs = [replace(run, name=str(run.folder)) if names[run.name] > 1 else run for run in runs]
    for position, run in enumerate(runs):
        for earlier in runs[:position]:
            _check_same_pairs(earlier, run)
    common_sets(runs)
    return runs


def read_run(folder: Path) -> EvaluatedRun:
    """One evaluated run.

    Raises:
        InputError: If the folder is not evaluated, or a file in it is damaged.
    """
    is_evaluation = (folder / SUMMARY_FILE).is_file()  # one beside a run's own, with another score
    path = folder / SUMMARY_FILE if is_evaluation else folder / "evaluation" / SUMMARY_FILE
    if not path.is_file():
        raise InputError(
            f"A run must be evaluated before it is compared, {folder} is not: run `itm evaluate {folder}`."
        )
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        # summaries of older versions do not name the weights: those were the last
        name = run_label(str(summary["run"]), summary.get("checkpoint", {}))
        if is_evaluation and name == summary["run"]:
            name = f"{name} ({folder.name})"
        roots = {str(key): Path(entry["image_root"]) for key, entry in summary["sets"].items()}
        # older versions say nothing of it
        trained = {str(key): _counts(entry.get("training_pairs")) for key, entry in summary["sets"].items()}
        if not all(map(is_encodable, (name, *map(str, roots.values())))):
            raise ValueError("a text that no file can hold")
    except DAMAGED as error:
        raise InputError(f"{path} must be what `itm evaluate` writes, and is not: evaluate the run again.") from error
    # a set's name becomes a folder: another one would be read in its place
    for fault in name_faults(roots, "sets"):
        raise InputError(f"{fault} ({path}). Evaluate the run again.")
    read = {
        key: EvaluatedSet(root, _read_pairs(path.parent / key / "pairs.parquet"), trained[key])
        for key, root in roots.items()
    }
    return EvaluatedRun(name, folder, read, read_curves(path.parent.parent / "logs"))


def common_sets(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The sets that every run was evaluated on, in the order of the first run.

    Raises:
        InputError: If there is none.
    """
    common = [name for name in runs[0].sets if all(name in run.sets for run in runs)]
    if not common:
        had = "; ".join(f"{run.name}: {', '.join(run.sets) or 'none'}" for run in runs)
        raise InputError(f"Compared runs need an evaluated set in common, got {had}. Evaluate them on the same sets.")
    return common


def read_curves(logs: Path) -> dict[str, dict[int, float]]:
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
    record = logs / METRICS_FILE
    for number, line in enumerate(_whole_lines(record) if record.is_file() else [], start=1):
        try:
            row = json.loads(line)
            _add_metrics(curves, row["step"], row["metrics"])
        except DAMAGED as error:
            raise InputError(f"{record}, line {number}, must be a step's metrics, and is not. Remove it.") from error
    return {metric: dict(sorted(points.items())) for metric, points in sorted(curves.items())}


def _counts(entry: Any) -> dict[str, int] | None:
    return None if entry is None else {str(name): int(count) for name, count in entry.items()}


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


def _read_pairs(path: Path) -> pa.Table:
    again = "Evaluate the run again."
    try:
        table = read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} must be a Parquet file, and cannot be read as one. {again}") from error
    # an older version may lack a column, and an empty cell is no number
    missing = [name for name in COLUMNS if name not in table.column_names or table[name].null_count]
    if missing:
        raise InputError(f"Evaluated pairs need column `{missing[0]}` in every row, {path} lacks it. {again}")
    if not len(table):
        raise InputError(f"Evaluated pairs need rows, got none ({path}). {again}")
    try:
        # one order in all runs, so that pairs are compared row by row
        table = table.select(COLUMNS).cast(TYPES).sort_by([(name, "ascending") for name in PAIR_KEY])
    except pa.ArrowException as error:
        raise InputError(
            f"Evaluated pairs need texts and numbers, got {quoted(error, 120)} ({path}). {again}"
        ) from error
    # `itm evaluate` writes none: comparisons with NaN are false, and it would count as a wrong answer
    if odd := [name for name in LOGITS if not np.isfinite(table[name].to_numpy()).all()]:
        raise InputError(f"Evaluated pairs need finite logits, `{odd[0]}` has others ({path}). {again}")
    repeated = [pair for pair, count in Counter(_pairs(table)).items() if count > 1]
    if repeated:
        raise InputError(f"A pair can be there once, got {quoted(repeated[0])} more often ({path}). {again}")
    if MEAN in table["negative_type"].to_pylist():
        raise InputError(f"A negative type cannot be called {MEAN!r}, the mean over the types is ({path}). Rename it.")
    return table


def _pairs(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in PAIR_KEY), strict=True))


def _check_same_pairs(a: EvaluatedRun, b: EvaluatedRun) -> None:
    for name in [name for name in a.sets if name in b.sets]:
        one, other = a.sets[name].pairs, b.sets[name].pairs
        # captions are in the key too: the same ids with other texts are other pairs
        if one.select(PAIR_KEY).equals(other.select(PAIR_KEY)):
            continue
        differ = len(set(_pairs(one)) ^ set(_pairs(other)))
        raise InputError(
            f"Paired differences need the same pairs in both runs, set {name!r} has {len(one)} in {a.folder} and "
            f"{len(other)} in {b.folder}, {differ} of them in one only. Evaluate both on the same tables."
        )
