"""A filter's whole procedure, run on one part of the photos after the other, so that other parts can say what it does.

What a certificate measures is the procedure, not the verdicts that ship: those are made of all photos, by the median of
the strengths that the rotations found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from negatives.filtering.filter import Filtered, filter_fits, filter_texts
from negatives.filtering.judged import judge_texts
from negatives.filtering.plan import FilterPlan
from negatives.filtering.search import quick_judges
from negatives.filtering.strengths import STEPS, keep_by_strengths, median_strengths, search_strengths
from negatives.filtering.teaching import READS, ROTATIONS, Retained, kept_of_part, part_of_texts
from negatives.judging.panel import Panel
from negatives.tables.files import InputError


@dataclass(frozen=True)
class Rotated:
    """What a procedure keeps of each part of the photos.

    Attributes:
        part: [U] see `teaching.part_of_texts`.
        kept: for each of `teaching.ROTATIONS`, of the part that the rule was fitted on.
        strengths: the median over the rotations (`strengths.Strengths`); empty where the rule searches none.
    """

    part: np.ndarray
    kept: list[Retained]
    strengths: dict[str, float]


def rotate(panel: Panel, plan: FilterPlan) -> Rotated:
    """Runs a plan on each of three parts of the photos.

    Args:
        panel: judges, and all texts.
        plan: see `filter_texts`; searched strengths are searched on a part that the rule is not fitted on.

    Raises:
        InputError: too few photos, or they cannot be judged; see `filter_texts`.
    """
    part = part_of_texts(panel.text_pairs, plan.seed, least=max(10, panel.folds))
    kept, found = [], []
    for rotation in ROTATIONS:
        inside = part == rotation.fit
        own = panel.subset(inside, inside[panel.text_pairs.pairs].all(axis=1))
        if plan.searches_strengths:
            judged = judge_texts(own, unit=plan.unit, seed=plan.seed)
            found.append(search_strengths(panel, judged, part, rotation, unit=plan.unit, by_type=plan.by_type))
            keep = keep_by_strengths(judged, found[-1])
        else:
            filtered = filter_texts(own, plan)
            keep = filtered.keep if plan.unit == "text" else filtered.pair_keep
        kept.append(kept_of_part(panel.text_pairs, keep, inside, plan.unit))
    return Rotated(part, kept, median_strengths(found))


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
    if plan.searches_strengths:
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
    if not plan.searches_strengths:
        return once * (1 + len(ROTATIONS) * certified)
    steps = (STEPS + 1) * len(quick_judges(panel.judges)) * len(READS[plan.unit])
    return once + len(ROTATIONS) * (once + steps)
