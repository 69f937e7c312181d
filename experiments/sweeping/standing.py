"""How a plan stands against a sweep's folder: what is kept, what has to run, what nobody asks for any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from experiments.config.load import saved_as_today
from experiments.sweeping.manifest import COMPARE, FINISHED, VERSION, Record
from experiments.sweeping.plan import ORPHANS, RESULTS, Task
from experiments.verb_table import TASKS

KEEP, RUN, GONE = "keep", "run", "gone"


@dataclass(frozen=True)
class Standing:
    """What is to happen to a task.

    Attributes:
        task: of the plan.
        action: `KEEP`: it is finished. `RUN`: it has to run. `GONE`: it was finished, its folder was removed, and
            nothing needs it.
        why: of a task that has to run, what for.
        record: what is known of it.
    """

    task: Task
    action: str
    why: str = ""
    record: Record | None = None


def stand(tasks: Sequence[Task], records: Mapping[str, Record], folder: Path) -> list[Standing]:
    """How each task stands, in the plan's order; nothing is changed.

    Args:
        tasks: of the plan.
        records: of the manifest; those of an older version are found by what they ran with.
        folder: of the sweep.
    """
    found: dict[str, Standing] = {}
    former = {record.name: record for record in records.values() if record.version < VERSION}
    for task in tasks:
        record = records.get(task.key)
        if record is None and task.name in former and _ran_alike(task, former[task.name], found, folder):
            record = former[task.name]
        if record is None or record.state != FINISHED:
            found[task.name] = Standing(task, RUN, "" if record is None else record.state, record)
        elif _is_there(record, task, folder):
            found[task.name] = Standing(task, KEEP, record=record)
        else:
            found[task.name] = Standing(task, GONE, record=record)
    return _with_needed(tasks, found)


def _with_needed(tasks: Sequence[Task], found: dict[str, Standing]) -> list[Standing]:
    """What is gone runs again where it is an end in itself, or where a task that runs reads it."""
    needed: set[str] = set()
    for task in reversed(tasks):
        one = found[task.name]
        if one.action == GONE and (task.verb == "evaluate" or task.name in needed):
            one = found[task.name] = dataclasses.replace(one, action=RUN, why="its folder was removed")
        if one.action == RUN:
            needed.update(task.needs)
    return [found[task.name] for task in tasks]


def orphans(tasks: Sequence[Task], standings: Sequence[Standing], records: Mapping[str, Record]) -> list[Record]:
    """What was run and is asked for no more: steps and trainings, with what lies in their folders."""
    kept = {one.record.key for one in standings if one.record is not None} | {task.key for task in tasks}
    others = [record for record in records.values() if record.key not in kept]
    # an evaluation goes with its run
    return [record for record in others if record.verb != "evaluate" and record.name != COMPARE]


@dataclass(frozen=True)
class Move:
    """A folder of the sweep, by its record, and where it goes."""

    key: str
    source: str
    target: str


def moves(standings: Sequence[Standing], records: Mapping[str, Record]) -> Iterator[Move]:
    """Which folders change places, in order: first what is in the way steps aside, then what is kept takes its name.

    Nothing is deleted: what nobody asks for any more goes to `orphans/`, and comes back when it is asked for again.
    """
    # an evaluation lies in its run's folder, and goes with it
    placed = [one for one in standings if one.task.verb != "evaluate"]
    owner = {one.task.folder: one.record.key if one.record is not None else None for one in placed}
    in_way = {
        record.key
        for record in records.values()
        if record.verb != "evaluate" and record.folder in owner and owner[record.folder] != record.key
    }
    yield from (Move(key, records[key].folder, aside(records[key])) for key in sorted(in_way))
    for record, task in ((one.record, one.task) for one in placed):
        if record is not None and record.folder != task.folder:
            yield Move(record.key, aside(record) if record.key in in_way else record.folder, task.folder)


def aside(record: Record) -> str:
    """Where a folder goes that is in the way."""
    return f"{ORPHANS}/{Path(record.folder).name}-{record.key}"


def goes_on(record: Record, task: Task) -> bool:
    """Whether work that was begun, and is not finished, is gone on with: by the very same settings, where it stands."""
    return record.state == FINISHED or (record.exact, record.folder) == (task.exact, task.folder)


def _is_there(record: Record, task: Task, folder: Path) -> bool:
    place = folder / record.folder
    if task.verb not in RESULTS or not task.run:
        return place.is_dir()
    result = place / RESULTS[task.verb]
    # an empty one is what a full disk or a slip of a shell has left
    return result.is_file() and result.stat().st_size > 0


def _ran_alike(task: Task, record: Record, found: Mapping[str, Standing], folder: Path) -> bool:
    """Whether a task of an older version ran with this configuration, on what is still asked for.

    Older versions wrote the keys in another order, those of every backbone and loss, and none that are newer.
    """
    if not all(found[need].record is not None for need in task.needs if need in found):
        return False
    try:
        # written when a task begins
        before = saved_as_today(TASKS[task.verb].load_schema(), task.file_in(folder))
    except (ValueError, OSError):  # no task's text: it did not run with this one
        return False
    now = OmegaConf.to_container(OmegaConf.create(task.config))
    assert isinstance(now, dict)
    # an older version named no folder of scores, and logging changes no result
    own = {"logging", "store", "output_dir"}
    return {k: v for k, v in before.items() if k not in own} == {k: v for k, v in now.items() if k not in own}
