"""Requests in, values out: what a store lacks is computed unit by unit, each unit by the rank that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

    Returns:
        For each work; None in the other ranks.

    Raises:
        InputError: an image cannot be read, a value is not finite, or another rank has ended before its time.
    """
    # all that is this rank's before it waits for the others
    tasks = [_Task.of(work, store, settings) for work in works]
    for task in tasks:
        mine = {unit: task.names[unit] for unit in task.missing if world.owns(unit)}
        again = task.batches_behind(world, settings.batch_size) if settings.in_step else 0
        if mine or again:
            _compute(task.work, task.plan, mine, store, settings, again)
    store.meet()
    return None if world.rank else [task.collect(store, world) for task in tasks]


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

    def batches_behind(self, world: World, batch_size: int) -> int:
        """How many batches less than the rank that has most this one has."""
        at_once = batch_size * self.work.rows_at_once
        ranks = [world._replace(rank=rank) for rank in range(world.size)]
        counts = [
            sum(len([*self.plan.batches(unit, at_once)]) for unit in self.missing if rank.owns(unit)) for rank in ranks
        ]
        return max(counts) - counts[world.rank]

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

    def __init__(self, prepare: Callable[[Plan, range], Any], plan: Plan, rows: Sequence[range]):
        self.prepare, self.plan, self.rows = prepare, plan, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.prepare(self.plan, self.rows[number])


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


def _compute(
    work: Work, plan: Plan, units: dict[int, str], store: Units, settings: EngineSettings, again: int = 0
) -> None:
    """Computes units, one after the other through one loader, and writes each when it is whole.

    Args:
        again: batches that are computed once more at the end, for nobody: other ranks compute so many more.
    """
    at_once = settings.batch_size * work.rows_at_once
    rows = [(unit, batch) for unit in units for batch in plan.batches(unit, at_once)]
    # one row will do, of whichever unit
    rows += [(NO_UNIT, range(1))] * again
    batches = _Batches(work.prepare, plan, [batch for _, batch in rows])
    with counter(work.label, len(rows)) as advance:
        parts: list[Values] = []
        for place, batch in enumerate(_prepared(batches, settings.workers)):
            parts.append(work.compute(batch))
            advance()
            unit = rows[place][0]
            if place + 1 == len(rows) or rows[place + 1][0] != unit:
                if unit != NO_UNIT:
                    store.write(work.items, units[unit], plan.items(unit), np.concatenate(parts))
                parts = []
