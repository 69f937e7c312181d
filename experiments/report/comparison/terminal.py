"""The comparison in a terminal of 80 columns: a leaderboard, and a table of each set whose columns are its lines."""

from __future__ import annotations

import math
import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.report.comparison.content import Comparison
from experiments.report.comparison.leaderboard import Place
from experiments.report.comparison.panels import Panel
from experiments.report.comparison.tables import label
from experiments.runs.progress import say, shown

WIDTH = 80
COLUMNS, ROWS = 12, 16
"""Scorers, and groups of a set, that fit."""


def print_comparison(comparison: Comparison) -> None:
    """The verdict, the leaderboard, and every set by group."""
    # a pipe has no width of its own, and a wide terminal needs no wider table
    console = Console(width=min(Console().width, WIDTH))

    def tell(sentence: str) -> None:
        say(textwrap.fill(sentence, console.width, break_long_words=False, break_on_hyphens=False))

    tell(comparison.verdict)
    if comparison.missing:
        tell(comparison.not_compared)
    for name, why in comparison.failed.items():
        tell(f"{name}: {why.strip().splitlines()[-1].strip()}")
    if comparison.stand_in:
        tell(comparison.stand_in)
    first, last = comparison.shared
    if first or last:
        ways = [f"begin with {first!r}"] * bool(first) + [f"end with {last!r}"] * bool(last)
        tell(f"All names {' and '.join(ways)}, which is left out.")
    console.print(_board(comparison))
    for panel in comparison.panels:
        chance = "" if panel.chance is None else f" (chance {panel.chance:.3g})"
        title = Text(shown(f"{panel.name}: {label(panel.main)}{chance}"), style="bold")
        console.print("", title, _panel(comparison, panel))
        for line in (*panel.notes, *panel.overlaps):
            tell(f"{panel.name}: {line}")
    if comparison.unknown:
        tell(comparison.unknown)


def _board(comparison: Comparison) -> Table:
    board = comparison.board
    value = f"mean of {len(board.sets)}" if len(board.sets) > 1 else "value"
    debiased = any(_halves(place) for place in board.places)
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False)
    for heading in ("#", "scorer", f"{value} [95 %]", "blind", *["debiased"] * debiased, "to best", ""):
        is_text = heading in ("scorer", "")
        # names are cut into lines where there is no room, numbers never
        table.add_column(Text(heading), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for number, place in enumerate(board.places, start=1):
        name = place.short + (f" x{place.seeds}" if place.seeds > 1 else "")
        difference = None if place.to_best is None else place.to_best["difference"]
        cells = [
            str(number),
            name,
            short(place.value) + ("" if math.isnan(place.low) else f" [{short(place.low)}, {short(place.high)}]"),
            "" if place.blind is None else short(place.blind[0]),
            *[_halves(place)] * debiased,
            "" if difference is None else f"{difference:+.3f}",
            "best" if place.to_best is None else "tied" if place.tied_with else "",
        ]
        table.add_row(*map(Text, map(shown, cells)))
    if debiased:
        table.caption = "debiased: on half of the images, as it is / without the blind score"
    return table


def _panel(comparison: Comparison, panel: Panel) -> Table:
    places = [(n, place) for n, place in enumerate(comparison.board.places, start=1) if place.run in panel.entries]
    columns = [column for column in panel.columns if column.metric == panel.main.metric]
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for number, _ in places[:COLUMNS]:
        table.add_column(f"#{number}", justify="right", no_wrap=True)
    for column in columns[:ROWS]:
        rows = [panel.entries[place.run].get(column) for _, place in places[:COLUMNS]]
        values = [short(None if row is None else row["value"]) for row in rows]
        group = shown(column.group or "all items")
        table.add_row(*map(Text, [group, *values]))
        if column == panel.main:
            blind = [short(None if row is None else row["blind_value"]) for row in rows]
            table.add_row(*map(Text, [f"{group}, blind", *blind]))
    left = [f"{len(columns) - ROWS} groups"] * (len(columns) > ROWS)
    left += [f"{len(places) - COLUMNS} scorers"] * (len(places) > COLUMNS)
    if left:
        table.caption = f"{' and '.join(left)} more in comparison.csv"
    return table


def _halves(place: Place) -> str:
    if place.half_value is None or place.debiased is None:
        return ""
    return f"{short(place.half_value)} / {short(place.debiased[0])}"


def short(value: float | None) -> str:
    """A value in four characters.

    >>> short(0.8124), short(1.0), short(-0.25), short(None), short(12.5)
    ('.812', '1.00', '-.25', '', '12.5')
    """
    if value is None:
        return ""
    if abs(value) >= 0.9995:
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:.3f}".replace("0.", ".", 1) if value >= 0 else f"{value:.2f}".replace("0.", ".", 1)
