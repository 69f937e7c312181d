"""A sweep's manifest: what became of every task, in one file that any number of processes share.

It is read and written whole under the lock of the sweep's folder, and survives kill -9. Who works on a task holds the
task's own lock, its claim: the kernel takes it back when the process ends, so that no clock is asked whether a worker
is alive.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.sweeping.plan import LOGS, MANIFEST_FILE, REPORT, RUNS, Task
from negatives.tables import DAMAGED, Held, InputError, held_inside, hold, is_held, write_json

PENDING, RUNNING, FINISHED, FAILED = "pending", "running", "finished", "failed"
STATES = (PENDING, RUNNING, FINISHED, FAILED)
VERSION = 2
SECONDS_TO_WAIT = 120.0
"""For the lock of the sweep's folder, which is held for moments only."""
SECONDS_BETWEEN_TRIES = 0.02
COMPARE = "compare"
WORKER = "worker-"
"""How the locks of processes at work begin, beside those of tasks."""


@dataclass
class Record:
    """What the manifest knows of a task.

    Attributes:
        key: of `Task`; what an older version has left has its own.
        name, verb, folder, exact: of `Task`, when it was last begun.
        state: one of `STATES`.
        seconds: how long the last attempt took.
        attempts: how often it was begun.
        lines: the last lines of what a failed one printed.
        moves_to: the folder that it is being moved to.
        version: of the manifest in which it was first written.
        wanted: whether the last start asked for it.
    """

    key: str
    name: str
    verb: str
    folder: str
    exact: str = ""
    state: str = PENDING
    seconds: float | None = None
    attempts: int = 0
    lines: list[str] = field(default_factory=list)
    moves_to: str | None = None
    version: int = VERSION
    wanted: bool = True


class Manifest:
    """The records of a sweep's folder.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / MANIFEST_FILE
        self._held: Held | None = None

    def read(self) -> dict[str, Record]:
        """Key -> record; none where there is no manifest yet.

        Raises:
            InputError: the file is no manifest.
        """
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        try:
            loaded = json.loads(content)
            version = int(loaded.get("version", 1))
            records = [_record(entry, version) for entry in loaded["tasks"] if version <= VERSION]
        # not "none" for a broken file: what was asked for, and failed, would be forgotten without a word
        except (*DAMAGED, AttributeError) as error:
            raise InputError(
                f"{self.path} is no sweep manifest, or damaged; move it away, and --resume finds what is finished by "
                "the runs' own folders."
            ) from error
        if version > VERSION:
            raise InputError(
                f"{self.path} was written by a newer version of this package (manifest {version}); update it."
            )
        return {record.key: record for record in records}

    @contextmanager
    def changing(self) -> Iterator[dict[str, Record]]:
        """The records, to be changed in the block by this process alone; written whole at its end.

        Raises:
            InputError: the file is no manifest, or the lock is not to be had.
        """
        with self.locked():
            records = self.read()
            before = _content(records)
            yield records
            if (after := _content(records)) != before or not self.path.is_file():
                write_json(after, self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of the sweep's folder, for which it waits; inside another such block, goes on with its lock.

        Raises:
            InputError: the lock is not to be had.
        """
        if self._held is not None:
            yield
            return
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while self._held is None:
            try:
                self._held = hold(self.folder)
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            self._held.release()
            self._held = None

    def claim(self, key: str) -> Held | None:
        """The claim of a task, which children that are forked then hold too; None where another process has it."""
        try:
            return hold(self._place(key), inherited=True)
        except InputError:
            return None

    def is_claimed(self, key: str) -> bool:
        """Whether a process works on a task; asking takes nothing."""
        return is_held(self._place(key))

    def is_worked_on(self) -> bool:
        """Whether another process works on the sweep."""
        workers = self.folder.resolve() / LOGS
        return workers.is_dir() and any(path.name.startswith(WORKER) for path in held_inside(workers))

    def join(self) -> None:
        """Lets others see that this process works on the sweep, until it ends."""
        # not the lock of a task: a run may outlive the worker that started it by a moment
        name = f"{WORKER}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._presence = hold(self.folder / LOGS / name)

    def _place(self, key: str) -> Path:
        return self.folder / LOGS / key


def new_record(task: Task) -> Record:
    """What is known of a task that was never begun."""
    return Record(task.key, task.name, task.verb, task.folder, task.exact)


def _content(records: dict[str, Record]) -> dict[str, Any]:
    return {"version": VERSION, "tasks": [asdict(record) for record in records.values()]}


def _record(entry: dict[str, Any], version: int) -> Record:
    if version == 1:
        entry = _of_version_1(entry)
    record = Record(**{key: entry[key] for key in Record.__dataclass_fields__ if key in entry})
    texts = (record.key, record.name, record.verb, record.folder, record.exact, record.state)
    if not all(isinstance(text, str) for text in texts) or record.state not in STATES:
        raise ValueError(f"a task of the state {record.state!r}")
    # a manifest may come from anyone: what it calls a folder is moved, and pruned
    for place in (record.folder, record.moves_to):
        if place is not None and (Path(place).is_absolute() or ".." in Path(place).parts or not Path(place).parts):
            raise ValueError(f"the folder {place!r}")
    return record


def _of_version_1(entry: dict[str, Any]) -> dict[str, Any]:
    """A record of the first version, which knew tasks by their names, and their settings by a hash of the YAML."""
    name = str(entry["name"])
    step, _, run = name.partition("/")
    folder = {"prepare": run, "train": f"{RUNS}/{run}", "evaluate": f"{RUNS}/{run}/evaluation"}.get(step, REPORT)
    verb = entry.get("verb") or (step if step in ("train", "evaluate", COMPARE) else "")
    key = f"former-{name.replace('/', '-')}"
    return {
        **{"key": key, "name": name, "verb": verb, "folder": folder, "exact": entry["config_hash"], "version": 1},
        **{"state": entry["state"], "seconds": entry["seconds"]},
    }
