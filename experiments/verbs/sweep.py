"""`itm sweep`: many experiments from one file, each in a process of its own, by any number of workers.

The steps under `prepare` run first; then every run is trained and evaluated; then the evaluated runs are compared. A
run that fails does not stop the others. What is finished is never run again: tasks are known by what they compute, so
that a sweep may grow, shrink, and change its names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.config.layers import ConfigError, find_base, find_yaml, nested, read_yaml
from experiments.config.load import load_config
from experiments.config.sweep_schemas import SweepConfig
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.sweeping.manifest import COMPARE, FAILED, FINISHED, Manifest
from experiments.sweeping.plan import MANIFEST_FILE, REPORT, Task, merged, plan
from experiments.verb_table import TASKS
from negatives.tables import InputError

NAMED = 12
"""Tasks in a sentence; of others their number."""


def load(path: str | Path | None, overrides: Sequence[str], *, check: bool = True) -> SweepConfig:
    """The sweep's configuration; a `base` in it (of `experiment`, a run or a step's training) is relative to the sweep.

    Args:
        path: of the sweep.
        overrides: `key=value` words.
        check: check every run, for which the libraries of its backbone are imported.

    Raises:
        ConfigError: all faults of the sweep and of every run that it describes, in one error.
    """
    config = load_config(SweepConfig, path, overrides)
    file = Path() if path is None else find_yaml(path)

    def read_base(base: Any, key: str) -> dict[str, Any]:
        return {} if base is None else read_yaml(find_base(base, file, key))

    for name, step in config.prepare.items():
        if TASKS[step.verb].trains and "base" in step.config:
            own = read_base(step.config.pop("base"), f"prepare.{name}.config.base")
            step.config = merged(own, step.config)
    # bases are read now, so that the saved configuration says all and does not change with those files
    shared_base = config.experiment.pop("base", None)
    shared = read_base(shared_base, "experiment.base")
    for name, changes in config.runs.items():
        own = read_base(changes.pop("base"), f"runs.{name}.base") if "base" in changes else shared
        config.runs[name] = merged(own, config.experiment, nested(changes))
    if not config.runs:
        config.experiment = merged(shared, config.experiment)
    if check:
        plan(config)
    return config


def run(config: SweepConfig, *, resume: bool = False, overwrite: bool = False, index: int | None = None) -> None:
    """Runs what is not finished yet, together with any other process that works on the sweep.

    Args:
        config: of the sweep.
        resume: go on in a folder that exists, or join those that work in it.
        overwrite: begin anew.
        index: of the one run to do, as a job array counts them; with the steps that it needs.

    Raises:
        InputError: the folder exists, or holds another sweep; or a step or a run failed.
        PreemptedError: a scheduler asked for an end by SIGTERM or SIGUSR1.
    """
    from experiments.runs.tracking import check_logging
    from experiments.sweeping.children import deal, visible_gpus
    from experiments.sweeping.folders import check_undamaged, settle
    from experiments.sweeping.standing import KEEP, orphans
    from experiments.sweeping.work import Worker
    from lightning_modules import Preemption

    folder = Path(config.output_dir)
    tasks = plan(config)
    # of a run alone, too: a key that is missing would be found after hours
    online = [task.settings.logging for task in tasks if getattr(task.settings, "logging", None) is not None]
    for one in [one for one in online if one.wandb == "online"][:1]:
        check_logging(one)
    own = _tasks_of(index, tasks)
    manifest = Manifest(folder)
    # one at a time settles what there is; the others then find it so
    with manifest.locked():
        output = OutputFolder(config, verb="sweep", result=MANIFEST_FILE, resume=resume, overwrite=overwrite)
        alone = not manifest.is_worked_on()
        if alone:
            output.claim()
        manifest.join()
        standings = settle(manifest, tasks, alone=alone, again=own or ())
        left = orphans(tasks, standings, manifest.read())
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        say(f"No longer asked for, and left as it is: {left[0].folder}{more}; see --plan.")
    for one in standings:
        if one.task.prepares and one.action == KEEP:
            check_undamaged(one.task, folder)
    gpus = visible_gpus() if config.workers > 1 else []
    slots = deal(config.workers, gpus, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with Preemption() as preemption:
        Worker(config, tasks, manifest, slots, own).run(preemption)
    _say_end(config, manifest, [task for task in tasks if own is None or task.name in own])


def status(config: SweepConfig) -> None:
    """Prints what is finished, running, failed and pending, as the last start asked for it; checks no run."""
    from experiments.sweeping.points import points
    from experiments.sweeping.tables import print_status

    manifest = Manifest(Path(config.output_dir))
    names = [f"prepare/{name}" for name in config.prepare]
    names += [f"{verb}/{point.name}" for point in points(config) for verb in ("train", "evaluate")]
    print_status(names, manifest, f"{config.name}: {config.output_dir}")


def show_plan(config: SweepConfig) -> None:
    """Prints what would run, what is kept, and what is there that nobody asks for; nothing is changed."""
    from experiments.sweeping.standing import orphans, stand
    from experiments.sweeping.tables import print_plan
    from experiments.sweeping.work import compares

    manifest, tasks = Manifest(Path(config.output_dir)), plan(config)
    records = manifest.read()
    standings = stand(tasks, records, manifest.folder)
    print_plan(
        standings,
        orphans(tasks, standings, records),
        f"{config.name}: {config.output_dir}",
        compares=compares(config, standings, records),
    )


def export_to_wandb(config: SweepConfig) -> None:
    """Writes a sweep of W&B that trains the same runs, and says how it is started.

    Raises:
        ConfigError: the sweep has what W&B's grid cannot say.
    """
    from experiments.sweeping.wandb_export import write_wandb_files

    file = write_wandb_files(config)
    say(f"{file}: start it by `wandb sweep {file}`, and agents by the `wandb agent` that this prints.")


def prune(config: SweepConfig, names: Sequence[str]) -> None:
    """Removes orphans that are named, with their folders.

    Raises:
        InputError: a name is that of no orphan, or is in use.
    """
    from experiments.sweeping.folders import prune as remove

    remove(Manifest(Path(config.output_dir)), plan(config), names)


def _tasks_of(index: int | None, tasks: Sequence[Task]) -> frozenset[str] | None:
    """The tasks of one run and the steps before it; None for all.

    Raises:
        ConfigError: there is no such run.
    """
    if index is None:
        return None
    runs = list(dict.fromkeys(task.run for task in tasks if task.run))
    if not 0 <= index < len(runs):
        raise ConfigError(f"`--index` must be in 0 ... {len(runs) - 1}, one for each run of `--plan`, got {index}")
    return frozenset(task.name for task in tasks if task.prepares or task.run == runs[index])


def _say_end(config: SweepConfig, manifest: Manifest, tasks: Sequence[Task]) -> None:
    records = manifest.read()
    unfinished = [task.name for task in tasks if records[task.key].state != FINISHED]
    compared = records.get(COMPARE)
    if compared is not None and compared.state == FAILED:
        unfinished.append(COMPARE)
    elif compared is not None and compared.state == FINISHED:
        say(f"Report: {manifest.folder / REPORT / 'index.html'}")
    if unfinished:
        more = f" and {len(unfinished) - NAMED} more" if len(unfinished) > NAMED else ""
        raise InputError(
            f"{len(unfinished)} of {len(tasks) + any(task.run for task in tasks)} tasks did not finish: "
            f"{', '.join(unfinished[:NAMED])}{more}. See above; go on with --resume."
        )
