"""`itm best`: the folder of the best run, for scripts: `itm export $(itm best runs/sweep)`."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.finding.run_info import WEIGHTS, find_runs
from experiments.finding.settings import BestConfig
from experiments.runs.progress import shown
from experiments.verbs.runs import chosen_metric
from negatives.tables import InputError


def run(config: BestConfig) -> None:
    """Prints one path on stdout, and on stderr how good the run is and which others are as good.

    Raises:
        InputError: there is no finished run, or none has the metric.
    """
    runs = [one for one in find_runs(config.folders) if (one.folder / WEIGHTS).is_file()]
    where = ", ".join(config.folders)
    if not runs:
        raise InputError(f"{where} holds no finished run; see `itm runs {where}`.")
    metric = chosen_metric(runs, config.metric)
    lowest = config.mode == "min"
    values = {one.folder: one.metric(metric, lowest=lowest) for one in runs} if metric is not None else {}
    known = {folder: found for folder, found in values.items() if found is not None}
    if metric is None or not known:
        raise InputError(f"no run in {where} has a metric; evaluate them, or validate in training.")
    best = (min if lowest else max)(found.value for found in known.values())
    first, *others = [folder for folder, found in known.items() if found.value == best]
    _tell(f"{metric} {best:.4f}, {config.mode} of {len(known)} runs")
    if others:
        _tell(f"as good: {', '.join(map(str, others))}")
    if len(known) < len(runs):
        _tell(f"{len(runs) - len(known)} runs without it are left out")
    kept = known[first].step is not None and _has_best(first)
    if kept:
        _tell(f"its best validation's weights: {first}@best")
    print(first / WEIGHTS if config.weights else first)


def _has_best(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.safetensors"))


def _tell(line: str) -> None:
    print(f"itm best: {shown(line)}", file=sys.stderr)
