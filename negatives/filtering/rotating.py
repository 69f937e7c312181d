"""A filter's whole procedure, run on one part of the photos after the other, so that other parts can say what it does.

What a certificate measures is the procedure, not the verdicts that ship: those are made of all photos, by the median of
the strengths that the rotations found.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from negatives.filtering.filter import Filtered, choose, filter_fits, filter_texts
from negatives.filtering.judged import Judged, judge_texts
from negatives.filtering.plan import FilterPlan
from negatives.filtering.strengths import STEPS, Strengths, median_strengths, quick_judges, search_strengths
from negatives.filtering.teaching import READS, ROTATIONS, Retained, Rotation, kept_of_part, part_of_texts
from negatives.judging.bias_metrics import ALL
from negatives.judging.crossfit import in_threads
from negatives.judging.panel import Panel
from negatives.tables.files import InputError


@dataclass(frozen=True)
class Rotated:
    """What a procedure keeps of each part of the photos.

    Attributes:
        part: [U] see `teaching.part_of_texts`.
        kept: for each of `teaching.ROTATIONS`, of the part that the rule was fitted on.
        strengths: the median over the rotations (`strengths.Strengths`); empty where the rule searches none.
        judged: what the judges said of that part.
    """

    part: np.ndarray
    kept: list[Retained]
    strengths: dict[str, float] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)


def rotate(panel: Panel, plan: FilterPlan) -> Rotated:
    """Runs a plan on each of three parts of the photos.

    Args:
        panel: judges, and all texts.
        plan: see `filter_texts`; searched strengths are searched on a part that the rule is not fitted on.

    Raises:
        InputError: too few photos, or they cannot be judged; see `filter_texts`.
    """
    text_pairs = panel.text_pairs
    part = part_of_texts(text_pairs, plan.seed, least=max(10, panel.folds))

    def run(rotation: Rotation) -> tuple[Retained, Judged, Strengths]:
        inside = part == rotation.fit
        own = panel.subset(inside, inside[text_pairs.pairs].all(axis=1))
        judged = judge_texts(own, unit=plan.unit, seed=plan.seed)
        strengths: Strengths = {ALL: plan.strength or 0.0}
        if plan.searches:
            strengths = search_strengths(panel, judged, part, rotation, plan)
        chosen = choose(own, judged, plan, strengths)
        return kept_of_part(text_pairs, chosen.keep, inside, plan.unit), judged, strengths

    kept, judged, found = zip(*in_threads(run, ROTATIONS, panel.threads), strict=True)
    return Rotated(part, list(kept), median_strengths(found) if plan.searches else {}, list(judged))


def filter_and_rotate(
    panel: Panel, plan: FilterPlan, *, certified: bool = True
) -> tuple[Filtered, Rotated | str | None]:
    """What is kept of all photos and, where strengths are searched or a certificate is wanted, of each of three parts.

    Returns:
        What is kept; and the parts, or why there are none. None where nobody asks for them.

    Raises:
        InputError: see `filter_texts`; strengths are searched, and there are too few photos.
    """
    # as in `filter_texts`, which would come to them after the search
    for fault in plan.faults(""):
        raise InputError(fault)
    if plan.searches:
        rotated = rotate(panel, plan)
        return filter_texts(panel, plan, rotated.strengths), rotated
    filtered = filter_texts(panel, plan)
    if not certified:
        return filtered, None
    try:
        return filtered, rotate(panel, plan)
    except InputError as error:  # no certificate is no reason to lose the verdicts
        return filtered, str(error)


def rotated_fits(panel: Panel, plan: FilterPlan, *, certified: bool = True) -> int:
    """How many fits `filter_and_rotate` makes at most."""
    once = filter_fits(panel, plan)
    if not plan.searches:
        return once * (1 + len(ROTATIONS) * certified)
    steps = (STEPS + 1) * len(quick_judges(panel.judges)) * len(READS[plan.unit])
    return once + len(ROTATIONS) * (once + steps)
