"""The comparison as one self-contained HTML page.

Captions, names and n-grams come from data files that anyone may have written: Jinja escapes all of them, and the page's
own policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report.audits import LabelledAudit
from experiments.report.examples import Example
from experiments.report.metric_rows import Row, overlap_lines, types_in_order
from experiments.report.plots import accuracy_plot, audits_plot, curves_plot, look
from experiments.report.read_runs import EvaluatedRun

NGRAMS_SHOWN = 10


@dataclass(frozen=True)
class Comparison:
    """All that a page shows."""

    title: str
    note: str
    runs: Sequence[EvaluatedRun]
    reference: str
    rows: Sequence[Row]
    seeds: Sequence[Row]
    differences: Sequence[Row]
    audits: Sequence[LabelledAudit]
    examples_set: str
    examples: Sequence[Example]


def render_page(comparison: Comparison) -> str:
    """The page as HTML: plots and images inside, nothing fetched from anywhere."""
    environment = template_environment()
    environment.filters |= {"verdict": verdict}
    looks = {run.name: look(position) for position, run in enumerate(comparison.runs)}
    return environment.get_template("page.html").render(
        c=comparison,
        looks=looks,
        # in the order of the rows: sets that all runs have come first
        sets=[_set_view(name, comparison) for name in dict.fromkeys(row["set"] for row in comparison.rows)],
        accuracy_plot=lambda rows: accuracy_plot(rows, looks),
        curves=curves_plot(comparison.runs, looks),
        audits_plot=audits_plot(comparison.audits) if comparison.audits else None,
        ngrams_shown=NGRAMS_SHOWN,
    )


def template_environment() -> Environment:
    """Templates of this folder, with everything that they show escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name in a template is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "share": share, "spaced": spaced}
    return environment


def _set_view(name: str, comparison: Comparison) -> dict[str, Any]:
    """One set's rows, by run and negative type, the mean first."""
    rows = [row for row in comparison.rows if row["set"] == name]
    types = types_in_order([row["negative_type"] for row in rows])
    return {
        "name": name,
        "rows": rows,
        # "mean" is last in order, and first to read
        "types": [*types[-1:], *types[:-1]],
        "cells": _by_run(rows),
        "overlaps": overlap_lines(rows, name),
        "seeds": _by_run([row for row in comparison.seeds if row["set"] == name], "method"),
        "differences": _by_run([row for row in comparison.differences if row["set"] == name]),
    }


def _by_run(rows: Sequence[Row], name_column: str = "run") -> dict[str, dict[str, Row]]:
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        cells.setdefault(row[name_column], {})[row["negative_type"]] = row
    return cells


def number(value: float, digits: int = 3) -> str:
    """A value as the page writes it.

    >>> number(0.98765), number(2)
    ('0.988', '2.000')
    """
    return f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference as the page writes it, with a sign as wide as the plus.

    >>> signed(0.1), signed(-0.0254), signed(0.0)
    ('+0.100', '−0.025', '0.000')
    """
    # rounded first: -0.0002 is shown as 0.000, without a sign
    rounded = round(value, 3)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.3f}"


def share(part: int, whole: int) -> str:
    """A part in percent.

    >>> share(1, 8), share(1, 800), share(1, 100_000), share(0, 0)
    ('12.5 %', '0.1 %', '< 0.1 %', '–')
    """
    if not whole:
        return "–"
    return "< 0.1 %" if 0 < 1000 * part < whole else f"{100 * part / whole:.1f} %"


def spaced(count: int) -> str:
    """A count with commas.

    >>> spaced(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def verdict(row: Row) -> str:
    """What a difference's interval allows to say, in a word.

    >>> verdict({"low": 0.01, "high": 0.2}), verdict({"low": -0.1, "high": 0.2})
    ('better', 'unclear')
    """
    # an interval that holds 0 decides nothing, whatever its middle says
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "unclear"
