"""The columns of a list of runs: what may be asked for, what stands in them, and the order of the rows by them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.finding.metrics import Measured, lower_is_better
from experiments.finding.run_info import RunInfo, differing, metric_names, natural
from experiments.runs.progress import shown
from negatives.tables import InputError, nearest_name, quoted

ORDERS = ("folder", "metric", "best", "age", "state")
"""What runs are sorted by beside their settings."""


def find_columns(words: Sequence[str], runs: Sequence[RunInfo]) -> list[str]:
    """The keys and metrics that words name; of a key its end is enough, as the table has it.

    Raises:
        InputError: no run has a key or metric of this name, or several keys end so.
    """
    keys = list(dict.fromkeys(key for one in runs for key in one.settings))
    return [_find_column(word, keys, runs) for word in words]


def _find_column(word: str, keys: Sequence[str], runs: Sequence[RunInfo]) -> str:
    # no key has a slash
    known = metric_names([*runs]) if "/" in word else keys
    if word in known:
        return word
    # what the table shows comes before keys that are the same in all runs
    for some in (differing([*runs]), keys):
        found = [key for key in some if key.endswith(f".{word}")]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{quoted(word)} must be one key, and may be {shown(', '.join(found[:5]))}.")
    what = "metric" if "/" in word else "key"
    raise InputError(
        f"no run has the {what} {quoted(word)}.{nearest_name(word, known) or ' See config.yaml of a run.'}"
    )


def best_value(run: RunInfo, metric: str | None) -> Measured | None:
    """What a list shows of a metric: of several values the best one, the highest where its name does not tell."""
    return None if metric is None else run.metric(metric, lowest=bool(lower_is_better(metric)))


def value_in(run: RunInfo, column: str) -> Any:
    """A setting, or the value of a metric; None where the run has none."""
    if "/" not in column:
        return run.settings.get(column)
    found = best_value(run, column)
    return None if found is None else found.value


def sorted_runs(runs: Sequence[RunInfo], by: str, metric: str | None) -> list[RunInfo]:
    """The runs in an order that `RunsConfig.sort` names; those without a value last.

    Raises:
        InputError: no run has such a key.
    """
    name, down = by.removeprefix("-"), by.startswith("-")
    if name == "best":
        # the best first, whichever these are
        name, down = "metric", down == bool(metric is not None and lower_is_better(metric))
    column = name if name in ORDERS else find_columns([name], runs)[0]

    def value(one: RunInfo) -> Any:
        if column == "metric":
            found = best_value(one, metric)
            return None if found is None else found.value
        own = {"folder": str(one.folder), "age": one.age, "state": one.state}
        return own[column] if column in own else value_in(one, column)

    known = [one for one in runs if value(one) is not None]
    known.sort(key=lambda one: _order(value(one)), reverse=down)
    return [*known, *(one for one in runs if value(one) is None)]


def _order(value: Any) -> tuple[Any, ...]:
    # numbers by their size, before what is none
    return (0, value, []) if isinstance(value, int | float) else (1, 0, natural(str(value)))


def short_folders(runs: Sequence[RunInfo]) -> list[str]:
    """The folders of runs, from the one that all of them lie in."""
    folders = [one.folder.absolute() for one in runs]
    common = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    return [os.path.relpath(folder, common) for folder in folders]


def printable(text: str) -> str:
    r"""A text on one line, without orders to a terminal, or halves of letters, as in a name that is no UTF-8.

    >>> printable("a\x1b[31m\nb\udcff")
    'a\ufffd[31m b?'
    """
    return " ".join(shown(text).encode(errors="replace").decode().split())


def is_path(value: Any) -> bool:
    """Whether a setting looks like a path, of which its end says most."""
    return isinstance(value, str) and len(Path(value).parts) > 1
