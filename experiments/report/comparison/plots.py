"""Plots of a comparison: a set's main metric beside its blind control, and learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.benchmarks import MEAN, PROTOCOLS, MetricName, main_metric
from experiments.report.comparison.panels import Panel, Row
from experiments.report.comparison.reading.evaluated import EvaluatedRun
from experiments.report.negative_types import types_in_order
from experiments.report.plots import INK, PANEL_HEIGHT, ROW_WIDTH, STYLE, Look, as_svg
from experiments.runs.progress import shown

MOST_BESIDE = 6
"""Scorers that stand beside each other in every group; more of them get a row each."""
MOST_GROUPS = 12
POINTS = 400  # of a learning curve, at most


def panel_plot(panel: Panel, names: Mapping[str, str], looks: Mapping[str, Look]) -> Markup:
    """The main metric of each entry, filled, beside its blind control, hollow, with 95 % intervals.

    Up to six entries are shown in each of several groups; otherwise each has a row with the main metric.

    Args:
        panel: one set.
        names: entry -> its short name, in the order of the rows.
        looks: entry -> look.
    """
    columns = [column for column in panel.columns if column.metric == panel.main.metric]
    there = [name for name in names if name in panel.entries]
    with matplotlib.rc_context(STYLE):
        if len(there) > MOST_BESIDE or not 1 < len(columns) <= MOST_GROUPS:
            return as_svg(_rows_figure(panel, {name: names[name] for name in there}, looks))
        return as_svg(_groups_figure(panel, columns, there, looks))


def _groups_figure(
    panel: Panel, columns: Sequence[MetricName], there: Sequence[str], looks: Mapping[str, Look]
) -> Figure:
    figure = Figure(figsize=(ROW_WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    # entries stand beside each other within a group, closer where there are many
    step = min(0.13, 0.8 / len(there))
    for position, name in enumerate(there):
        for place, column in enumerate(columns):
            x = place + (position - (len(there) - 1) / 2) * step
            row = panel.entries[name].get(column)
            _point(axes, x - step * 0.14, row, "blind_", looks[name], vertical=True)
            _point(axes, x + step * 0.14, row, "", looks[name], vertical=True)
    axes.set_xticks(range(len(columns)), labels=[shown(column.group or "all items") for column in columns])
    # names of many groups would run into each other
    if len(columns) > 7:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylabel(panel.main.metric)
    axes.set_ylim(
        *_limits(
            [panel.entries[name][column] for name in there for column in columns if column in panel.entries[name]],
            panel.chance,
        )
    )
    _chance(axes, panel.chance, vertical=True)
    return figure


def _rows_figure(panel: Panel, names: Mapping[str, str], looks: Mapping[str, Look]) -> Figure:
    figure = Figure(figsize=(ROW_WIDTH, 0.9 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = [panel.entries[name][panel.main] for name in names]
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        _point(axes, place + 0.12, row, "blind_", looks[name], vertical=False)
        _point(axes, place - 0.12, row, "", looks[name], vertical=False)
    axes.set_yticks(range(len(names)), labels=list(names.values()))
    # upside down: the first stands on top
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(*_limits(rows, panel.chance))
    axes.set_xlabel(f"{panel.main.metric}, {panel.main.group}" if panel.main.group else panel.main.metric)
    _chance(axes, panel.chance, vertical=False)
    return figure


def curves_plot(runs: Sequence[EvaluatedRun], looks: Mapping[str, Look]) -> Markup | None:
    """Training loss and what was validated against the step, a panel for each; None where nothing was logged."""
    logged = {metric for run in runs for metric in run.curves}
    losses: dict[str, float | None] = {metric: None for metric in logged if metric == "train/loss/value"}
    mains = {name: main_metric(found, found.measured.rows).logged for run in runs for name, found in run.sets.items()}
    metrics = losses | validation_metrics(logged, mains)
    if not metrics:
        return None
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(ROW_WIDTH, PANEL_HEIGHT * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, metric in zip(panels, metrics, strict=False):
            for run in runs:
                _curve(axes, run.curves.get(metric, {}), looks[run.name])
            axes.set_title(metric, fontsize=10.5)
            axes.set_xlabel("step")
            _chance(axes, metrics[metric], vertical=True)
        for axes in panels[len(metrics) :]:
            axes.set_axis_off()
        return as_svg(figure)


def validation_metrics(logged: Iterable[str], evaluated: Mapping[str, str]) -> dict[str, float | None]:
    """What stands for each negative type and each benchmark that was validated -> its value by chance, where known.

    Args:
        logged: names of metrics.
        evaluated: set -> its main metric, as a training logs it, of the sets that were evaluated too. Of others nobody
            says which benchmark they are: there it is the main metric of a protocol.

    >>> logged = ["val/mean/accuracy", "val/swap_obj/accuracy", "val/own/mean_group", "val/own/group", "val/own/image"]
    >>> list(validation_metrics(logged, {})), list(validation_metrics(logged, {"own": "image"}))[2:]
    (['val/mean/accuracy', 'val/swap_obj/accuracy', 'val/own/mean_group'], ['val/own/image'])
    """
    of_set: dict[str, set[str]] = {}
    for metric in logged:
        stage, *parts = metric.split("/", 2)
        if stage == "val" and len(parts) == 2:
            of_set.setdefault(parts[0], set()).add(parts[1])
    mains = [row.main for row in PROTOCOLS.values()]
    # `labels` has an accuracy beside its main metric, so that of pairs comes last
    mains.sort(key=lambda main: main == PROTOCOLS["pairs"].main)
    names = [name for main in mains for name in (f"{MEAN}_{main}", main)]
    found = {
        key: next((name for name in (evaluated.get(key), *names) if name in own), None) for key, own in of_set.items()
    }
    # a benchmark always has more than an accuracy
    types = types_in_order([key for key, own in of_set.items() if own == {"accuracy"}])
    # the mean before its parts; a positive against one negative is right by chance in one half
    chances = {f"val/{key}/accuracy": 0.5 for key in (*types[-1:], *types[:-1])}
    others = [f"val/{key}/{name}" for key, name in sorted(found.items()) if name is not None and key not in types]
    return {**chances, **dict.fromkeys(others)}


def _curve(axes: Axes, points: Mapping[int, float], style: Look) -> None:
    # a page holds many curves: 10,000 points of each would be megabytes
    every = max(1, len(points) // POINTS)
    steps, values = list(points)[::every], list(points.values())[::every]
    marks = max(1, len(steps) // 8)
    axes.plot(steps, values, style.marker, ls="-", color=style.colour, linewidth=1.4, markersize=3.5, markevery=marks)


def _point(axes: Axes, place: float, row: Row | None, prefix: str, style: Look, *, vertical: bool) -> None:
    if row is None or row[f"{prefix}value"] is None:
        return
    value, low, high = row[f"{prefix}value"], row[f"{prefix}low"], row[f"{prefix}high"]
    error = None if low is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
    look: dict[str, Any] = {
        **{"fmt": style.marker, "color": style.colour, "markersize": 5.5, "alpha": 0.85 if prefix else 1.0},
        **{"markerfacecolor": "none" if prefix else style.colour, "linewidth": 0.9 if prefix else 1.6},
    }
    if vertical:
        axes.errorbar(place, value, yerr=error, **look)
    else:
        axes.errorbar(value, place, xerr=error, **look)


def _limits(rows: Sequence[Row], chance: float | None) -> tuple[float, float]:
    """What is shown of the axis: all intervals, and chance even where all entries are good."""
    names = ("value", "low", "high", "blind_value", "blind_low", "blind_high")
    ends = [row[name] for row in rows for name in names if row[name] is not None]
    ends += [] if chance is None else [chance]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = max(0.03, 0.06 * (high - low))
    return low - margin, high + margin


def _chance(axes: Axes, chance: float | None, *, vertical: bool) -> None:
    if chance is not None:
        draw = axes.axhline if vertical else axes.axvline
        draw(chance, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
    axes.grid(axis="y" if vertical else "x", color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
