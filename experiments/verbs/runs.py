"""`itm runs`: the runs in a folder, with what differs between them, their state, and how good they are."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any

from experiments.finding.metrics import Measured
from experiments.finding.run_info import RunInfo, differing, find_runs, metric_names, usual_metric
from experiments.finding.settings import RunsConfig
from experiments.runs.progress import say, shown
from experiments.sweeping.short_names import short_names
from negatives.tables import InputError, nearest_name

WIDEST = 24
"""Characters of a cell of a table; csv and json have all."""


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
    keys = config.columns if config.columns is not None else differing(runs)
    for key in config.columns or ():
        _check_key(key, runs)
    runs = sorted_runs(runs, config.sort, metric)
    if config.format == "json":
        print(json.dumps([_record(one, keys, metric) for one in runs[: config.limit]], indent=1, default=str))
    elif config.format == "csv":
        records = [_record(one, keys, metric) for one in runs[: config.limit]]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]) if records else ["folder"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        sys.stdout.write(shown(text.getvalue()))
    else:
        _print_table(runs[: config.limit], keys, metric)
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


def sorted_runs(runs: list[RunInfo], by: str, metric: str | None) -> list[RunInfo]:
    """The runs in an order that `RunsConfig.sort` names; those without a value last.

    Raises:
        InputError: no run has such a key.
    """
    name, down = by.removeprefix("-"), by.startswith("-")

    def value(one: RunInfo) -> Any:
        if name == "metric":
            found = one.metric(metric) if metric is not None else None
            return None if found is None else found.value
        own = {"folder": str(one.folder), "age": one.age, "state": one.state}
        return own[name] if name in own else one.settings.get(name)

    if name not in ("metric", "folder", "age", "state"):
        _check_key(name, runs)
    known = [one for one in runs if value(one) is not None]
    # numbers by their size, before what is none
    known.sort(key=lambda one: _order(value(one)), reverse=down)
    return [*known, *(one for one in runs if value(one) is None)]


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, "" if number else str(value))


def _check_key(key: str, runs: list[RunInfo]) -> None:
    keys = list(dict.fromkeys(key for one in runs for key in one.settings))
    if key not in keys:
        raise InputError(f"no run has the key {key!r}.{nearest_name(key, keys) or ' See config.yaml of a run.'}")


def _record(one: RunInfo, keys: list[str], metric: str | None) -> dict[str, Any]:
    found = one.metric(metric) if metric is not None else None
    own = {"folder": str(one.folder), "name": one.name, **{key: one.settings.get(key) for key in keys}}
    own |= {"state": one.state, "step": one.step, "metric": metric, "value": None if found is None else found.value}
    own |= {"low": None if found is None else found.low, "high": None if found is None else found.high}
    return own | {"age_seconds": round(one.age)}


def _print_table(runs: list[RunInfo], keys: list[str], metric: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    short = short_names(keys)
    headings = ["run", *short.values(), "state", "value", "age"]
    for heading in headings:
        is_text = heading in ("run", "state")
        table.add_column(Text(heading), justify="left" if is_text else "right", overflow="fold")
    for one in runs:
        found = one.metric(metric) if metric is not None else None
        cells = [one.name, *(cell(one.settings.get(key)) for key in keys), state(one), value(found), age(one.age)]
        table.add_row(*(Text(shown(text)) for text in cells))
    if metric is not None:
        say(metric)
    Console().print(table)


def cell(setting: Any) -> str:
    """A setting in a table: short, and nothing for what is not set.

    >>> cell(0.0001), cell(None), cell([1, 2]), cell("x" * 30)
    ('0.0001', '', '[1, 2]', 'xxxxxxxxxxxxxxxxxxxxxxx…')
    """
    text = "" if setting is None else str(setting)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


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
