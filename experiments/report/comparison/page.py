"""The comparison as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from datamodules.benchmarks import MetricName
from experiments.report.comparison.content import Comparison
from experiments.report.comparison.panels import REFERENCE, Panel, Row
from experiments.report.comparison.plots import MOST_BESIDE, curves_plot, panel_plot
from experiments.report.comparison.tables import label
from experiments.report.page import template_environment
from experiments.report.plots import audits_plot, look

NGRAMS_SHOWN = 10
WORDS = re.compile(r"[^-_/]*[-_/]+|[^-_/]+")
COLUMNS_SHOWN = 16
FAILED_OPEN = 3
"""Failed runs whose last lines are seen at once; of more they are unfolded."""


def render_page(comparison: Comparison) -> str:
    """The page as HTML: plots and images inside, nothing fetched from anywhere."""
    environment = template_environment()
    environment.filters |= {"outcome": outcome, "label": label, "breakable": breakable}
    looks = {place.run: look(position) for position, place in enumerate(comparison.board.places)}
    of_runs = {run.name: looks[entry.name] for entry in comparison.entries for run in entry.runs}
    return environment.get_template("comparison.html").render(
        c=comparison,
        looks=looks,
        names=comparison.short,
        legend={comparison.short[run]: style for run, style in looks.items()},
        # what lies beside in files is not lost: a page of hundreds of columns would be
        columns_shown=COLUMNS_SHOWN,
        most_beside=MOST_BESIDE,
        failed_open=FAILED_OPEN,
        views=[_view(panel, comparison) for panel in comparison.panels],
        panel_plot=lambda panel: panel_plot(panel, comparison.short, looks),
        curves=curves_plot(comparison.runs, of_runs),
        audits_plot=audits_plot(comparison.audits) if comparison.audits else None,
        ngrams_shown=NGRAMS_SHOWN,
    )


def _view(panel: Panel, comparison: Comparison) -> dict[str, Any]:
    """One set's columns, and its differences by entry and column."""
    columns = [column for column in panel.columns if column.metric == panel.main.metric]
    differences = [row for row in panel.differences if row["against"] == REFERENCE]
    return {
        "panel": panel,
        "columns": columns,
        # other metrics of all items; those of groups lie in the file
        "others": [column for column in panel.columns if column not in columns and column.group == ""],
        "differences": _by_entry(differences),
        "names": [name for name in comparison.short if name in panel.entries],
    }


def _by_entry(rows: Sequence[Row]) -> Mapping[str, Mapping[MetricName, Row]]:
    cells: dict[str, dict[MetricName, Row]] = {}
    for row in rows:
        cells.setdefault(row["run"], {})[MetricName(row["metric"], row["group"])] = row
    return cells


def breakable(name: str) -> Markup:
    """A name, escaped, that a browser may break behind its signs.

    >>> str(breakable("a_b/<c>"))
    'a_<wbr>b/<wbr>&lt;c&gt;'
    """
    return Markup("<wbr>").join(escape(part) for part in WORDS.findall(name))


def outcome(row: Row) -> str:
    """What a difference allows to say, in a word.

    >>> outcome({"tied": False, "difference": 0.1}), outcome({"tied": True, "difference": 0.1})
    ('better', 'tied')
    """
    # what Holm's correction leaves open decides nothing, whatever the difference
    return "tied" if row["tied"] or not row["difference"] else "better" if row["difference"] > 0 else "worse"
