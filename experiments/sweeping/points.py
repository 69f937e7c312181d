"""The runs of a sweep: listed runs x variants x grid, zipped, included and excluded; each with a short name."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config.layers import ConfigError
from experiments.config.names import name_faults
from experiments.config.sweep_schemas import SweepConfig
from experiments.sweeping.short_names import short_names

MOST_RUNS = 1000
"""Each run is two tasks, and every task is checked before the first one starts."""
OF_THE_SWEEP = ("name", "output_dir")
"""What an experiment may set, and a run of a sweep may not."""
RUN = "run"
"""In `include` and `exclude`: the name of a listed run."""


@dataclass(frozen=True)
class Value:
    """One value of an axis.

    Attributes:
        name: in the names of runs.
        shown: what `exclude` calls it.
        changes: dotted key -> value.
    """

    name: str
    shown: Any
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A run of the sweep before it is resolved.

    Attributes:
        name: unique in the sweep; a folder.
        run: the listed run that it is of; "" where none is listed.
        changes: dotted key -> value, over those of the listed run.
        arm: the name without the seed: what runs have in common that differ in their seed alone.
    """

    name: str
    run: str
    changes: Mapping[str, Any]
    arm: str


def points(config: SweepConfig) -> list[Point]:
    """The runs of a sweep, in order: for each listed run the points of the grid, then those of `include`.

    Raises:
        ConfigError: an axis, a group, or a point that cannot be; two runs of one name; more than `MOST_RUNS`.
    """
    # a sweep may be preparation alone
    if not (config.runs or config.variants or config.grid or config.include or config.experiment):
        return []
    faults = [*name_faults(config.runs, "runs"), *_value_name_faults(config)]
    axes = read_axes(config)
    groups = _groups(config, axes)
    check_size(config, groups)
    used: set[int] = set()
    found = []
    for run in config.runs or [""]:
        for combination in itertools.product(*groups.values()):
            values = dict(itertools.chain.from_iterable(part.items() for part in combination))
            out = [n for n, one in enumerate(config.exclude) if _matches(one, run, values)]
            used.update(out)
            if not out:
                found.append(_point(config, run, [values[axis] for axis in axes], short_names(axes)))
        found += [_included(run, extra, axes, config) for extra in config.include if extra.get(RUN, run) == run]
    if not found:
        faults.append("`exclude` must leave a run, and leaves none")
    faults += _mark_faults(config, axes, used)
    counts = Counter(point.name for point in found)
    faults += [
        f"run names must differ, got {name!r} twice; check `runs`, `variants`, `grid` and `include`"
        for name, count in sorted(counts.items())
        if count > 1
    ]
    if faults:
        raise ConfigError(*faults)
    return found


def read_axes(config: SweepConfig) -> dict[str, list[Value]]:
    """Axis -> its values: the variants first, then the grid's.

    `grid.optim.lr=[...]` of a command line comes as nested sections, which are followed to the list.

    Raises:
        ConfigError: an axis that has no list of values, or an axis twice.
    """
    axes = {
        axis: [Value(name, name, changes) for name, changes in named.items()] for axis, named in config.variants.items()
    }
    faults = [f"`variants.{axis}` must name at least one value" for axis, values in axes.items() if not values]
    if RUN in axes:
        faults.append(f"`variants.{RUN}` must have another name: in `exclude` and `include`, {RUN} is a listed run")
    varied = {key for values in axes.values() for value in values for key in value.changes}
    for key, values in _lists(config.grid):
        if not isinstance(values, list) or not values:
            example = f"`grid: {{{key}: [1, 2]}}`, or grid.{key}=[1,2] on the command line"
            faults.append(f"`grid.{key}` must be a list of values, got {values!r}: {example}")
        elif key in OF_THE_SWEEP:
            faults.append(f"`grid.{key}` must be left out: the sweep names each run and its folder")
        elif key in varied:
            faults.append(f"`grid.{key}` must be left out of `grid` or of `variants`, which sets it, too")
        elif key in config.variants:
            faults.append(f"`grid.{key}` must not be an axis twice: take it out of `grid` or `variants`")
        else:  # the command line's comes last, and replaces the file's
            axes[key] = [Value(str(value), value, {key: value}) for value in values]
    if faults:
        raise ConfigError(*faults)
    return axes


def check_size(config: SweepConfig, groups: Mapping[str, Sequence[Any]]) -> None:
    """Refuses a sweep that is too long to be planned, before its runs are told apart.

    Raises:
        ConfigError: more than `MOST_RUNS`.
    """
    count = math.prod(map(len, groups.values()))
    runs = max(1, len(config.runs))
    if (total := (count + len(config.include)) * runs) > MOST_RUNS:
        raise ConfigError(
            f"a sweep must have at most {MOST_RUNS} runs, got {total:,}: {count:,} points of `grid` for each of "
            f"{runs} `runs`; shorten a list of `grid`, or make several sweeps"
        )


def _lists(grid: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, values in grid.items():
        if isinstance(values, Mapping) and values:
            yield from _lists(values, f"{above}{key}.")
        else:
            yield f"{above}{key}", values


def _groups(config: SweepConfig, axes: Mapping[str, list[Value]]) -> dict[str, list[dict[str, Value]]]:
    """What is multiplied: each axis, or the axes that are zipped, as a list of axis -> value.

    Raises:
        ConfigError: a group of `zip` names what is no axis, or an axis twice, or its axes are not equally long.
    """
    faults, zipped = [], Counter(axis for group in config.zip for axis in group)
    if unknown := [axis for axis in zipped if axis not in axes]:
        faults.append(f"`zip` must name axes of `grid` or `variants` ({', '.join(axes) or 'none'}), got {unknown[0]!r}")
    faults += [f"`zip` must name an axis once, got {axis!r} twice" for axis, count in zipped.items() if count > 1]
    for group in [] if unknown else config.zip:
        lengths = {axis: len(axes[axis]) for axis in group}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            faults.append(f"`zip` must name axes with equally many values: {said}")
    if faults:
        raise ConfigError(*faults)
    together = {group[0]: group for group in config.zip if group}
    result = {}
    for axis in axes:
        if axis in together or axis not in zipped:
            group = together.get(axis, [axis])
            rows = zip(*(axes[one] for one in group), strict=True)
            result[axis] = [dict(zip(group, row, strict=True)) for row in rows]
        # the others of a group come with its first
    return result


def _matches(pattern: Mapping[str, Any], run: str, values: Mapping[str, Value]) -> bool:
    """Whether an entry of `exclude` means this point; one that says nothing means none."""
    given = {RUN: run, **{axis: value.shown for axis, value in values.items()}}
    return bool(pattern) and all(key in given and given[key] == wanted for key, wanted in pattern.items())


def _mark_faults(config: SweepConfig, axes: Mapping[str, list[Value]], used: set[int]) -> Iterator[str]:
    """Entries of `exclude` that leave out nothing, and entries of `include` for a run that is not listed."""
    for number, pattern in enumerate(config.exclude):
        if unknown := [key for key in pattern if key != RUN and key not in axes]:
            yield f"`exclude.{number}` must name axes ({', '.join([RUN, *axes])}), got {unknown[0]!r}"
        elif number not in used:
            yield f"`exclude.{number}` must leave out a point, and none is {dict(pattern)}: check its values"
    for number, extra in enumerate(config.include):
        if RUN in extra and extra[RUN] not in config.runs:
            yield f"`include.{number}.run` must be one of `runs` ({', '.join(config.runs)}), got {extra[RUN]!r}"


def _value_name_faults(config: SweepConfig) -> Iterator[str]:
    for axis, named in config.variants.items():
        yield from name_faults(named, f"variants.{axis}")


def _point(config: SweepConfig, run: str, values: Sequence[Value], short: Mapping[str, str]) -> Point:
    changes: dict[str, Any] = {}
    parts = {}
    for value, axis in zip(values, short, strict=True):
        changes |= value.changes
        parts[axis] = value.name if axis in config.variants else f"{short[axis]}={value.name}"
    arm = _name([run, *(part for axis, part in parts.items() if axis != "seed")], config)
    return Point(_name([run, *parts.values()], config), run, changes, arm)


def _included(run: str, extra: Mapping[str, Any], axes: Mapping[str, list[Value]], config: SweepConfig) -> Point:
    # by the names that the same keys have in the grid
    short = short_names([*dict.fromkeys([*axes, *(key for key in extra if key != RUN)])])
    changes: dict[str, Any] = {}
    parts: dict[str, str] = {}
    for key, value in extra.items():
        named = next((one for one in axes.get(key, ()) if key in config.variants and one.shown == value), None)
        changes |= named.changes if named else {} if key == RUN else {key: value}
        parts |= {} if key == RUN else {key: named.name if named else f"{short[key]}={value}"}
    arm = _name([run, *(part for key, part in parts.items() if key != "seed")], config)
    return Point(_name([run, *parts.values()], config), run, changes, arm)


def _name(parts: Sequence[str], config: SweepConfig) -> str:
    return re.sub(r"[^\w.=+-]", "_", "-".join(part for part in parts if part)) or config.name
