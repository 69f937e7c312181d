"""The tasks of a sweep, keyed by what they compute.

A key is a hash of the verb, of the settings that decide its result, and of the keys of the tasks whose results it
reads. Not in it: the task's name, its folder, and where it logs. So a task that is listed in another place, or under
another name, is the same task; one that reads what another step has made is another one.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.config.layers import ConfigError, nested
from experiments.config.load import to_yaml
from experiments.config.names import name_faults
from experiments.config.sweep_schemas import SweepConfig
from experiments.runs.outputs import CONFIG_FILE, PROVENANCE_FILE
from experiments.sweeping.points import Point, points
from experiments.sweeping.resolve import Resolver
from experiments.verb_table import TASKS

MANIFEST_FILE = "manifest.json"
RUNS, REPORT, LOGS, ORPHANS = "runs", "report", "tasks", "orphans"
SWEEP_FILES = (MANIFEST_FILE, CONFIG_FILE, PROVENANCE_FILE, LOGS, RUNS, REPORT, ORPHANS)
"""What stands in a sweep's folder beside the folders of its steps."""
RESULTS = {"train": "weights.safetensors", "evaluate": "summary.json"}
"""Verb of a run's tasks -> the file that it writes last."""
NO_RESULT = frozenset({"output_dir", "logging", "name", "run", "store"})
"""Top-level settings that change no result: names and places, and a run, which is in the key by its own key."""
LIVE = "live"
FILLED_IN = ("runs", "missing", "output_dir")
"""Keys of the comparison that are the sweep's."""


@dataclass(frozen=True)
class Task:
    """One verb with its configuration.

    Attributes:
        name: unique in the sweep.
        verb: which verb.
        folder: that it writes, in the sweep's.
        key: what it computes.
        needs: names of the tasks whose results it reads.
        settings: its checked configuration.
        run, arm: of a run's tasks: its name, and this without the seed.
        inputs: keys of what it is made of, where that is not in `key`: of a comparison, its evaluations.
    """

    name: str
    verb: str
    folder: str
    key: str
    needs: tuple[str, ...]
    settings: Any
    run: str = ""
    arm: str = ""
    inputs: tuple[str, ...] = ()

    @cached_property
    def config(self) -> str:
        """The configuration as YAML."""
        return to_yaml(self.settings)

    @cached_property
    def exact(self) -> str:
        """A hash of all settings but logging: work that was begun is only gone on with by the very same."""
        settings = dataclasses.asdict(self.settings)
        settings.pop("logging", None)
        return digest([settings, self.inputs])

    @property
    def prepares(self) -> bool:
        """Whether it is a step before the runs."""
        return self.name.startswith("prepare/")

    def file_in(self, folder: Path) -> Path:
        """Where the sweep in `folder` writes the configuration, for the process that runs it."""
        return folder / LOGS / f"{self.name.replace('/', '-')}.yaml"

    def log_in(self, folder: Path) -> Path:
        """What the task prints."""
        return self.file_in(folder).with_suffix(".log")


def plan(config: SweepConfig) -> list[Task]:
    """All tasks of a sweep but the comparison, in order: the steps, then of each run its training and evaluation.

    Raises:
        ConfigError: all faults of all tasks, in one error.
    """
    # checked when the sweep is loaded, and used again when it runs
    content = digest(dataclasses.asdict(config))
    if content not in _planned:
        found = _Planner(config).tasks()
        _planned.clear()
        _planned[content] = found
    return list(_planned[content])


_planned: dict[str, list[Task]] = {}
"""The last plan, by its sweep's content."""


def compare_settings(config: SweepConfig, runs: Sequence[str], missing: Mapping[str, str]) -> Any:
    """The comparison's checked configuration.

    Args:
        config: of the sweep.
        runs: folders of the evaluated runs.
        missing: name of a run that is not among them -> why.

    Raises:
        ConfigError: its faults.
    """
    folder = Path(config.output_dir)
    own = {key: value for key, value in config.compare.items() if key != LIVE}
    logging = {"logging": {**dataclasses.asdict(config.logging), "group": config.name}}
    fixed = {"runs": list(runs), "missing": dict(missing), "output_dir": str(folder / REPORT)}
    verb = TASKS["compare"]
    return Resolver(verb.load_schema(), folder).resolve({**logging, **own, **fixed}, "compare")


def run_settings(config: SweepConfig, point: Point) -> dict[str, Any]:
    """The settings of a run, unchecked."""
    listed = config.runs.get(point.run, {})
    settings = merged(config.experiment, nested(listed), nested(point.changes))
    # in W&B, runs that differ in their seed alone are found by it
    own = settings.get("logging", {})
    settings["logging"] = {**own, "tags": [*own.get("tags", config.logging.tags), point.arm]}
    fixed = {"output_dir": str(Path(config.output_dir) / RUNS / point.name)}
    return _experiment(config, point.name, settings, fixed)


class _Planner:
    """Makes the tasks of a sweep one after another; each finds the keys of those before it."""

    def __init__(self, config: SweepConfig):
        self.config, self.folder = config, Path(config.output_dir)
        self.faults: list[str] = list(name_faults(config.prepare, "prepare", SWEEP_FILES))
        self.found: dict[str, Task] = {}
        self._resolvers: dict[str, Resolver] = {}
        self._keys: dict[str, str] = {}
        self._root = f"{self.folder.absolute()}{os.sep}"
        # folder -> the step or training that makes it
        self._made: dict[str, Task] = {}

    def tasks(self) -> list[Task]:
        config = self.config
        for name, step in config.prepare.items():
            self._add_step(name, step)
        try:
            every = points(config)
        except ConfigError as error:
            raise ConfigError(*self.faults, *error.faults) from None
        for point in every:
            self._add_run(point)
        self._check_compare(every)
        if not self.found and not self.faults:
            self.faults.append("a sweep must have `runs`, an `experiment` or `prepare`: there is nothing to do")
        if self.faults:
            raise ConfigError(*_together(self.faults))
        return [*self.found.values()]

    def _add_step(self, name: str, step: Any) -> None:
        # later tasks find the results of a step by this folder
        fixed: dict[str, Any] = {"output_dir": str(self.folder / name)}
        own, verb = step.config, TASKS[step.verb]
        if not verb.trains and "output_dir" in own:
            self.faults.append(
                f"`prepare.{name}.config.output_dir` is the sweep's, {fixed['output_dir']}: leave it out"
            )
        if verb.trains:
            own = _experiment(self.config, name, own, fixed)
        elif verb.logs_to_sweep:
            fixed["logging"] = {**dataclasses.asdict(self.config.logging), "group": self.config.name}
        self._add(f"prepare/{name}", step.verb, name, {**fixed, **own})

    def _add_run(self, point: Point) -> None:
        settings = run_settings(self.config, point)
        evaluation = dict(settings.get("evaluation", {}))
        self._add(f"train/{point.name}", "train", f"{RUNS}/{point.name}", settings, point=point)
        place = f"{settings['output_dir']}/evaluation"
        mapping = {"run": settings["output_dir"], "output_dir": place, "store": f"{place}/store"}
        mapping |= {"seed": self.config.seed, "logging": settings["logging"], "evaluation": evaluation}
        # evaluated where it was trained
        mapping["accelerator"] = settings.get("trainer", {}).get("accelerator", "auto")
        needs = (f"train/{point.name}",)
        # scores stay when a run gets another name, and its tables are made anew, where it stands
        self._add(f"evaluate/{point.name}", "evaluate", f"{RUNS}/{point.name}/evaluation", mapping, needs, point)

    def _add(
        self,
        name: str,
        verb: str,
        folder: str,
        mapping: Mapping[str, Any],
        needs: tuple[str, ...] = (),
        point: Point | None = None,
    ) -> None:
        if verb not in self._resolvers:
            self._resolvers[verb] = Resolver(TASKS[verb].load_schema(), self.folder)
        try:
            settings = self._resolvers[verb].resolve(mapping, name)
        except ConfigError as error:
            self.faults += error.faults
            return
        decides = {key: value for key, value in _as_dict(settings).items() if key not in NO_RESULT}
        # what a training is evaluated on changes no weight, unless its validations score it, too
        if verb == "train" and not settings.trainer.validate_benchmarks:
            decides.pop("evaluation")
        if verb == "evaluate":
            decides["name"] = point.name if point is not None else ""
        decides, read = self._by_key(decides)
        needs = (*needs, *sorted(read))
        keys = [self.found[need].key for need in needs if need in self.found]
        key = digest([verb, decides, keys])
        if (twin := self._keys.setdefault(key, name)) != name:
            self.faults.append(
                f"{twin} and {name} are the same work: all settings that decide the result are equal. Change one of "
                "them, or leave it out."
            )
        run, arm = (point.name, point.arm) if point is not None else ("", "")
        self.found[name] = self._made[folder] = Task(name, verb, folder, key, needs, settings, run, arm)

    def _by_key(self, settings: Any) -> tuple[Any, set[str]]:
        """Settings with the folder of each task that they read replaced by its key, and these tasks."""
        read: set[str] = set()

        def replaced(value: Any) -> Any:
            if isinstance(value, str) and os.sep in value and (found := self._maker(value)):
                task, rest = found
                read.add(task.name)
                return f"{task.key}/{rest}"
            if isinstance(value, dict):
                return {key: replaced(item) for key, item in value.items()}
            if isinstance(value, list):
                return [replaced(item) for item in value]
            return value

        return replaced(settings), read

    def _maker(self, path: str) -> tuple[Task, str] | None:
        """The task in whose folder a path lies, and the rest of the path."""
        path = os.path.abspath(path)
        if not path.startswith(self._root):
            return None
        parts = path[len(self._root) :].split(os.sep)
        length = 2 if parts[0] == RUNS else 1
        task = self._made.get("/".join(parts[:length]))
        return (task, "/".join(parts[length:])) if task else None

    def _check_compare(self, every: Sequence[Point]) -> None:
        for key in FILLED_IN:
            if key in self.config.compare:
                self.faults.append(f"`compare.{key}` is the sweep's: leave it out")
        live = self.config.compare.get(LIVE, False)
        if not isinstance(live, bool):
            self.faults.append(f"`compare.{LIVE}` must be true or false, got {live!r}")
        if every:
            try:
                compare_settings(self.config, [str(self.folder / RUNS / every[0].name)], {})
            except ConfigError as error:
                self.faults += error.faults


def _together(faults: Sequence[str]) -> list[str]:
    """Faults that many runs share, in one line each."""
    places: dict[str, list[str]] = {}
    for fault in faults:
        text, _, place = fault.rpartition(" (train/") if fault.endswith(")") else (fault, "", "")
        places.setdefault(text or fault, []).append(f"train/{place[:-1]}" if text else "")
    return [
        text if not where[0] else f"{text} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})"
        for text, where in places.items()
    ]


def digest(content: Any) -> str:
    """A hash of plain content, in 16 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _as_dict(settings: Any) -> dict[str, Any]:
    return {one.name: _plain_value(getattr(settings, one.name)) for one in dataclasses.fields(settings)}


def _plain_value(value: Any) -> Any:
    # not asdict(), which copies every leaf: this is asked of a thousand runs
    if dataclasses.is_dataclass(value):
        return _as_dict(value)
    if isinstance(value, dict):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return value


def _experiment(
    config: SweepConfig, name: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of one of a sweep's trainings, with the sweep's name for it, its folder, seed and logging."""
    logging = {**dataclasses.asdict(config.logging), "group": config.name, **settings.get("logging", {})}
    # name, folder and logging are the sweep's and come last; a seed may be the run's own, as in a grid over seeds
    return {"seed": config.seed, **settings, "name": name, **fixed, "logging": logging}


def merged(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings laid over each other: later values win, nested mappings merge, lists are replaced."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result
