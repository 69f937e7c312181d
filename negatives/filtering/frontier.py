"""The frontier: how much each rule keeps, against what training on it teaches, at several strengths.

A certificate says whether one procedure is good enough. The frontier says what another rule, or another strength, would
have cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from negatives.filtering.filter import choose
from negatives.filtering.lessons import THIRDS, Lesson, intervals, type_groups
from negatives.filtering.plan import FilterPlan
from negatives.filtering.rotating import Rotated
from negatives.filtering.teaching import ROTATIONS, Learner, Retained, asked_logits, kept_of_part
from negatives.judging.bias_metrics import ALL, image_weights, paired_wins
from negatives.judging.crossfit import in_threads
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Dropped, of each class or of the pairs."""
DRAWN = ("margins", "overlap", "top_fraction")
"""Rules: of each type the surest, of each type by chance, of all types the surest (LLaVA-score). AFLite, which would be
fitted anew for each share, is left out."""
CHOSEN = "chosen"
"""Among rules, the procedure that is certified."""


@dataclass(frozen=True)
class FrontierPoint:
    """What a rule keeps at one strength, and what it teaches.

    Attributes:
        rule: one of `DRAWN`, or `CHOSEN`.
        dropped: share of each class, or of the pairs, that was to be dropped; None for the procedure.
        texts, pairs: share kept, in [0, 1].
        learner, reads: the blind learner that learns most from everything; see `teaching.Learner`.
        value, low, high: share of untouched pairs of other photos whose positive it picks, with its 95 % interval.
        furthest_type, furthest_value: the negative type on which it is furthest from a coin, and its value there.
    """

    rule: str
    dropped: float | None
    texts: float
    pairs: float
    learner: str
    reads: str
    value: float
    low: float
    high: float
    furthest_type: str
    furthest_value: float

    def to_json(self) -> dict[str, Any]:
        """As `certificate.json` holds it."""
        return asdict(self)


def frontier(
    panel: Panel, rotated: Rotated, found: Sequence[Lesson], plan: FilterPlan, *, bootstrap: int = 1000
) -> list[FrontierPoint]:
    """The procedure's own point, and those of each rule at several strengths; pooled over the rotations.

    Args:
        panel: the learners of the lessons, and all texts.
        rotated: what the procedure keeps, and what its judges said of each part.
        found: the lessons of the procedure.
        plan: the procedure's; unit and seed are those of all points.
        bootstrap: resamples of photos behind each interval.
    """
    learner, text_pairs = _best(panel, found), panel.text_pairs
    # without slow judges beside it, its fits run in threads
    asked = panel.with_judges([judge for judge in panel.judges if judge.name == learner.judge])

    def taught(drawn: tuple[str, float]) -> tuple[list[Retained], np.ndarray] | None:
        kept = _kept(panel, rotated, plan, *drawn)
        try:
            return kept, paired_wins(asked_logits(asked, learner, kept, rotated.part))
        except InputError:  # too little is kept to learn from
            return None

    drawn = list(product(DRAWN, SHARES))
    measured = [
        (*which, *one)
        for which, one in zip(drawn, in_threads(taught, drawn, asked.threads), strict=True)
        if one is not None
    ]
    groups = type_groups(text_pairs)
    cells = [(wins, groups[ALL]) for *_, wins in measured]
    weights = image_weights(len(text_pairs.image_ids), bootstrap, f"frontier {plan.seed}")
    ends = intervals(text_pairs.pair_images, cells, weights)
    points = [_chosen(panel, rotated, learner, found)]
    for (rule, share, kept, wins), interval in zip(measured, ends, strict=True):
        values = {name: float(wins[rows].mean()) for name, rows in groups.items()}
        shares = kept_shares(text_pairs, kept, rotated.part)
        points.append(FrontierPoint(rule, share, *shares, *learner, values.pop(ALL), *interval, *_furthest(values)))
    return points


def frontier_fits() -> int:
    """How many fits `frontier` makes at most."""
    return len(ROTATIONS) * len(DRAWN) * len(SHARES)


def kept_shares(text_pairs: TextPairs, kept: Sequence[Retained], part: np.ndarray) -> tuple[float, float]:
    """Share of the texts, and of the pairs, that is kept of the parts that a procedure is fitted on.

    Args:
        text_pairs: all.
        kept: for each of `ROTATIONS`.
        part: [U] see `teaching.part_of_texts`.
    """
    texts, pairs = 0, 0
    for rotation, one in zip(ROTATIONS, kept, strict=True):
        inside = part == rotation.fit
        texts += int(one.texts[inside].sum())
        pairs += int(one.pairs[inside[text_pairs.pairs[:, 0]]].sum())
    return texts / len(text_pairs.captions), pairs / len(text_pairs.pairs)


def _best(panel: Panel, found: Sequence[Lesson]) -> Learner:
    """The learner in threads that learns most from everything."""
    quick = {judge.name for judge in panel.judges if judge.threads} or {judge.name for judge in panel.judges}
    whole = [one for one in found if one.group == ALL and one.learner.judge in quick]
    return max(whole, key=lambda one: one.everything).learner


def _kept(panel: Panel, rotated: Rotated, plan: FilterPlan, rule: str, share: float) -> list[Retained]:
    drawn = FilterPlan(unit=plan.unit, rule=rule, seed=plan.seed)
    drawn = replace(drawn, top_fraction=share) if rule == "top_fraction" else replace(drawn, strength=share)
    return [
        kept_of_part(
            panel.text_pairs,
            choose(panel, judged, drawn, {ALL: share}).keep,
            rotated.part == rotation.fit,
            plan.unit,
        )
        for rotation, judged in zip(ROTATIONS, rotated.judged, strict=True)
    ]


def _chosen(panel: Panel, rotated: Rotated, learner: Learner, found: Sequence[Lesson]) -> FrontierPoint:
    own = {one.group: one for one in found if one.learner == learner and one.group not in THIRDS}
    whole = own.pop(ALL)
    shares = kept_shares(panel.text_pairs, rotated.kept, rotated.part)
    values = {name: one.value for name, one in own.items()}
    return FrontierPoint(CHOSEN, None, *shares, *learner, whole.value, whole.low, whole.high, *_furthest(values))


def _furthest(values: Mapping[str, float]) -> tuple[str, float]:
    """The group, and its value, that is furthest from a coin."""
    name = max(values, key=lambda name: abs(values[name] - 0.5))
    return name, values[name]
