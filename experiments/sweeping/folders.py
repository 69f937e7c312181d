"""A sweep's folder brought in line with its plan: records adopted, folders moved, orphans removed on request."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from experiments.runs.outputs import CONFIG_FILE, find_damage
from experiments.runs.progress import say
from experiments.sweeping.manifest import (
    COMPARE,
    FAILED,
    FINISHED,
    PENDING,
    VERSION,
    Manifest,
    Record,
    new_record,
)
from experiments.sweeping.plan import ORPHANS, Task
from experiments.sweeping.standing import RUN, Move, Standing, goes_on, moves, orphans, stand
from negatives.tables import InputError, held_inside, is_held, write_text


def settle(manifest: Manifest, tasks: Sequence[Task], *, alone: bool, again: Collection[str] = ()) -> list[Standing]:
    """Makes the folder one that the plan's tasks can be done in; to be called before the first one is.

    Args:
        manifest: of the sweep.
        tasks: of the plan.
        alone: whether no other process works on the sweep: then what failed is tried again.
        again: names of tasks that are tried again in any case.

    Raises:
        InputError: a folder has to move, and a process works in it or by another plan.
    """
    folder = manifest.folder
    with manifest.changing() as records:
        _end_moves(records, folder)
        standings = _adopt(stand(tasks, records, folder), records)
        needed = list(moves(standings, records))
        if not alone and (place := _taken(needed, tasks, records)):
            raise InputError(
                f"{folder}: another `itm sweep` is at work by another configuration, which has another use for "
                f"{place}; wait for its end, or give another output_dir."
            )
    for move in needed:
        _move(manifest, move, tasks)
    with manifest.changing() as records:
        if alone:
            _drop_stale(records, tasks)
        standings = stand(tasks, records, folder)
        for one in standings:
            record = records.setdefault(one.task.key, new_record(one.task))
            record.name, record.exact = one.task.name, one.task.exact
            if one.action == RUN and not manifest.is_claimed(one.task.key):
                retried = alone or record.state != FAILED or one.task.name in again
                record.state, record.lines = (PENDING, []) if retried else (record.state, record.lines)
        wanted = {task.key for task in tasks} | {COMPARE}
        for record in records.values():
            record.wanted = record.key in wanted
        if COMPARE in records and alone:
            # a failed one is tried again
            records[COMPARE].state = FINISHED if records[COMPARE].state == FINISHED else PENDING
    return standings


def check_undamaged(task: Task, folder: Path) -> None:
    """Refuses to go on from what a finished task has left where it shows damage.

    Raises:
        InputError: names the file, and how the task is made again.
    """
    # its folder may have been removed since, to make room
    place = folder / task.folder
    if place.is_dir() and (fault := find_damage(place, finished=True)):
        again = f"itm {task.verb} {task.file_in(folder)} --overwrite"
        raise InputError(f"{task.name}: {fault}. Put it back from a copy, or make it again by `{again}`.")


def prune(manifest: Manifest, tasks: Sequence[Task], names: Sequence[str]) -> None:
    """Removes orphans, by the folders that `--plan` calls them, with all that lies in them.

    Raises:
        InputError: a name is that of no orphan, or a process works on the sweep or in the folder; nothing was removed
            then.
    """
    folder = manifest.folder
    if manifest.is_worked_on():
        raise InputError(f"{folder}: another `itm sweep` is at work, which may want {names[0]}; wait for its end.")
    with manifest.changing() as records:
        found = {record.folder: record for record in orphans(tasks, stand(tasks, records, folder), records)}
        for name in names:
            if name not in found:
                there = ", ".join(found) or "none"
                raise InputError(f"--prune must name an orphan ({there}), got {name!r}: see them by --plan.")
            _check_free(manifest, name, records)
        for name in names:
            shutil.rmtree(folder / name, ignore_errors=not (folder / name).exists())
            for key in [key for key, record in records.items() if is_inside(record.folder, name)]:
                del records[key]
            say(f"Removed {folder / name}")


def _check_free(manifest: Manifest, name: str, records: Mapping[str, Record]) -> None:
    """Refuses a folder in which a process works, be it the evaluation of its run.

    Raises:
        InputError: one does.
    """
    place = manifest.folder / name
    claimed = (manifest.is_claimed(record.key) for record in records.values() if is_inside(record.folder, name))
    if is_held(place) or any(held_inside(place)) or any(claimed):
        raise InputError(f"{place} is in use by another process; wait for its end.")


def is_inside(folder: str, other: str) -> bool:
    """Whether a folder of the sweep is another one, or lies in it."""
    return folder == other or folder.startswith(f"{other}/")


def _adopt(standings: Sequence[Standing], records: dict[str, Record]) -> list[Standing]:
    """Records of older versions under today's keys; unfinished work that is not gone on with under keys of its own."""
    found = []
    for one in standings:
        record = one.record
        if record is not None and record.version < VERSION:
            del records[record.key]
            record.key, record.version, record.exact = one.task.key, VERSION, one.task.exact
            record.verb = one.task.verb
            records[record.key] = record
        if record is not None and not goes_on(record, one.task):
            del records[record.key]
            record.key = f"{record.key}-{record.exact[:8]}"
            records[record.key] = record
            record = None
        found.append(Standing(one.task, one.action, one.why, record))
    # what an older version has left and nobody asks for is an orphan like others
    for record in records.values():
        record.version = VERSION
    return found


def _taken(needed: Sequence[Move], tasks: Sequence[Task], records: Mapping[str, Record]) -> str | None:
    """A folder that would have to move, or that another plan's evaluation is to write."""
    wanted = {task.folder: task.key for task in tasks}
    owners = [record for record in records.values() if wanted.get(record.folder, record.key) != record.key]
    return next(iter([*(move.source for move in needed), *(record.folder for record in owners if record.wanted)]), None)


def _drop_stale(records: dict[str, Record], tasks: Sequence[Task]) -> None:
    """Forgets evaluations whose folder another one is to write, and what was never begun and is asked for no more."""
    wanted, own = {task.key for task in tasks} | {COMPARE}, {task.folder for task in tasks if task.verb == "evaluate"}
    for key, record in list(records.items()):
        if key in wanted:
            continue
        if record.name == COMPARE:  # an older version's: it is made anew
            del records[key]
            continue
        if (record.verb == "evaluate" and record.folder in own) or _is_new(record):
            del records[key]


def _is_new(record: Record) -> bool:
    # one that was killed is pending again, and has a folder; the first version counted no attempts
    return record.state == PENDING and not record.attempts and record.seconds is None


def _move(manifest: Manifest, move: Move, tasks: Sequence[Task]) -> None:
    """Moves a folder; a kill in the middle is made good by the next start."""
    folder = manifest.folder
    with manifest.changing() as records:
        _check_free(manifest, move.source, records)
        records[move.key].moves_to = move.target
    with manifest.changing() as records:
        _end_moves(records, folder)
    for task in tasks:
        if task.folder == move.target and (folder / move.target / CONFIG_FILE).is_file():
            # it says where it stands, and how it is called
            write_text(task.config, folder / move.target / CONFIG_FILE)


def _end_moves(records: Mapping[str, Record], folder: Path) -> None:
    for record in list(records.values()):
        if record.moves_to is None:
            continue
        source, target = record.folder, record.moves_to
        if (folder / source).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            _step_aside(folder, target)
            (folder / source).rename(folder / target)
            say(f"{folder / source} is now {folder / target}")
        for other in records.values():
            if is_inside(other.folder, source):
                other.folder = f"{target}{other.folder[len(source) :]}"
        record.moves_to = None


def _step_aside(folder: Path, target: str) -> None:
    """Moves what stands in the way and is in no record to `orphans/`: nothing is deleted, and nothing is in the way."""
    if not (folder / target).exists():
        return
    name, number = Path(target).name, 1
    while (place := folder / ORPHANS / f"{name}-{number}").exists():
        number += 1
    place.parent.mkdir(exist_ok=True)
    (folder / target).rename(place)
    say(f"{folder / target} was in the way, and is now {place}")
