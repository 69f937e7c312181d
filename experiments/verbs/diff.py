"""`itm diff`: what differs between runs: settings, versions, and metrics side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.finding.run_info import RunInfo, metric_names, read_info
from experiments.finding.settings import DiffConfig
from experiments.runs.progress import say, shown
from experiments.verbs.runs import value
from negatives.tables import InputError


def run(config: DiffConfig) -> None:
    """Prints what differs.

    Raises:
        InputError: a folder is no run's.
    """
    runs = [read_info(Path(folder)) for folder in config.runs]
    for one in runs:
        if not one.settings:
            raise InputError(f"{one.folder} must be the folder of a run, and has no config.yaml that can be read.")
    settings = {key: [_text(one.settings, key) for one in runs] for key in _keys([one.settings for one in runs])}
    versions = {key: [_text(one.provenance, key) for one in runs] for key in _keys([one.provenance for one in runs])}
    metrics = {name: [value(one.metric(name)) for one in runs] for name in metric_names(runs)}
    metrics |= {"state": [one.state for one in runs]}
    _print("settings", settings, runs, whole=config.all)
    _print("versions", versions, runs, whole=config.all)
    # numbers of two runs are of interest, equal or not
    _print("metrics", metrics, runs, whole=True)


def _keys(mappings: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _text(mapping: Mapping[str, object], key: str) -> str:
    return "" if key not in mapping else "null" if mapping[key] is None else str(mapping[key])


def _print(title: str, rows: Mapping[str, Sequence[str]], runs: Sequence[RunInfo], *, whole: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = {key: cells for key, cells in rows.items() if whole or len(set(cells)) > 1}
    if not kept:
        say(f"{title}: no difference")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in (title, *(str(one.folder) for one in runs)):
        table.add_column(Text(shown(heading)), overflow="fold")
    for key, cells in kept.items():
        table.add_row(*(Text(shown(text)) for text in (key, *cells)))
    Console().print(table)
    say("")
