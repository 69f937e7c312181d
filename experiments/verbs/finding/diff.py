"""`itm diff`: what differs between runs: settings, versions, and metrics side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.finding.columns import printable, short_folders
from experiments.finding.metrics import Measured, lower_is_better, read_object
from experiments.finding.run_info import RunInfo, best_of, read_info
from experiments.finding.settings import DiffConfig
from experiments.runs.progress import say
from experiments.runs.train_images import TRAIN_IMAGES_FILE
from experiments.verbs.finding.runs import value
from lightning_modules import LAST
from lightning_modules.scoring import BASE_FILE
from negatives.tables import DAMAGED, InputError, read_parquet


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
    sources = [trained_on(one.folder) for one in runs]
    data = {key: [_text(of, key) for of in sources] for key in _keys(sources)}
    measured = [_metrics(one) for one in runs]
    metrics = {name: [of.get(name, "") for of in measured] for name in _keys(measured)}
    metrics |= {"state": [one.state for one in runs]}
    _print("settings", settings, runs, whole=config.all)
    _print("versions", versions, runs, whole=config.all)
    _print("trained on", data, runs, whole=config.all)
    # numbers of two runs are of interest, equal or not
    _print("metrics", metrics, runs, whole=True)


def trained_on(folder: Path) -> dict[str, object]:
    """Fingerprints of the published weights that a run began with, and of its training images; {} where it has none."""
    found: dict[str, object] = {f"base.{key}": one for key, one in read_object(folder / BASE_FILE).items()}
    if not (record := folder / TRAIN_IMAGES_FILE).is_file():
        return found
    try:
        hashes = sorted(map(str, read_parquet(record)["content_hash"].to_pylist()))
    except DAMAGED:
        return {**found, "images": "damaged"}
    # of their contents: two data sets may both call an image "1"
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return {**found, "images": len(hashes), "images.content": digest}


def _metrics(run: RunInfo) -> dict[str, str]:
    """The best and the last value of each validation metric, and those of the evaluations of all its weights."""
    found: dict[str, str] = {}
    for name, points in run.validation.items():
        last = max(points)
        best = best_of([Measured(one, step=step) for step, one in points.items()], lowest=bool(lower_is_better(name)))
        found |= {f"{name} (best)": value(best), f"{name} (last)": value(Measured(points[last], step=last))}
    for weights, metrics in run.evaluations.items():
        which = "" if weights == LAST else f" ({weights})"
        found |= {f"{name}{which}": value(one) for name, one in metrics.items()}
    return found


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
    for heading in (title, *short_folders(runs)):
        table.add_column(Text(printable(heading)), overflow="fold")
    for key, cells in kept.items():
        table.add_row(*(Text(printable(text)) for text in (key, *cells)))
    Console().print(table)
    say("")
