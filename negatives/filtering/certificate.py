"""The certificate: what training on what a filter kept teaches about other photos, and what it leaks to judges there.

It is of the procedure. Judges and rule are run on each of three parts of the photos (`negatives.filtering.rotating`),
and each is measured on a part that took no share in it. The verdicts that ship come from all photos, by the same
procedure.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from negatives.filtering.filter import Filtered
from negatives.filtering.frontier import FrontierPoint, frontier, frontier_fits
from negatives.filtering.inside import Inside
from negatives.filtering.lessons import Lesson, leaks, lesson_fits, lessons, misses, untouched_scores
from negatives.filtering.plan import CertificatePlan, FilterPlan
from negatives.filtering.rotating import Rotated
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError, finite


@dataclass(frozen=True)
class Kept:
    """How many are kept, of how many."""

    kept: int
    of: int

    @property
    def share(self) -> float:
        """In [0, 1]; NaN of nothing."""
        return self.kept / self.of if self.of else math.nan


@dataclass(frozen=True)
class Certificate:
    """What is kept, what it teaches, and what it leaks.

    Attributes:
        unit: what was filtered.
        balanced: whether nothing was missed: every lesson's whole interval is near a coin.
        misses: one line for each lesson that is not, or for why nothing was measured.
        retention: "pairs", "texts", "positives", "negatives" and each negative type's pairs -> kept, of how many.
        lessons: what blind learners of what was kept get on untouched pairs of other photos.
        leaks: what judges of untouched pairs of other photos get on what was kept. A rule that drops what judges are
            sure of leaves them wrong on the rest, so a value below 0.5 is no fault.
        inside: probes of what was kept by other folds of it, where they were asked for.
        frontier: what other rules and strengths would keep and teach, where that was asked for.
    """

    unit: str
    balanced: bool
    misses: list[str]
    retention: dict[str, Kept]
    lessons: list[Lesson]
    leaks: list[Lesson]
    inside: Inside | None = None
    frontier: list[FrontierPoint] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain dicts, lists, numbers and strings; what could not be measured is None."""
        content: dict[str, Any] = {
            "unit": self.unit,
            "balanced": self.balanced,
            "misses": self.misses,
            "retention": {name: asdict(kept) for name, kept in self.retention.items()},
            "teaching": [one.to_json() for one in self.lessons],
            "leaking": [one.to_json() for one in self.leaks],
        }
        if self.frontier:
            content["frontier"] = [one.to_json() for one in self.frontier]
        if self.inside is not None:
            content["inside"] = self.inside.to_json()
        written: dict[str, Any] = finite(content)
        return written


def certificate_fits(panel: Panel, unit: str, plan: CertificatePlan) -> int:
    """How many fits `certify` makes at most."""
    return lesson_fits(panel, unit) + frontier_fits() * plan.frontier


def certify(
    panel: Panel,
    filtered: Filtered,
    rotated: Rotated,
    plan: CertificatePlan,
    *,
    seed: int = 0,
    inside: Inside | None = None,
) -> Certificate:
    """Measures what a procedure teaches and leaks.

    Args:
        panel: the learners, and all texts that were filtered.
        filtered: what is kept of all photos.
        rotated: what the same procedure keeps of each part of them.
        plan: tolerances, resamples, and whether there is a frontier.
        seed: of controls and bootstrap.
        inside: goes into the certificate as it is.
    """
    unit, kept, part = filtered.unit, rotated.kept, rotated.part
    try:
        untouched = untouched_scores(panel, part, unit)
        found = lessons(panel, kept, part, untouched, unit=unit, seed=seed, bootstrap=plan.bootstrap)
    except InputError as error:  # too little is left to measure: a miss, and no reason to lose the verdicts
        return not_measured(panel.text_pairs, filtered, f"What was kept cannot be learnt from. {error}", inside)
    slow = {judge.name for judge in panel.judges if not judge.threads}
    missed = list(misses(found, plan.tolerances, slow, plan.transformer_tolerance))
    drawn = []
    if plan.frontier and rotated.judged:
        drawn = frontier(panel, rotated, found, FilterPlan(unit=unit, seed=seed), bootstrap=plan.bootstrap)
    return Certificate(
        unit=unit,
        balanced=not missed,
        misses=missed,
        retention=retention(panel.text_pairs, filtered),
        lessons=found,
        leaks=leaks(panel, kept, part, untouched, unit=unit, seed=seed, bootstrap=plan.bootstrap),
        inside=inside,
        frontier=drawn,
    )


def not_measured(text_pairs: TextPairs, filtered: Filtered, why: str, inside: Inside | None = None) -> Certificate:
    """A certificate that certifies nothing, and says why."""
    return Certificate(filtered.unit, False, [why], retention(text_pairs, filtered), [], [], inside)


def retention(text_pairs: TextPairs, filtered: Filtered) -> dict[str, Kept]:
    """What is kept of pairs (the headline), texts, each class, and each type's pairs."""
    positive = text_pairs.labels == 1
    parts = {
        "pairs": filtered.pair_keep,
        "texts": filtered.keep,
        "positives": filtered.keep[positive],
        "negatives": filtered.keep[~positive],
    }
    for name in sorted({str(negative_type) for negative_type in text_pairs.pair_types}):
        parts[name] = filtered.pair_keep[text_pairs.pair_types == name]
    return {name: Kept(int(kept.sum()), len(kept)) for name, kept in parts.items()}
