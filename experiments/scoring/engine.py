"""Requests in, values out: what a store lacks is computed unit by unit, each unit by the rank that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.runs.progress import counter
from experiments.scoring.plan import Plan
from experiments.scoring.ranks import World
from experiments.scoring.requests import Places
from experiments.scoring.store import Items, Units, plan_key, unit_name
from negatives.tables import InputError

Values = NDArray[np.floating]
NO_UNIT = -1


@dataclass(frozen=True)
class EngineSettings:
    """How the work is cut and computed; only `unit_rows` and `max_captions` say which pairs are computed together.

    Attributes:
        batch_size: rows computed at a time: images with their texts, or images or texts alone.
        unit_rows: rows in a unit; a killed process loses at most one unit.
        max_captions: texts of an image that are computed together.
        workers: loader processes that decode and encode; 0 does so in this process.
        in_step: all ranks compute equally many batches: sharded weights are gathered from all of them for each.
    """

    batch_size: int = 64
    unit_rows: int = 256
    max_captions: int = 16
    workers: int = 0
    in_step: bool = False


@dataclass(frozen=True)
class Work:
    """One kind of items, and how they are computed.

    Attributes:
        items: all that are asked for.
        plan: which of them, given places, in which order.
        prepare: rows of a plan -> a batch, in a loader's worker.
        compute: a batch -> (items of the rows,) or (items, D) values.
        label: of the progress bar.
        rows_at_once: rows of a batch for each image of a batch: texts alone are as many as come with images.
    """

    items: Items
    plan: Callable[[Places], Plan]
    prepare: Callable[[Plan, range], Any]
    compute: Callable[[Any], Values]
    label: str
    rows_at_once: int = 1


@dataclass(frozen=True)
class Answers:
    """Values of all items, and how many of them this call computed, on all ranks."""

    values: Values
    computed: int


def answer(works: Sequence[Work], store: Units, settings: EngineSettings, world: World) -> list[Answers] | None:
    """Computes this rank's units of what the store lacks; in the first rank waits for all, and returns the values.

    Args:
        works: kinds of items, whose batches take turns.
        store: what was computed before, and where units are written.
        settings: how the work is cut.
        world: this rank among all.

    Returns:
        For each work; None in the other ranks.

    Raises:
        InputError: an image cannot be read, a value is not finite, or another rank has ended before its time.
    """
    # all that is this rank's before it waits for the others
    tasks = [_Task.of(work, store, settings) for work in works]
    _compute([task.jobs(world, settings) for task in tasks], tasks, store, settings.workers)
    store.meet()
    return None if world.rank else [task.collect(store, world) for task in tasks]


class _Job(NamedTuple):
    """A batch: rows of a unit of a task's plan."""

    unit: int
    rows: range


@dataclass(frozen=True)
class _Task:
    """The plan of a work: the units that were there before it, its own units, and which of these were missing."""

    work: Work
    plan: Plan
    earlier: list[str]
    names: list[str]
    missing: list[int]

    @classmethod
    def of(cls, work: Work, store: Units, settings: EngineSettings) -> _Task:
        items = work.items
        key = plan_key(items, (settings.unit_rows, settings.max_captions))
        earlier = store.begin(items, key)
        _, there = _collect(items, store, earlier)
        plan = work.plan(np.flatnonzero(~there))
        names = [unit_name(key, unit, plan.items(unit)) for unit in range(plan.units)]
        missing = [unit for unit, name in enumerate(names) if not store.has(items, name, plan.items(unit))]
        return cls(work, plan, earlier, names, missing)

    def jobs(self, world: World, settings: EngineSettings) -> list[_Job]:
        """The batches of this rank, unit by unit; with `in_step`, as many as the rank has that has most."""
        at_once = settings.batch_size * self.work.rows_at_once

        def of(rank: World) -> list[_Job]:
            units = [unit for unit in self.missing if rank.owns(unit)]
            return [_Job(unit, rows) for unit in units for rows in self.plan.batches(unit, at_once)]

        mine = of(world)
        if settings.in_step:
            most = max(len(of(world._replace(rank=rank))) for rank in range(world.size))
            # computed for nobody, and one row will do
            mine += [_Job(NO_UNIT, range(1))] * (most - len(mine))
        return mine

    def collect(self, store: Units, world: World) -> Answers:
        items = self.work.items
        world.wait(lambda: store.files(items.kind) >= {*self.names})
        values, there = _collect(items, store, [*self.earlier, *self.names])
        if not there.all():
            raise InputError(f"{store}: a unit was damaged or removed; the same command with --resume goes on.")
        return Answers(values, sum(len(self.plan.items(unit)) for unit in self.missing))


def _collect(items: Items, store: Units, names: Sequence[str]) -> tuple[Values, NDArray[np.bool_]]:
    """The values of all items as far as these units have them, and which are there."""
    there = np.zeros(len(items), bool)
    values: Values = np.empty(0)
    for places, found in store.found(items, names):
        if not there.any():
            # as wide, and of the type, that the first unit has
            values = np.full((len(items), *found.shape[1:]), np.nan, found.dtype)
        values[places], there[places] = found, True
    return values, there


class _Batches:
    """Batches by number, prepared where they are asked for: a map-style data set without what computes them."""

    def __init__(self, prepare: Sequence[tuple[Callable[[Plan, range], Any], Plan]], jobs: Sequence[tuple[int, _Job]]):
        self.prepare, self.jobs = prepare, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> Any:
        task, job = self.jobs[number]
        prepare, plan = self.prepare[task]
        return prepare(plan, job.rows)


def _prepared(batches: _Batches, workers: int) -> Iterator[Any]:
    if not workers:
        yield from (batches[number] for number in range(len(batches)))
        return
    from torch.utils.data import DataLoader

    from datamodules import LateLoader, start_worker

    loader: DataLoader[Any] = LateLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker,
    )
    yield from loader


def _compute(jobs: Sequence[Sequence[_Job]], tasks: Sequence[_Task], store: Units, workers: int) -> None:
    """Computes the batches of all tasks through one loader, and writes each unit when it is whole."""
    order = alternated([len(of_task) for of_task in jobs])
    todo = [(task, jobs[task][place]) for task, place in order]
    batches = _Batches([(task.work.prepare, task.plan) for task in tasks], todo)
    label = " and ".join(task.work.label for task, of_task in zip(tasks, jobs, strict=True) if of_task)
    parts: list[list[Values]] = [[] for _ in tasks]
    with counter(f"{label}, in batches", len(todo)) as advance:
        for (number, place), batch in zip(order, _prepared(batches, workers), strict=True):
            task, of_task, unit = tasks[number], jobs[number], jobs[number][place].unit
            parts[number].append(task.work.compute(batch))
            advance()
            if place + 1 == len(of_task) or of_task[place + 1].unit != unit:
                if unit != NO_UNIT:
                    found = np.concatenate(parts[number])
                    store.write(task.work.items, task.names[unit], task.plan.items(unit), found)
                parts[number] = []


def alternated(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Places (task, batch) so that all tasks go on evenly, each in its own order.

    Images cost the workers their time, and texts the main process: one after the other, each would wait for the other.

    >>> alternated([2, 4])
    [(1, 0), (0, 0), (1, 1), (1, 2), (0, 1), (1, 3)]
    """
    every = [((place + 0.5) / count, task, place) for task, count in enumerate(counts) for place in range(count)]
    return [(task, place) for _, task, place in sorted(every)]
