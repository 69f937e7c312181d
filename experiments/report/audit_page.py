"""One audit as a self-contained HTML page, and as tables.

Captions come from data files that anyone may have written: Jinja escapes them, and the page's own policy forbids
scripts and requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.audits import METRIC_NAMES
from experiments.report.page import number, template_environment
from experiments.report.plots import estimates_plot, look
from negatives.filtering import Audit
from negatives.judging import Estimate

DUPLICATE_NAMES = {
    "both_classes": "texts that are a positive and a negative",
    "repeated_positives": "positives that repeat another positive",
    "repeated_negatives": "negatives that repeat another negative",
    "equal_pairs": "negatives equal to their own positive",
    "merged_rows": "rows that repeat a text of their image, class and type (counted once)",
}
Table = tuple[tuple[str, ...], list[list[Any]]]


@dataclass(frozen=True)
class AuditPage:
    """All that a page shows.

    Attributes:
        sources: paths of what was audited.
        harmonised: whether negatives have taken their positives' style.
        left_out: items of a benchmark that do not count as valid.
        parts: "all" and, where a filter ran, "kept".
    """

    sources: Sequence[str]
    harmonised: bool
    left_out: int
    parts: Mapping[str, Audit]


def render_audit_page(page: AuditPage) -> str:
    """The page as HTML: plots inside, nothing fetched from anywhere."""
    environment = template_environment()
    environment.filters |= {"measured": measured, "interval": interval, "giveaway": giveaway}
    audits = list(page.parts.values())
    # in the order of first sight, so that "all" and "kept" have the same colours
    names = list(dict.fromkeys(estimate.judge for audit in audits for estimate in audit.estimates))
    estimates = {name: audit.estimates for name, audit in page.parts.items()}
    looks = {judge: look(position) for position, judge in enumerate(names)}
    return environment.get_template("audit.html").render(
        page=page,
        looks=looks,
        metrics={name: title for name, title in METRIC_NAMES.items() if any(audit.find(name) for audit in audits)},
        # types of "all" and "kept": a filter may leave none of some type
        types=list(dict.fromkeys(name for audit in audits for name in audit.types)),
        duplicates=DUPLICATE_NAMES,
        plot=estimates_plot(estimates, looks),
    )


def measured(estimate: Estimate | None) -> str:
    """A value as the page writes it.

    >>> measured(None), measured(Estimate("auc", "word", "all", 0.51234, None, None, 20))
    ('–', '0.512')
    """
    return "–" if estimate is None or math.isnan(estimate.value) else number(estimate.value)


def interval(estimate: Estimate | None) -> str:
    """The interval as the page writes it, nothing where there is none.

    >>> interval(Estimate("auc", "word", "all", 0.5, 0.4, 0.62, 20))
    '0.400 – 0.620'
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{number(estimate.low)} – {number(estimate.high)}"


def giveaway(value: float, kind: str) -> str:
    """A giveaway's value as the page writes it: shares in percent.

    >>> giveaway(0.1234, "share"), giveaway(52.071, "mean"), giveaway(float("nan"), "mean")
    ('12.3 %', '52.07', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f} %" if kind == "share" else number(value, 2)


def audit_tables(parts: Mapping[str, Audit]) -> dict[str, Table]:
    """Columns and rows of "estimates", "ngrams", "cues" and "given_away"; what was not measured is None.

    Tables and columns are named as in `audit.json`.
    """
    # from the file's own form, so that W&B's columns are named as in audit.json
    plain = {name: audit.to_json() for name, audit in parts.items()}
    estimates = [{"part": part, **row} for part, audit in plain.items() for row in audit["estimates"]]
    giveaways = [{"part": part, **row} for part, audit in plain.items() for row in audit["cues"]]
    ngrams = [
        {"part": part, "more_in": label, **row}
        for part, audit in plain.items()
        for label, rows in audit["ngrams"].items()
        for row in rows
    ]
    given = [
        {"part": part, "kind": kind, "negative_caption": "", **row}
        for part, audit in plain.items()
        for kind in ("positive", "negative", "pair")
        for row in audit[f"given_{kind}s"]
    ]
    return {
        "estimates": _table(estimates, "part estimand judge negative_type value low high count"),
        "ngrams": _table(ngrams, "part more_in ngram positives negatives z"),
        "cues": _table(giveaways, "part cue kind positives negatives auc"),
        "given_away": _table(given, "part kind image_id negative_type caption negative_caption logit"),
    }


# by name: a column that the file lacks is an error here, not an empty cell
def _table(rows: Sequence[Mapping[str, Any]], columns: str) -> Table:
    names = tuple(columns.split())
    return names, [[row[name] for name in names] for row in rows]
