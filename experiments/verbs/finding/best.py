"""`itm best`: the best run's weights as one word, for scripts: `itm export "$(itm best runs/sweep)"`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.finding.metrics import Measured, lower_is_better
from experiments.finding.run_info import WEIGHTS, RunInfo, best_of, find_runs
from experiments.finding.settings import BestConfig
from experiments.runs.progress import shown
from experiments.verbs.finding.runs import chosen_metric
from lightning_modules import LAST, weights_file
from negatives.tables import InputError, quoted

CHECKPOINTS = "checkpoints"


def run(config: BestConfig) -> None:
    """Prints one word on stdout, and on stderr how good the weights are and what else there is to know.

    Raises:
        InputError: there is no finished run, none has the metric, or nobody says which of its values are best.
    """
    every = find_runs(config.folders)
    runs = [one for one in every if one.finished]
    where = ", ".join(config.folders)
    if not runs:
        raise InputError(f"{where} holds no finished run; see `itm runs {where}`.")
    metric = chosen_metric(runs, config.metric)
    if metric is None:
        raise InputError(f"no run in {where} has a metric; evaluate them, or validate in training.")
    lowest = _lowest(metric, config.mode)
    reached = [(one, found) for one in runs if (found := one.loadable(metric, lowest=lowest)) is not None]
    best = best_of([found for _, found in reached], lowest=lowest)
    if best is None:
        raise InputError(f"no weights in {where} are known to have {metric}: train with trainer.keep_best=1.")
    equal = [one for one, found in reached if found.value == best.value]
    _tell(f"{metric} {best.value:.4f}, {'min' if lowest else 'max'} of {len(reached)} run{'s' * (len(reached) > 1)}")
    if len(equal) > 1:
        _tell(f"as good: {', '.join(str(one.folder) for one in equal[1:])}")
    if left := len(runs) - len(reached):
        _tell(f"{left} run{'s' * (left > 1)} without it {'are' if left > 1 else 'is'} left out")
    _tell_of_better(every, metric, best, lowest=lowest)
    word = _weights_path(equal[0], best) if config.weights else _word(equal[0], best)
    # lr=0.1 alone would be taken for a setting
    word = word if "/" in word else f"./{word}"
    # a shell would take another word from the line
    if shown(word) != word or "\n" in word:
        raise InputError(f"{quoted(word, 200)} is the best, and its name fits in no line; rename its folder.")
    print(word)


def _lowest(metric: str, mode: str | None) -> bool:
    """Whether the lowest value is best.

    Raises:
        InputError: nobody says.
    """
    known = lower_is_better(metric) if mode is None else mode == "min"
    if known is None:
        raise InputError(f"`mode` must be given, max or min: {quoted(metric)} does not tell which values are best.")
    return known


def _word(run: RunInfo, best: Measured) -> str:
    """RUN, RUN@best or RUN@STEP, as `itm evaluate` and `itm export` take it."""
    return str(run.folder) if best.weights == LAST else f"{run.folder}@{best.weights}"


def _weights_path(run: RunInfo, best: Measured) -> str:
    """The file with these weights."""
    if best.weights == LAST:
        return str(run.folder / WEIGHTS)
    step = next(step for weights, step in run.kept() if best.weights in (weights, str(step)))
    return str(run.folder / CHECKPOINTS / weights_file(step))


def _tell_of_better(runs: Sequence[RunInfo], metric: str, best: Measured, *, lowest: bool) -> None:
    """Says where a value was better, and its weights are gone."""
    seen = [(one, found) for one in runs if (found := one.metric(metric, lowest=lowest)) is not None]
    top = best_of([found for _, found in seen], lowest=lowest)
    if top is not None and top.step is not None and top.value != best.value:
        first = next(one for one, found in seen if found == top)
        _tell(f"{first.folder} had {top.value:.4f} at step {top.step + 1}; trainer.keep_best=1 would have kept it")
    gone = [(one.folder, found) for one, found in seen if not one.finished and found.step is None]
    better = best_of([best, *(found for _, found in gone)], lowest=lowest)
    for folder, found in gone:
        if found is better:
            _tell(f"{folder} has {found.value:.4f}, and its weights are gone")


def _tell(line: str) -> None:
    print(f"itm best: {shown(line)}", file=sys.stderr)
