"""A sweep's manifest: what has to run, what has run, in a file that survives kill -9."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.config.load import saved_as_today
from experiments.exit_codes import PreemptedError
from experiments.runs.outputs import find_damage
from experiments.verb_table import TASKS
from negatives.tables import DAMAGED, InputError, write_json

PENDING, RUNNING, FINISHED, FAILED = "pending", "running", "finished", "failed"
RECORDED = ("state", "config_hash", "seconds")
"""What a manifest says of every task, beside its name."""


@dataclass
class Task:
    """One verb with its configuration.

    Attributes:
        name: unique in the sweep.
        verb: which verb.
        config: its configuration as YAML.
        needs: task that has to be finished first; None where it only has to come after the preparation.
        state: pending, running, finished or failed.
        seconds: how long the last attempt took.
    """

    name: str
    verb: str
    config: str
    needs: str | None = None
    state: str = PENDING
    seconds: float | None = None
    config_hash: str = field(init=False)

    def __post_init__(self) -> None:
        self.config_hash = hashlib.sha256(self.config.encode()).hexdigest()[:16]

    def file_in(self, folder: Path) -> Path:
        """Where the sweep in `folder` writes the configuration, for the process that runs it."""
        return folder / "tasks" / f"{self.name.replace('/', '-')}.yaml"


class Manifest:
    """The tasks of a sweep; every change of state is on disk, whole, before the next step.

    Args:
        path: of the manifest file.
        tasks: what the configuration asks for; states come from the file where it exists.

    Raises:
        InputError: a finished task's configuration has changed, what it left is damaged, or the file is no manifest.
    """

    def __init__(self, path: Path, tasks: list[Task]):
        self.path, self.tasks = path, tasks
        recorded = read_states(path)
        self._others = [record for name, record in recorded.items() if name not in {task.name for task in tasks}]
        for task in tasks:
            record = recorded.get(task.name)
            if record is None or record["state"] != FINISHED:
                continue
            if record["config_hash"] != task.config_hash and not _has_run_alike(task, path.parent):
                raise InputError(
                    f"{task.name} has run with another configuration ({path}); "
                    "start anew with --overwrite, or give another output_dir."
                )
            _check_undamaged(task, path.parent)
            task.state, task.seconds = FINISHED, record["seconds"]

    def save(self) -> None:
        """Writes the manifest whole."""
        records = [{key: value for key, value in asdict(task).items() if key != "config"} for task in self.tasks]
        # Tasks that the file no longer asks for keep their record: if they come back, it must be as they were.
        write_json({"tasks": [*records, *self._others]}, self.path)

    @contextmanager
    def running(self, task: Task) -> Iterator[None]:
        """Marks a task as running, then as finished, or as failed where the block raises."""
        # not time.time(): a clock that is set would give negative seconds
        start = time.monotonic()
        task.state = RUNNING
        try:
            self.save()  # inside: Ctrl-C may come as soon as others can read it
            yield
            task.state = FINISHED
        except PreemptedError:
            task.state = PENDING
            raise
        # Ctrl-C too: a task that was stopped is not left as running
        except BaseException:
            task.state = FAILED
            raise
        finally:
            task.seconds = round(time.monotonic() - start, 1)
            self.save()


def _has_run_alike(task: Task, folder: Path) -> bool:
    """Whether a finished task ran with this configuration, though its text differs.

    Older versions wrote the keys in another order, those of every backbone and loss, and none that are newer.
    """
    file = task.file_in(folder)
    if not file.is_file():
        return False
    # a finished task is never started again, so the file still holds what it ran with
    try:
        before = saved_as_today(TASKS[task.verb].load_schema(), file)
    except ValueError:  # no task's text: it did not run with this one
        return False
    return before == OmegaConf.to_container(OmegaConf.create(task.config))


def _check_undamaged(task: Task, folder: Path) -> None:
    # its folder may have been removed since, to make room
    settings: Any = OmegaConf.create(task.config)
    own = settings.get("output_dir")
    if own and Path(own).is_dir() and (fault := find_damage(Path(own), finished=True)):
        again = f"itm {task.verb} {task.file_in(folder)} --overwrite"
        raise InputError(f"{task.name}: {fault}. Put it back from a copy, or make it again by `{again}`.")


def read_states(path: Path) -> dict[str, dict[str, Any]]:
    """The recorded tasks by name; none where there is no manifest yet.

    Raises:
        InputError: the file is no manifest.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    try:
        records = {str(record["name"]): record for record in json.loads(content)["tasks"]}
        if missing := [key for record in records.values() for key in RECORDED if key not in record]:
            raise KeyError(missing[0])
        return records
    # not "none" for a broken file: finished tasks would run again
    except DAMAGED as error:
        raise InputError(f"{path} is no sweep manifest ({error!r}); start anew with --overwrite.") from None
