"""What an evaluation prints: each set's metrics with their intervals, beside those on noise images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.runs.progress import shown

if TYPE_CHECKING:
    from datamodules.benchmarks import Benchmark


def print_metrics(name: str, metrics: list[dict[str, Any]], sets: Mapping[str, Benchmark]) -> None:
    """A table for each set: the main metric of every group, and all metrics of all items.

    Args:
        name: of the scorer.
        metrics: rows of `metrics.csv`.
        sets: by name.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from datamodules.benchmarks import MetricName, main_metric

    for key, benchmark in sets.items():
        own = [row for row in metrics if row["set"] == key]
        main = main_metric(benchmark, [MetricName(row["metric"], row["group"]) for row in own])
        table = Table(title=Text(shown(f"{name}, {key}: [95 % interval], and on noise images")))
        for heading in ("metric", "group", "value", "blind", "items"):
            table.add_column(heading, justify="left" if heading in ("metric", "group") else "right")
        for row in own:
            # the main metric of all groups; others of the whole set
            if row["metric"] == main.metric or not row["group"]:
                cells = (_interval(row, ""), _interval(row, "blind_"), str(row["count"]))
                table.add_row(row["metric"], Text(shown(row["group"])), *cells)
        Console().print(table)


def _interval(row: Mapping[str, Any], prefix: str) -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("value", "low", "high"))
    if value is None:
        return ""
    # a single image has no interval
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
