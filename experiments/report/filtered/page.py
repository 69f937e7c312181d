"""What `itm filter` kept, and its certificate, as a self-contained HTML page.

Captions come from data files that anyone may have written: Jinja escapes all of them, and the page's own policy forbids
scripts and requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.report.audits import ALL
from experiments.report.filtered.examples import PAIRS_SHOWN, TYPES_SHOWN, examples_of
from experiments.report.filtered.plots import frontier_plot, lessons_plot, name_of, rule_looks
from experiments.report.negative_types import types_in_order
from experiments.report.page import number, template_environment
from experiments.report.plots import look
from negatives.filtering import (
    CHOSEN,
    THIRDS,
    Certificate,
    CertificatePlan,
    Filtered,
    Lesson,
    kind_of_group,
    misses,
    retention,
)
from negatives.judging import TextPairs

WHOLE = ("pairs", "texts", "positives", "negatives")
"""What is counted beside the types."""
RULES = {
    "margins": "what judges are surest of, of each type",
    "overlap": "by chance, by the odds of the other class, of each type",
    "top_fraction": "what judges are surest of, of all types together (LLaVA-score)",
}
"""Rule -> what it drops."""


@dataclass(frozen=True)
class FilterPage:
    """All that a page is made of.

    Attributes:
        origin: how the filter was run, as shown: name -> value.
        harmonised: whether negatives have taken their positives' style.
        text_pairs: what was filtered.
        filtered: what is kept of it.
        plan: the tolerances of the certificate.
        certificate: None where none was asked for.
        seed: of the examples.
    """

    origin: Mapping[str, str]
    harmonised: bool
    text_pairs: TextPairs
    filtered: Filtered
    plan: CertificatePlan
    certificate: Certificate | None = None
    seed: int = 0


class Cell(NamedTuple):
    """A lesson in the table, and whether it is a miss."""

    lesson: Lesson
    missed: bool


Cells = dict[str, dict[str, Cell]]
"""Group -> name of a learner -> cell."""


def render_filter_page(page: FilterPage) -> str:
    """The page as HTML: plots inside, nothing fetched from anywhere."""
    environment = template_environment()
    environment.filters |= {"measured": measured}
    counts = dict(page.certificate.retention if page.certificate else retention(page.text_pairs, page.filtered))
    points = page.certificate.frontier if page.certificate else []
    rules = rule_looks(points)
    return environment.get_template("filtered.html").render(
        page=page,
        whole={name: counts.pop(name) for name in WHOLE},
        types={name: counts[name] for name in types_in_order(list(counts))},
        lessons=_lessons_view(page),
        leaks=_cells(page.certificate.leaks, []) if page.certificate else {},
        # ink follows the page's colours, in the figure too
        rules={name: own._replace(colour="currentColor") if name == CHOSEN else own for name, own in rules.items()},
        meanings=RULES,
        points=points,
        frontier=frontier_plot(points, rules, page.plan.tolerance) if points else None,
        examples=examples_of(page.text_pairs, page.filtered, page.seed),
        pairs_shown=PAIRS_SHOWN,
        types_shown=TYPES_SHOWN,
    )


def measured(value: float) -> str:
    """A value as the page writes it; "–" where there was nothing to measure.

    >>> measured(0.51234), measured(float("nan"))
    ('0.512', '–')
    """
    return "–" if math.isnan(value) else number(value)


def _lessons_view(page: FilterPage) -> dict[str, Any] | None:
    """The table and the plot of lessons; None where nothing was measured."""
    if page.certificate is None or not page.certificate.lessons:
        return None
    lessons = page.certificate.lessons
    cells = _cells(lessons, [_missed(one, page.certificate, page.plan) for one in lessons])
    looks = {name: look(position) for position, name in enumerate(cells[ALL])}
    tolerances = {group: page.plan.tolerances[kind_of_group(group)] for group in cells}
    drawn = [cell for row in cells.values() for cell in row.values()]
    plot = lessons_plot([one.lesson for one in drawn], [one.missed for one in drawn], looks, tolerances)
    return {"cells": cells, "looks": looks, "tolerances": tolerances, "plot": plot}


def _cells(lessons: Sequence[Lesson], missed: Sequence[bool]) -> Cells:
    groups = {one.group for one in lessons}
    # all first, then the types in their usual order, then the thirds
    types = types_in_order(list(groups - {ALL, *THIRDS}))
    cells: Cells = {name: {} for name in (ALL, *types, *THIRDS) if name in groups}
    for one, miss in zip(lessons, missed or [False] * len(lessons), strict=True):
        cells[one.group][name_of(one)] = Cell(one, miss)
    return cells


def _missed(lesson: Lesson, certificate: Certificate, plan: CertificatePlan) -> bool:
    """Whether a lesson is among the certificate's misses, which are lines of text.

    Both lines that it may have there are written again: the certificate knows whether its judge is a slow one, with
    another tolerance.
    """
    slow = ((), (lesson.learner.judge,))
    lines = {line for names in slow for line in misses([lesson], plan.tolerances, names, plan.transformer_tolerance)}
    return not lines.isdisjoint(certificate.misses)
