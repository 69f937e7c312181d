"""Reading what `itm train` and `itm evaluate` leave in folders, and checking that scorers can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config.names import name_faults
from experiments.config.values import is_encodable
from experiments.report.comparison.reading.curves import read_curves
from experiments.report.comparison.reading.evaluated import SUMMARY_FILE, EvaluatedRun
from experiments.report.comparison.reading.same_items import aligned
from experiments.report.comparison.reading.set_files import read_set
from experiments.runs.outputs import PROVENANCE_FILE
from experiments.runs.progress import shown
from lightning_modules import run_label
from negatives.tables import DAMAGED, InputError


def read_runs(folders: Sequence[str | Path]) -> list[EvaluatedRun]:
    """The scorers in the order given; those of one name are called by their folders instead, as short as these allow.

    A folder may be a run, an evaluation, or an evaluation of several scorers.

    Raises:
        InputError: a folder is missing, listed twice, not evaluated or damaged, the scorers have no set in common, or
            two of them answered different items under the same set's name.
    """
    if not folders:
        raise InputError("`runs` must name at least one evaluated run, got none. Give folders: itm compare RUN RUN.")
    every = [one for folder in folders for one in _scorers(Path(folder))]
    # resolved: a run and a link to it are one run
    twice = [path for path, count in Counter(folder.resolve() for folder in every).items() if count > 1]
    if twice:
        raise InputError(f"A run can be compared once, {twice[0]} is listed more often. Take it out of `runs`.")
    runs = [read_run(folder) for folder in every]
    # of an evaluation of several scorers: there each has a name of its own
    within = {*every} - {Path(folder) for folder in folders}
    # two runs of one name would share a row of every table
    runs = _told_apart(_told_apart(runs, lambda folder: folder.name if folder in within else str(folder)), str)
    common_sets(runs)
    return _with_the_same_items(runs)


def _told_apart(runs: Sequence[EvaluatedRun], name_of: Callable[[Path], str]) -> list[EvaluatedRun]:
    names = Counter(run.name for run in runs)
    return [replace(run, name=name_of(run.folder)) if names[run.name] > 1 else run for run in runs]


def _scorers(folder: Path) -> Iterator[Path]:
    """The folder, or those in it where it is an evaluation of several scorers."""
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        names = [str(name) for name in summary.get("scorers", {})]
    except (*DAMAGED, AttributeError):
        names = []  # whoever reads it says what is wrong
    if not names:
        yield folder
    for fault in name_faults(names, "scorers"):
        raise InputError(f"{fault} ({path}). Evaluate them again.")
    for name in names:
        if not (folder / name / SUMMARY_FILE).is_file():
            raise InputError(f"{path} names {name}, and {folder / name} holds no evaluation; copy the whole folder.")
        yield folder / name


def read_run(folder: Path) -> EvaluatedRun:
    """One evaluated scorer.

    Raises:
        InputError: If the folder is not evaluated, or a file in it is damaged.
    """
    is_evaluation = (folder / SUMMARY_FILE).is_file()  # one beside a run's own, with another score
    path = folder / SUMMARY_FILE if is_evaluation else folder / "evaluation" / SUMMARY_FILE
    if not path.is_file():
        raise InputError(_not_evaluated(folder))
    sets: dict[str, Any] = {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        # summaries of older versions do not name the weights: those were the last
        label = run_label(str(summary["run"]), summary.get("checkpoint", {}))
        # names are drawn in plots and written into tables, too
        name = shown(label)
        if is_evaluation and label == summary["run"] and (folder.parent / "logs").is_dir():
            name = f"{name} ({folder.name})"
        entries = {str(key): dict(entry) for key, entry in summary["sets"].items()}
        if not all(map(is_encodable, (name, *(str(entry["image_root"]) for entry in entries.values())))):
            raise ValueError("a text that no file can hold")
        # a set's name becomes a folder: another one would be read in its place
        for fault in name_faults(entries, "sets"):
            raise InputError(f"{fault} ({path}). Evaluate the run again.")
        for key, entry in entries.items():
            sets[key] = read_set(path.parent / key, entry)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} must be what `itm evaluate` writes, and is not: evaluate the run again.") from error
    return EvaluatedRun(name, folder, sets, read_curves(path.parent.parent / "logs"))


def _not_evaluated(folder: Path) -> str:
    """What to do with a folder that holds no finished evaluation."""
    # its own, one in a run's folder, or that of several scorers
    for place in (folder, folder / "evaluation", folder.parent):
        if _verb(place) == "evaluate" and not (place / SUMMARY_FILE).is_file():
            return f"{place} is an unfinished evaluation: run its `itm evaluate` again, with --resume."
    if _verb(folder) == "train" or (folder / "logs").is_dir():
        return f"A run must be evaluated before it is compared, {folder} is not: run `itm evaluate {folder}`."
    return f"{folder} holds no evaluation: give an evaluated run, or a folder that `itm evaluate` wrote."


def _verb(folder: Path) -> str | None:
    """The verb that wrote a folder; None where it does not say so."""
    try:
        return str(json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["verb"])
    except DAMAGED:
        return None


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


def set_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The sets of all runs: those that every run has first, in the order of the first run."""
    # sets of single runs are shown too, after those that allow a comparison
    return list(dict.fromkeys([*common_sets(runs), *(name for run in runs for name in run.sets)]))


def _with_the_same_items(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """The runs with their items in one order: that of the first run that has a set."""
    first: dict[str, EvaluatedRun] = {}
    found = []
    for run in runs:
        sets = {}
        for name, one in run.sets.items():
            earlier = first.setdefault(name, run)
            sets[name] = one if earlier is run else aligned(one, earlier.sets[name], name, run.folder, earlier.folder)
        found.append(replace(run, sets=sets))
    return found
