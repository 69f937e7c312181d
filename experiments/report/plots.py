"""Plots as inline SVG: no file, no script, no request, colours that follow the page's light or dark scheme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.audits import METRIC_NAMES, LabelledAudit
from negatives.judging import Estimate

INK = "#0a0b0c"  # becomes `currentColor`, so that it must not be a colour that anything else uses
# Okabe and Ito, Color Universal Design, 2008; without yellow and black, which a light or a dark page swallows
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8a8a")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "itm",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a $ in a name is a dollar
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
ROW_WIDTH, PANEL_HEIGHT = 10.5, 2.6


class Look(NamedTuple):
    """How a run is drawn: colour, matplotlib's marker, and the same shape as a character for legends in the page."""

    colour: str
    marker: str
    glyph: str


def look(position: int) -> Look:
    """The look of the run at a position; colour and shape together repeat after 64 runs."""
    turn = len(COLOURS)
    # each turn shifts the colours by one, so that a shape meets every colour before a look repeats
    return Look(COLOURS[(position + position // turn) % turn], *MARKERS[position % turn])


def audits_plot(audits: Sequence[LabelledAudit]) -> Markup:
    """AUC of the text-only judges for each audit, and how often it picks the positive of a pair, with intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(ROW_WIDTH, 1.0 + 0.62 * len(audits)), layout="constrained")
        axes = figure.subplots()
        for position, audit in enumerate(audits):
            measured = [(audit.auc, -0.16, 0.85), *([(audit.paired, 0.16, 0.4)] if audit.paired else [])]
            for interval, offset, alpha in measured:
                y = position + offset
                error = [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
                axes.barh(y, interval.value, height=0.28, color=COLOURS[0], alpha=alpha)
                axes.errorbar(interval.value, y, xerr=error, color=INK, linewidth=1.2, capsize=2.5)
                axes.text(interval.high + 0.012, y, f"{interval.value:.3f}", va="center", fontsize=9.5)
        axes.set_yticks(range(len(audits)), labels=[audit.label for audit in audits])
        # upside down: the first audit stands on top
        axes.set_ylim(len(audits) - 0.5, -0.5)
        axes.set_xlim(0, 1.08)
        axes.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
        axes.set_xlabel("upper bar: AUC of single texts; lower bar: accuracy on pairs; dashed: chance")
        return as_svg(figure)


def estimates_plot(parts: Mapping[str, Sequence[Estimate]], looks: Mapping[str, Look]) -> Markup:
    """Both bias metrics by judge and negative type, a panel each, with intervals; the last part filled, others hollow.

    Args:
        parts: Part of the texts -> its estimates.
        looks: Judge -> look.
    """
    every = [estimate for estimates in parts.values() for estimate in estimates]
    types = list(dict.fromkeys(estimate.negative_type for estimate in every))
    present = {name: title for name, title in METRIC_NAMES.items() if any(e.metric == name for e in every)}
    rows = [(judge, part) for judge in looks for part in parts]
    step = 0.84 / len(rows)
    with matplotlib.rc_context(STYLE):
        height = 0.9 + len(types) * max(0.5, 0.13 * len(rows))
        figure = Figure(figsize=(ROW_WIDTH, height), layout="constrained")
        columns = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
        for axes, (metric, title) in zip(columns, present.items(), strict=True):
            for position, (judge, part) in enumerate(rows):
                for estimate in parts[part]:
                    if (estimate.metric, estimate.judge) == (metric, judge):
                        y = types.index(estimate.negative_type) + (position - (len(rows) - 1) / 2) * step
                        _estimate_point(axes, y, estimate, looks[judge], filled=part == list(parts)[-1])
            for border in range(1, len(types)):
                axes.axhline(border - 0.5, color=INK, alpha=0.12, linewidth=0.8)
            axes.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
            axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
            axes.set_xlabel(title)
        columns[0].set_yticks(range(len(types)), labels=types)
        columns[0].set_ylim(len(types) - 0.5, -0.5)
        return as_svg(figure)


def _estimate_point(axes: Axes, y: float, estimate: Estimate, style: Look, *, filled: bool) -> None:
    if math.isnan(estimate.value):
        return
    low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
    axes.errorbar(
        estimate.value,
        y,
        xerr=[[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]],
        fmt=style.marker,
        color=style.colour,
        markerfacecolor=style.colour if filled else "none",
        markersize=4.5,
        linewidth=1.4 if filled else 0.9,
    )


def as_svg(figure: Figure) -> Markup:
    """The figure without what belongs to files: prologue, metadata, fixed size, and ids that would repeat in a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # two figures in one page would share ids; the groups' ids are not referred to
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # without a size of its own it scales with the page, by its viewBox
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg)
    return Markup(svg.replace(INK, "currentColor"))  # matplotlib has escaped the names in it
