"""`itm runs`: the runs in a folder, with what differs between them, their state, and how good they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments.finding.columns import (
    best_value,
    find_columns,
    is_path,
    printable,
    short_folders,
    sorted_runs,
    value_in,
)
from experiments.finding.metrics import Measured
from experiments.finding.run_info import RunInfo, differing, find_runs, metric_names, usual_metric
from experiments.finding.settings import RunsConfig
from experiments.report.csv_files import csv_text
from experiments.runs.progress import say, shown
from experiments.sweeping.short_names import short_names
from negatives.tables import InputError, nearest_name

if TYPE_CHECKING:
    from rich.table import Table

WIDEST, WIDEST_TABLE = 24, 10_000
"""Characters of a cell, and of a table that nobody sees; csv and json have all."""
SETTINGS = "settings"
"""The column of all that differs, where columns of its own have no room; of that as many as `MOST_SETTINGS`."""
MOST_SETTINGS = 12


def run(config: RunsConfig) -> None:
    """Prints the runs.

    Raises:
        InputError: a folder is not there, or no run has the metric or key that is asked for.
    """
    runs = find_runs(config.folders)
    if not runs and config.format == "table":
        say(f"No runs in {', '.join(config.folders)}.")
        return
    metric = chosen_metric(runs, config.metric)
    keys = find_columns(config.columns, runs) if config.columns is not None else differing(runs)
    runs = sorted_runs(runs, config.sort, metric)
    if config.format == "json":
        print(json.dumps([_record(one, keys, metric) for one in runs[: config.limit]], indent=1, default=str))
    elif config.format == "csv":
        records = [_record(one, keys, metric) for one in runs[: config.limit]]
        text = csv_text(list(records[0]) if records else ["folder"], records)
        sys.stdout.write(shown(text).encode(errors="replace").decode())
    else:
        _print_table(runs[: config.limit], keys, metric, wanted=config.columns is not None)
        if len(runs) > config.limit:
            say(f"{len(runs) - config.limit} more; limit={len(runs)} shows all.")


def chosen_metric(runs: list[RunInfo], asked: str | None) -> str | None:
    """The metric that is asked for, or the usual one; None where the runs have none yet.

    Raises:
        InputError: no run has the one that is asked for.
    """
    if asked is None:
        return usual_metric(runs)
    names = metric_names(runs)
    if asked not in names:
        there = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"
        raise InputError(
            f"`metric` must be one that a run has ({shown(there)}), got {asked!r}."
            f"{nearest_name(asked, names) or ' See metrics.csv of an evaluation.'}"
        )
    return asked


def _record(one: RunInfo, keys: list[str], metric: str | None) -> dict[str, Any]:
    found = best_value(one, metric)
    own = {"folder": str(one.folder), "name": one.name, **{key: value_in(one, key) for key in keys}}
    own |= {"state": one.state, "step": one.step, "metric": metric, "value": None if found is None else found.value}
    own |= {"low": None if found is None else found.low, "high": None if found is None else found.high}
    return own | {"age_seconds": round(one.age)}


def _print_table(runs: list[RunInfo], keys: list[str], metric: str | None, *, wanted: bool) -> None:
    """Prints a column for each key where the terminal has room for them, or they are `wanted`; else one for all."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    table = _table(runs, keys, metric)
    # measured in a wide console: no measurement is wider than its own
    wide = Measurement.get(console, console.options.update(width=WIDEST_TABLE), table).maximum > console.width
    if metric is not None:
        say(printable(metric))
    console.print(_table(runs, keys, metric, together=True) if wide and not wanted else table)


def _table(runs: list[RunInfo], keys: list[str], metric: str | None, *, together: bool = False) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    short = short_names(keys)
    middle = [SETTINGS] if together else [*short.values()]
    for heading in ("run", *middle, "state", "value", "age"):
        is_text = heading in ("run", "state", SETTINGS)
        # a number that is broken is misread
        whole = heading in ("value", "age")
        table.add_column(
            Text(printable(heading)), justify="left" if is_text else "right", overflow="fold", no_wrap=whole
        )
    for one, folder in zip(runs, short_folders(runs), strict=True):
        cells = [" ".join(_settings(one, short))] if together else [_cell(one, key) for key in keys]
        found = best_value(one, metric)
        # intervals have no room beside settings
        number = f"{found.value:.3f}" if together and found is not None else value(found)
        cells = [folder, *cells, state(one), number, age(one.age)]
        table.add_row(*(Text(printable(text)) for text in cells))
    return table


def _cell(one: RunInfo, column: str) -> str:
    found = value_in(one, column)
    # of metrics a table has three digits
    return f"{found:.3f}" if "/" in column and found is not None else cell(found)


def _settings(one: RunInfo, short: dict[str, str]) -> Iterator[str]:
    """What differs, as words: paths, which differ between any two folders, only where nothing else does."""
    keys = [key for key in short if key in one.settings]
    telling = [key for key in keys if not is_path(one.settings[key])] or keys
    yield from (f"{short[key]}={cell(one.settings[key])}" for key in telling[:MOST_SETTINGS])
    if more := len(keys) - len(telling[:MOST_SETTINGS]):
        yield f"and {more} more"


def cell(setting: Any) -> str:
    """A setting in a table: short, and nothing for what is not set.

    >>> cell(0.0001), cell(None), cell([1, 2]), cell("x" * 30), cell("scenes/filter/verdicts.parquet")
    ('0.0001', '', '[1, 2]', 'xxxxxxxxxxxxxxxxxxxxxxx…', '…filter/verdicts.parquet')
    """
    text = "" if setting is None else str(setting)
    if len(text) <= WIDEST:
        return text
    return f"…{text[1 - WIDEST :]}" if is_path(setting) else f"{text[: WIDEST - 1]}…"


def state(one: RunInfo) -> str:
    """A run's state, with the step that it has reached where it goes on from there."""
    if one.state not in ("training", "stopped") or one.step is None:
        return one.state
    steps = one.settings.get("trainer.max_steps")
    return f"{one.state}, step {one.step + 1}" + (f" of {steps}" if isinstance(steps, int) and steps > 0 else "")


def value(found: Measured | None) -> str:
    """A metric with its interval, or the step of the validation that it is of."""
    if found is None:
        return ""
    if found.low is not None and found.high is not None:
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}" + (f" at {found.step + 1}" if found.step is not None else "")


def age(seconds: float) -> str:
    """An age in one unit.

    >>> age(40), age(4000), age(400_000)
    ('40 s', '66 min', '4 d')
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds // 86_400)} d"
