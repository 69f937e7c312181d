"""Plots of a certificate: what learners get on each group of pairs, and what rules keep against what that teaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.plots import COLOURS, INK, ROW_WIDTH, STYLE, Look, as_svg, look
from negatives.filtering import CHOSEN, FrontierPoint, Lesson

BAND = COLOURS[7]


def lessons_plot(
    lessons: Sequence[Lesson], missed: Sequence[bool], looks: Mapping[str, Look], tolerances: Mapping[str, float]
) -> Markup:
    """The interval of each learner on each group, a row for each group, against a coin and what is tolerated.

    Args:
        lessons: of all learners and groups.
        missed: whether each is a miss, which is drawn filled; the others are pale.
        looks: name of a learner, as `name_of` has it -> look.
        tolerances: group -> tolerance; their order is the rows'.
    """
    groups, names = list(tolerances), list(looks)
    step = 0.8 / len(names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(ROW_WIDTH, 0.8 + len(groups) * max(0.34, 0.08 * len(names))), layout="constrained")
        axes = figure.subplots()
        for place, allowed in enumerate(tolerances.values()):
            axes.barh(place, 2 * allowed, left=0.5 - allowed, height=0.94, color=BAND, alpha=0.16, linewidth=0)
        for one, miss in zip(lessons, missed, strict=True):
            style = looks[name_of(one)]
            y = groups.index(one.group) + (names.index(name_of(one)) - (len(names) - 1) / 2) * step
            # the same learner, trained on everything: where it comes from
            axes.plot(one.everything, y, "|", color=style.colour, alpha=0.7, markersize=7)
            if one.count:
                _interval(axes, one, y, style, filled=miss)
        axes.set_yticks(range(len(groups)), labels=groups)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        _coin(axes.axvline)
        axes.set_xlabel("share of untouched pairs whose positive is picked")
        return as_svg(figure)


def name_of(lesson: Lesson) -> str:
    """A learner as the page names it."""
    return f"{lesson.learner.judge}, of {lesson.learner.reads}s"


def frontier_plot(points: Sequence[FrontierPoint], looks: Mapping[str, Look], tolerance: float) -> Markup:
    """What each rule teaches against the share of the pairs that it keeps, a line for each rule.

    Args:
        points: of all rules, and of the procedure.
        looks: rule -> look, for every rule among the points.
        tolerance: over all pairs.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(ROW_WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(0.5 - tolerance, 0.5 + tolerance, color=BAND, alpha=0.16, linewidth=0)
        for rule, style in looks.items():
            _lines(axes, [point for point in points if point.rule == rule], style)
        _coin(axes.axhline)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=["0", "20 %", "40 %", "60 %", "80 %", "100 %"])
        axes.set_xlabel("share of the pairs that is kept")
        axes.set_ylabel("untouched pairs, positive picked")
        return as_svg(figure)


def rule_looks(points: Sequence[FrontierPoint]) -> dict[str, Look]:
    """Rule -> look, in the order of the points; the chosen procedure is a star, last and on top of the others."""
    rules = list(dict.fromkeys(point.rule for point in points))
    looks = {rule: look(position) for position, rule in enumerate(rule for rule in rules if rule != CHOSEN)}
    return looks | ({CHOSEN: Look(INK, "*", "★")} if CHOSEN in rules else {})


def _lines(axes: Axes, points: Sequence[FrontierPoint], style: Look) -> None:
    """A rule's two lines: its furthest type, light, and all pairs with their intervals."""
    points = sorted(points, key=lambda point: point.pairs)
    kept = [point.pairs for point in points]
    size = 13.0 if style.marker == "*" else 5.5
    axes.plot(
        kept, [point.furthest_value for point in points], style.marker, ls=(0, (2, 2)), color=style.colour, alpha=0.55,
        markerfacecolor="none", markersize=0.8 * size, linewidth=1,
    )  # fmt: skip
    # a percentile interval may miss its value by the last digits, and a bar has no negative length
    ends = [(max(0.0, point.value - point.low), max(0.0, point.high - point.value)) for point in points]
    axes.errorbar(
        kept, [point.value for point in points], yerr=list(zip(*ends, strict=True)), fmt=style.marker, ls="-",
        color=style.colour, markersize=size, linewidth=1.6, elinewidth=1, zorder=4 if style.marker == "*" else 3,
    )  # fmt: skip


def _interval(axes: Axes, one: Lesson, y: float, style: Look, *, filled: bool) -> None:
    axes.errorbar(
        one.value,
        y,
        xerr=[[max(0.0, one.value - one.low)], [max(0.0, one.high - one.value)]],
        fmt=style.marker,
        color=style.colour,
        markerfacecolor=style.colour if filled else "none",
        markersize=5,
        markeredgewidth=0.9,
        linewidth=1.2,
        # a line through a small hollow mark would pass for a filled one
        alpha=1.0 if filled else 0.5,
    )


def _coin(line: Any) -> None:
    line(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
