"""The constant of rule overlap: how much more can be kept than theory asks for before fresh judges see a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from negatives.filtering.judged import Judged
from negatives.filtering.keep_rules import constants_for_shares, draw, overlap
from negatives.filtering.plan import UNITS, FilterPlan
from negatives.judging.bias_metrics import auc, fits, paired_wins, probe
from negatives.judging.judge import Judge
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError

LARGEST_CONSTANT = 8.0
# halvings of [0, log 8]: the last bracket is 0.065 wide, a factor of 1.07
SEARCH_STEPS = 5
MOST_SEARCH_FOLDS = 3  # probes learn from two thirds then; those of a certificate, being combined, from three fifths
MIN_SLOPE = 0.01  # of what a judge reaches against log(constant); less is noise


def search_constant(panel: Panel, judged: Judged, plan: FilterPlan) -> float:
    """The largest constant of `overlap` with which no fresh judge reaches more than the target on what is kept.

    Constants below 1 are not tried: at 1 the two classes are equal already as far as the judge can tell, and below it
    fresh judges fall under 0.5. Each judge is measured alone: its value falls as the constant falls. That of a
    combination does not: it inverts a judge that has fallen below 0.5, and rises again.

    Args:
        panel: judges and texts.
        judged: what the judges said.
        plan: its unit, target, seed and whether types are kept apart.

    Returns:
        In [1, LARGEST_CONSTANT], or infinity where everything can be kept.

    Raises:
        InputError: if there are too few texts, pairs or images to probe even with everything kept.
    """
    searching = replace(panel, judges=quick_judges(panel.judges), folds=min(MOST_SEARCH_FOLDS, panel.folds))
    # everything kept is within the target already
    if max(_reached(searching, judged, plan, math.inf, 0)) <= plan.search_target:
        return math.inf
    # by halves, on the logarithm, since the constant is a factor
    low, high = 0.0, math.log(LARGEST_CONSTANT)
    tried: list[tuple[float, list[float]]] = []
    for step in range(1, SEARCH_STEPS + 1):
        middle = (low + high) / 2
        try:
            values = _reached(searching, judged, plan, math.exp(middle), step)
        except InputError:  # too little is kept for a probe to learn from
            low = middle
            continue
        tried.append((middle, values))
        low, high = (middle, high) if max(values) <= plan.search_target else (low, middle)
    # the first one lies in the middle of everything, the others near the crossing
    return math.exp(_crossing(tried[1:], plan.search_target) if len(tried) > 2 else low)


def search_fits(panel: Panel, unit: str) -> int:
    """How many fits a search makes at most."""
    judges, folds = len(quick_judges(panel.judges)), min(MOST_SEARCH_FOLDS, panel.folds)
    return (SEARCH_STEPS + 1) * fits(judges, folds, len(UNITS[unit]), stacked=False)


def quick_judges(judges: Sequence[Judge]) -> list[Judge]:
    """The judges that search: those that fit in threads, or all where none does.

    A fit of the others takes a hundred times as long, and what they add to the search is little.
    """
    return [judge for judge in judges if judge.threads] or list(judges)


def keep_probabilities(judged: Judged, constant: float, per_type: bool = False) -> np.ndarray:
    """[N] the keep probabilities of `overlap`.

    Args:
        judged: what the judges said.
        constant: factor of the odds; infinity keeps everything.
        per_type: choose a constant for each class and type, such that each keeps the share that all keep at `constant`.
    """
    if math.isinf(constant):
        return np.ones(len(judged.keys))
    probability = overlap(judged.oof_score, judged.labels, constant)
    if not per_type:
        return probability
    constants = constants_for_shares(judged.oof_score, judged.labels, judged.groups, float(probability.mean()))
    return overlap(judged.oof_score, judged.labels, constants)


def texts_and_pairs(text_pairs: TextPairs, unit: str, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept texts [U] and pairs [P]: a pair needs both texts, and where pairs are judged a text needs a pair."""
    if unit == "text":
        return kept, kept[text_pairs.pairs].all(axis=1)
    keep = np.zeros(len(text_pairs.captions), dtype=bool)
    keep[text_pairs.pairs[kept].ravel()] = True
    return keep, kept


def _reached(panel: Panel, judged: Judged, plan: FilterPlan, constant: float, step: int) -> list[float]:
    """What each judge, fitted anew, reaches on what the constant keeps, in each bias metric of the unit."""
    # the draw that will be kept, since what it happens to hold counts; other folds at each step, so that their
    # noise averages out in the lines of `_crossing`
    kept = draw(keep_probabilities(judged, constant, plan.per_type), judged.keys, plan.seed)
    part = panel.subset(*texts_and_pairs(panel.text_pairs, plan.unit, kept))
    probed = probe(part, seed=f"search {plan.seed} {step}", metrics=UNITS[plan.unit])
    values = [auc(scores, part.text_pairs.labels) for scores in probed.texts.values()]
    values += [float(paired_wins(logits).mean()) for logits in probed.pairs.values()]
    if len(values) < len(panel.judges) * len(UNITS[plan.unit]):
        pairs, of = len(part.text_pairs.pairs), len(panel.text_pairs.pairs)
        raise InputError(f"Too few pairs to probe: {pairs} of {of}. Give more of them.")
    return values


def _crossing(tried: Sequence[tuple[float, list[float]]], target: float) -> float:
    """Where the first of the lines through each judge's noisy values reaches the target, near what was tried."""
    places, values = np.array([place for place, _ in tried]), np.array([reached for _, reached in tried])
    # a line for each judge at once: `values` is [steps, judges], and polyfit takes a column each
    slopes, offsets = np.polyfit(places, values, 1)
    rising = slopes > MIN_SLOPE
    crossings = (target - offsets[rising]) / slopes[rising]
    # the lines are trusted a little below what was tried, not far from it
    lowest = max(0.0, float(places.min()) - 0.2)
    return float(np.clip(crossings.min(), lowest, places.max())) if rising.any() else float(places.max())
