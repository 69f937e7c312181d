"""The numbers of a comparison as rows: accuracies beside blind controls, paired differences, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report.intervals import MEAN, Interval, differences, type_intervals
from experiments.report.read_runs import EvaluatedRun, EvaluatedSet, common_sets
from experiments.runs.progress import track
from negatives import NEGATIVE_TYPES
from negatives.tables import InputError, nearest_name

Row = dict[str, Any]

COMPARISON_COLUMNS = (
    *("run", "set", "negative_type", "accuracy", "low", "high"),
    *("blind_accuracy", "blind_low", "blind_high", "pairs", "images", "training_pairs"),
)
DIFFERENCE_COLUMNS = ("run", "reference", "set", "negative_type", "difference", "low", "high")
CURVE_COLUMNS = ("run", "step", "metric", "value")


def find_reference(runs: Sequence[EvaluatedRun], name: str | None) -> EvaluatedRun:
    """The run that the others are compared with: the one called `name`, the first where `name` is None.

    Raises:
        InputError: If no run has this name.
    """
    found = [run for run in runs if run.name == name] if name is not None else list(runs[:1])
    if not found:
        names = [run.name for run in runs]
        rule = f"`reference` must be the name of a compared run ({', '.join(names)})"
        raise InputError(f"{rule}, got {name!r}.{nearest_name(str(name), names) or ' Change it.'}")
    return found[0]


def comparison_rows(runs: Sequence[EvaluatedRun], *, resamples: int, seed: int) -> list[Row]:
    """Accuracy and blind accuracy of every run, set and negative type, in the columns of `COMPARISON_COLUMNS`.

    `training_pairs` is None where it is not known what the run was trained on.
    """
    # a run without a set is left out of it, not shown as zero
    every = [(name, run) for name in set_names(runs) for run in runs if name in run.sets]
    rows: list[Row] = []
    for name, run in track(every, "Intervals"):
        seen, blind = (
            _intervals(run.sets[name], right, resamples, seed)
            for right in (run.sets[name].right, run.sets[name].blind_right)
        )
        for negative_type in types_in_order(list(seen)):
            trained = run.sets[name].training_pairs
            # a type that the count does not name has none
            known = None if trained is None else trained.get(negative_type, 0)
            numbers = (*seen[negative_type], *blind[negative_type], *_sizes(run.sets[name], negative_type), known)
            rows.append(dict(zip(COMPARISON_COLUMNS, (run.name, name, negative_type, *numbers), strict=True)))
    return rows


def overlap_lines(rows: Sequence[Row], name: str) -> list[str]:
    """A sentence for each run of a set that was trained on some of its images, or of which that is not known.

    Args:
        rows: of `comparison_rows`.
        name: of the set.
    """
    whole = [row for row in rows if row["set"] == name and row["negative_type"] == MEAN]
    lines = [
        f"{row['run']} was trained on the images of {row['training_pairs']} of {row['pairs']} pairs."
        for row in whole
        if row["training_pairs"]
    ]
    unknown = [row["run"] for row in whole if row["training_pairs"] is None]
    return [*lines, *[f"It is not known whether {run} was trained on images of this set." for run in unknown]]


def difference_rows(runs: Sequence[EvaluatedRun], reference: EvaluatedRun, *, resamples: int, seed: int) -> list[Row]:
    """Accuracy minus that of the reference on the same pairs, in the columns of `DIFFERENCE_COLUMNS`."""
    others = [run for run in runs if run is not reference]
    every = [(name, run) for name in reference.sets for run in others if name in run.sets]
    rows: list[Row] = []
    for name, run in track(every, "Differences"):
        # paired: an image that is hard for both runs is hard in every resample, and cancels
        values = differences(run.sets[name].right, reference.sets[name].right)
        found = _intervals(run.sets[name], values, resamples, seed)
        for negative_type in types_in_order(list(found)):
            row = (run.name, reference.name, name, negative_type, *found[negative_type])
            rows.append(dict(zip(DIFFERENCE_COLUMNS, row, strict=True)))
    return rows


def curve_rows(runs: Sequence[EvaluatedRun]) -> list[Row]:
    """Every logged value, in the columns of `CURVE_COLUMNS`."""
    return [
        dict(zip(CURVE_COLUMNS, (run.name, step, metric, value), strict=True))
        for run in runs
        for metric, points in run.curves.items()
        for step, value in points.items()
    ]


def set_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The sets of all runs: those that every run has first, in the order of the first run."""
    # sets of single runs are shown too, after those that allow a comparison
    return list(dict.fromkeys([*common_sets(runs), *(name for run in runs for name in run.sets)]))


def types_in_order(names: Sequence[str]) -> list[str]:
    """All of these types: SugarCrepe's in their usual order, others alphabetically after them, "mean" last.

    >>> types_in_order(["mean", "swap_att", "zebra", "replace_obj"])
    ['replace_obj', 'swap_att', 'zebra', 'mean']
    """
    # Which types there are, only the data says: the known ones are a sort key, never a filter.
    usual = list(NEGATIVE_TYPES)

    def place(name: str) -> tuple[bool, int, str]:
        return name == MEAN, usual.index(name) if name in usual else len(usual), name

    return sorted(set(names), key=place)


def _intervals(scored: EvaluatedSet, values: np.ndarray, resamples: int, seed: int) -> dict[str, Interval]:
    images, types = scored.pairs["image_id"].to_pylist(), scored.pairs["negative_type"].to_pylist()
    return type_intervals(values, images, types, resamples=resamples, seed=seed)


def _sizes(scored: EvaluatedSet, negative_type: str) -> tuple[int, int]:
    """Pairs and images of a negative type; of all for "mean"."""
    types, images = np.array(scored.pairs["negative_type"].to_pylist()), np.array(scored.pairs["image_id"].to_pylist())
    # "mean" is over types, and has the pairs and images of all
    own = images if negative_type == MEAN else images[types == negative_type]
    return len(own), len(np.unique(own))
