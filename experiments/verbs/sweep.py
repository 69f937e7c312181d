"""`itm sweep`: many experiments from one file, each in a process of its own, resumable.

The steps under `prepare` run first, in order; then every run is trained and evaluated; then the evaluated runs are
compared. A run that fails does not stop the others. What is finished is never run again.
"""

from __future__ import annotations

import copy
import ctypes
import importlib
import itertools
import math
import multiprocessing
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.config.layers import ConfigError, find_base, find_yaml, nested, read_yaml
from experiments.config.load import load_config, load_mapping, to_yaml
from experiments.config.names import name_faults
from experiments.config.sweep_schemas import SweepConfig
from experiments.exit_codes import INTERRUPTED, MISSED, PREEMPTED, PreemptedError, exit_code
from experiments.runs.manifest import FINISHED, PENDING, RUNNING, Manifest, Task, read_states
from experiments.runs.outputs import CONFIG_FILE, PROVENANCE_FILE, OutputFolder
from experiments.runs.progress import say
from experiments.verb_table import TASKS, run_verb
from lightning_modules import SIGNALS, Preemption
from negatives.tables import InputError, is_held, write_text

MANIFEST_FILE = "manifest.json"
SWEEP_FILES = (MANIFEST_FILE, CONFIG_FILE, PROVENANCE_FILE, "tasks", "runs", "report")
"""What stands in a sweep's folder beside the folders of its steps."""
MOST_RUNS = 1000
"""Each run is two tasks, and every task is checked before the first one starts."""
# from <linux/prctl.h>
PR_SET_PDEATHSIG = 1
SECONDS_TO_NOTICE = 1
SECONDS_TO_CLOSE = 10  # for a run that Ctrl-C reaches too, to close its logs
# A forked child shares the parent's imports. The parent computes nothing, so no thread or CUDA context is forked.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


def load(path: str | Path | None, overrides: Sequence[str]) -> SweepConfig:
    """The sweep's configuration; a `base` in it (of `experiment`, a run or a step's training) is relative to the sweep.

    Raises:
        ConfigError: all faults of the sweep and of every run that it describes, in one error.
    """
    config = load_config(SweepConfig, path, overrides)
    check_size(config)
    file = Path() if path is None else find_yaml(path)

    def read_base(base: Any, key: str) -> dict[str, Any]:
        return {} if base is None else read_yaml(find_base(base, file, key))

    for name, step in config.prepare.items():
        if TASKS[step.verb].trains and "base" in step.config:
            own = read_base(step.config.pop("base"), f"prepare.{name}.config.base")
            step.config = _merged(own, step.config)
    # bases are read now, so that the saved configuration says all and does not change with those files
    shared_base = config.experiment.pop("base", None)
    shared = read_base(shared_base, "experiment.base")
    for name, changes in config.runs.items():
        own = read_base(changes.pop("base"), f"runs.{name}.base") if "base" in changes else shared
        config.runs[name] = _merged(own, config.experiment, nested(changes))
    if not config.runs:
        config.experiment = _merged(shared, config.experiment)
    plan(config)
    return config


def run(config: SweepConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Runs what is not finished yet.

    Raises:
        InputError: the folder exists, is in use or holds another sweep; or a step or a run failed.
        PreemptedError: a scheduler asked for an end by SIGTERM or SIGUSR1.
    """
    folder = Path(config.output_dir)
    tasks = plan(config)
    # it holds the folder until this function ends
    output = OutputFolder(config, verb="sweep", result=MANIFEST_FILE, resume=resume, overwrite=overwrite)
    output.claim()
    manifest = Manifest(folder / MANIFEST_FILE, tasks)
    manifest.save()
    if any(task.state != FINISHED for task in tasks):
        _import_libraries()
    with Preemption() as preemption:
        for number, task in enumerate(tasks, start=1):
            if task.state == FINISHED or _blocked(task, tasks):
                continue
            say(f"[{number}/{len(tasks)}] {task.name}")
            _run_task(task, manifest, folder, preemption)
    failed = [task.name for task in tasks if task.state != FINISHED]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(tasks)} tasks did not finish: {', '.join(failed)}. See above; go on with --resume."
        )
    if any(task.verb == "compare" for task in tasks):
        say(f"Report: {folder / 'report' / 'index.html'}")


def status(config: SweepConfig) -> None:
    """Prints what is finished, running, failed and pending."""
    from rich.console import Console
    from rich.table import Table

    states = read_states(Path(config.output_dir) / MANIFEST_FILE)
    running = is_held(Path(config.output_dir))
    table = Table(title=f"{config.name}: {config.output_dir}")
    for heading in ("task", "state", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for task in plan(config):
        record = states.get(task.name, {})
        state = str(record.get("state", PENDING))
        table.add_row(task.name, state if running or state != RUNNING else "killed", str(record.get("seconds") or ""))
    Console().print(table)


def plan(config: SweepConfig) -> list[Task]:
    """All tasks of a sweep, in order.

    Raises:
        ConfigError: all faults of all tasks, in one error.
    """
    check_size(config)
    folder = Path(config.output_dir)
    tasks: list[Task] = []
    faults: list[str] = _name_faults(config)

    def add(name: str, verb: str, mapping: Mapping[str, Any], needs: str | None = None) -> None:
        try:
            resolved: Any = load_mapping(TASKS[verb].load_schema(), mapping, name, made_in=folder)
            tasks.append(Task(name, verb, to_yaml(resolved), needs))
        except ConfigError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)

    for name, step in config.prepare.items():
        # later tasks find the results of a step by this folder
        fixed: dict[str, Any] = {"output_dir": str(folder / name)}
        own, verb = step.config, TASKS[step.verb]
        if not verb.trains and "output_dir" in own:
            faults.append(f"`prepare.{name}.config.output_dir` is the sweep's, {fixed['output_dir']}: leave it out")
        if verb.trains:
            own = _experiment(config, name, own, fixed)
        elif verb.logs_to_sweep:
            fixed["logging"] = {**_plain(config.logging), "group": config.name}
        add(f"prepare/{name}", step.verb, {**fixed, **own})
    runs = list(run_settings(config))
    for name, settings in runs:
        add(f"train/{name}", "train", settings)
        evaluation = {"run": settings["output_dir"], "seed": config.seed, "logging": settings["logging"]}
        evaluation["evaluation"] = settings.get("evaluation", {})
        # evaluated where it was trained
        evaluation["accelerator"] = settings.get("trainer", {}).get("accelerator", "auto")
        add(f"evaluate/{name}", "evaluate", evaluation, needs=f"train/{name}")
    if runs:
        filled = {"runs": [settings["output_dir"] for _, settings in runs], "output_dir": str(folder / "report")}
        logging = {"logging": {**_plain(config.logging), "group": config.name}}
        add("compare", "compare", {**logging, **config.compare, **filled})
    if faults:
        raise ConfigError(*faults)
    return tasks


def _name_faults(config: SweepConfig) -> list[str]:
    """Names that could not be folders, or are the sweep's own, and runs that would share one."""
    faults = [*name_faults(config.prepare, "prepare", SWEEP_FILES), *name_faults(config.runs, "runs")]
    counts = Counter(name for name, _ in run_settings(config))
    twice = sorted(name for name, count in counts.items() if count > 1)
    return faults + [f"run names must differ, got {name!r} twice; check `runs` and `grid`" for name in twice]


def check_size(config: SweepConfig) -> None:
    """Refuses a sweep that is too long to be planned, before its runs are told apart.

    Raises:
        ConfigError: more than `MOST_RUNS`.
    """
    points = math.prod(len(values) for values in config.grid.values())
    if (count := points * max(1, len(config.runs))) > MOST_RUNS:
        raise ConfigError(
            f"a sweep must have at most {MOST_RUNS} runs, got {count:,}: {points:,} points of `grid` for each of "
            f"{max(1, len(config.runs))} `runs`; shorten a list of `grid`, or make several sweeps"
        )


def run_settings(config: SweepConfig) -> list[tuple[str, dict[str, Any]]]:
    """Every listed run combined with every point of the grid: (name, the experiment's settings)."""
    # product() of nothing is one empty point: without a grid every listed run is there once
    points = [dict(zip(config.grid, values, strict=True)) for values in itertools.product(*config.grid.values())]
    result = []
    for run_name, changes in (config.runs or {"": {}}).items():
        for point in points:
            # a sweep may be preparation alone
            if not config.runs and not config.grid and not config.experiment:
                continue
            # the last part of a key is enough for people; that names differ is checked
            parts = [run_name, *(f"{key.split('.')[-1]}={value}" for key, value in point.items())]
            name = re.sub(r"[^\w.=+-]", "_", "-".join(part for part in parts if part)) or config.name
            settings = _merged(config.experiment, nested(changes), nested(point))
            fixed = {"output_dir": str(Path(config.output_dir) / "runs" / name)}
            result.append((name, _experiment(config, name, settings, fixed)))
    return result


def _experiment(
    config: SweepConfig, name: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of one of a sweep's trainings, with the sweep's name for it, its folder, seed and logging."""
    logging = {**_plain(config.logging), "group": config.name, **settings.get("logging", {})}
    # name, folder and logging are the sweep's and come last; a seed may be the run's own, as in a grid over seeds
    return {"seed": config.seed, **settings, "name": name, **fixed, "logging": logging}


def _merged(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = _merged(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _plain(config: Any) -> dict[str, Any]:
    return dict(OmegaConf.to_container(OmegaConf.structured(config)))  # type: ignore[arg-type]


def _blocked(task: Task, tasks: list[Task]) -> bool:
    """Whether a task has to be left out because of what did not finish."""
    # failed, left out or still to come: as things stand when it is this task's turn
    unfinished = [other.name for other in tasks if other.state != FINISHED]
    # a comparison of some runs would look like that of all
    if task.verb == "compare":
        return any(name.startswith(("prepare/", "evaluate/")) for name in unfinished)
    if task.name.startswith("prepare/"):
        before = [other.name for other in tasks[: tasks.index(task)]]
        return any(name in before for name in unfinished)
    return task.needs in unfinished or any(name.startswith("prepare/") for name in unfinished)


def _run_task(task: Task, manifest: Manifest, folder: Path, preemption: Preemption) -> None:
    config_file = task.file_in(folder)
    # a file, since ranks that Lightning starts read the configuration by the command line
    write_text(task.config, config_file)
    child = multiprocessing.get_context(START_METHOD).Process(  # type: ignore[attr-defined]
        target=_work, args=(task.verb, config_file)
    )
    try:
        with manifest.running(task):
            _start(child)
            _wait(child, preemption)
            if child.exitcode == PREEMPTED or (preemption.asked and child.exitcode != 0):
                raise PreemptedError(f"{task.name} has stopped. The same command goes on with --resume=auto.")
            # Ctrl-C reaches the child too, which may be the first to see it
            if child.exitcode in (INTERRUPTED, -signal.SIGINT):
                raise KeyboardInterrupt
            if child.exitcode != 0 and not _missed(task, child.exitcode, folder):
                raise ChildProcessError(f"{task.name} failed with exit code {child.exitcode}")
    except ChildProcessError as error:
        say(str(error))
    finally:
        if child.pid is not None:
            child.join(SECONDS_TO_CLOSE)
            # nothing to a child that has ended; after Ctrl-C, the end of one that did not stop by itself
            child.terminate()


def _wait(child: Any, preemption: Preemption) -> None:
    """Waits for a child's end, and hands on what a scheduler may have sent to the sweep alone."""
    while child.exitcode is None:
        child.join(SECONDS_TO_NOTICE)
        if preemption.asked and child.exitcode is None:
            # a training saves its step; what else there is goes on from its last unit
            child.terminate()
            child.join()


def _missed(task: Task, exitcode: int | None, folder: Path) -> bool:
    """Whether a verb did its work, as a filter does whose certificate misses: said above, and no reason to stop."""
    left = TASKS[task.verb].miss_leaves
    return exitcode == MISSED and left is not None and (folder / task.name.split("/")[-1] / left).exists()


def _start(child: Any) -> None:
    """Starts a child with Ctrl-C held back: one that came during the fork would be lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _work(verb: str, config_file: Path) -> None:
    """A child's life: one verb with its configuration, and the exit code that the command line would give."""
    if sys.platform == "linux":
        # A killed sweep takes its run along; elsewhere the run goes on to its end.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for number in SIGNALS:  # the sweep's own handlers came along
        signal.signal(number, signal.SIG_DFL)
    # Lightning's DDP starts its other ranks from sys.argv: they come in by the command line.
    sys.argv = [sys.argv[0], verb, str(config_file), "--resume=auto"]
    sys.exit(exit_code(lambda: run_verb(TASKS[verb], load_config(TASKS[verb].load_schema(), config_file), resume=True)))


def _import_libraries() -> None:
    """Imports what every task needs once, before the first fork: seconds saved for each task."""
    if START_METHOD == "fork":
        for library in ("lightning", "transformers", "peft", "sklearn.linear_model"):
            importlib.import_module(library)
