"""The filter: judges texts or pairs out-of-fold and keeps those on which text alone says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from negatives.filtering.judged import Judged, judge_texts, texts_and_pairs
from negatives.filtering.keep_rules import aflite, aflite_rounds, draw, overlap, top_fraction
from negatives.filtering.plan import UNITS, FilterPlan
from negatives.filtering.strengths import Strengths, keep_by_strengths
from negatives.judging.bias_metrics import ALL, fits, paired_wins
from negatives.judging.crossfit import fit_judge
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs, fold_of
from negatives.tables.files import InputError

AFLITE_PARTITIONS = 10  # of the images in two halves, each round


@dataclass(frozen=True)
class Filtered:
    """What was kept, and how sure of it the rule was.

    Attributes:
        unit: "text", "pair" or "both".
        constant: factor of the odds, where rule overlap was given one; else None.
        fold, oof_score, keep_probability, keep: [U] for each text. Where pairs were judged, a text's score is the mean
            over its pairs of the chance that it is the positive, and it is kept if any of its pairs is.
        pair_fold, pair_score, pair_keep_probability, pair_keep: [P] for each pair; the score is the chance that the
            first is the positive. For unit text, a pair is kept if both its texts are.
        strengths: of rules margins and overlap, the share of each negative type (or of "all") that was dropped; None
            for others, and where overlap has a constant.
    """

    unit: str
    constant: float | None
    fold: np.ndarray
    oof_score: np.ndarray
    keep_probability: np.ndarray
    keep: np.ndarray
    pair_fold: np.ndarray
    pair_score: np.ndarray
    pair_keep_probability: np.ndarray
    pair_keep: np.ndarray
    strengths: dict[str, float] | None = None


@dataclass(frozen=True)
class Chosen:
    """What a rule chose, in the order of `Judged`.

    Attributes:
        keep: [N] bool.
        probability: [N] with which each was kept; 1 or 0 for rules that draw nothing.
        constant: factor of the odds, where rule overlap was given one.
        strengths: shares that were dropped, where the rule has them.
    """

    keep: np.ndarray
    probability: np.ndarray
    constant: float | None = None
    strengths: dict[str, float] | None = None


def filter_fits(panel: Panel, plan: FilterPlan) -> int:
    """How many fits `filter_texts` makes at most."""
    rounds = aflite_rounds(plan.top_fraction) if plan.rule == "aflite" else 0
    return fits(len(panel.judges), panel.folds, len(UNITS[plan.unit])) + AFLITE_PARTITIONS * rounds


def filter_texts(panel: Panel, plan: FilterPlan, strengths: Strengths | None = None) -> Filtered:
    """Judges the texts, or pairs, and applies a rule.

    Args:
        panel: judges and texts; rule aflite takes the first judge.
        plan: unit, rule and the rule's settings.
        strengths: of rules margins and overlap, where the plan has none; `rotating.filter_and_rotate` searches them.

    Raises:
        InputError: if the plan contradicts itself, the texts cannot be judged, or nothing would be kept.
    """
    # for calls from Python: a configuration was checked when it was read
    for fault in plan.faults(""):
        raise InputError(fault)
    if plan.searches and strengths is None:
        raise InputError(f"Rule {plan.rule} needs strengths: give `strength`, or search them by `filter_and_rotate`.")
    judged = judge_texts(panel, unit=plan.unit, seed=plan.seed)
    chosen = choose(panel, judged, plan, strengths or {ALL: plan.strength or 0.0})
    if not chosen.keep.any():
        raise InputError(
            "Nothing would be kept: the judges tell the classes apart on every text. Write other negatives."
        )
    if plan.unit == "text":
        return _of_texts(panel.text_pairs, judged, chosen)
    return _of_pairs(panel.text_pairs, judged, chosen, plan.unit)


def choose(panel: Panel, judged: Judged, plan: FilterPlan, strengths: Strengths) -> Chosen:
    """Applies a rule to what judges said.

    Args:
        panel: of which rule aflite asks the first judge again.
        judged: what the judges said.
        plan: the rule and its settings.
        strengths: of rules margins and overlap.
    """
    if plan.has_strengths:
        return Chosen(*keep_by_strengths(judged, strengths, plan), strengths=dict(strengths))
    if plan.constant is not None:  # rule overlap by its plain formula
        probability = overlap(judged.oof_score, judged.labels, plan.constant, plan.sharpness)
        return Chosen(draw(probability, judged.keys, plan.seed), probability, plan.constant)
    # groups shrink alike: the types, or else the two classes
    groups = judged.groups if plan.per_type else [str(label) for label in judged.labels]
    if plan.rule == "top_fraction":
        keep = top_fraction(judged.oof_score, groups, judged.labels, judged.keys, plan.top_fraction)
    else:
        keep = aflite(_predictability(panel, plan), groups, judged.keys, fraction=plan.top_fraction)
    return Chosen(keep, keep.astype(np.float64))


def _of_texts(text_pairs: TextPairs, judged: Judged, chosen: Chosen) -> Filtered:
    """Texts were judged: a pair has what follows from its two texts, taken as independent."""
    keep, keep_pairs = texts_and_pairs(text_pairs, "text", chosen.keep)
    first, second = text_pairs.pairs.T
    # one of the two is the positive: given that, the chance that it is the first
    score = judged.oof_score[first] * (1 - judged.oof_score[second])
    other = judged.oof_score[second] * (1 - judged.oof_score[first])
    return Filtered(
        unit="text",
        constant=chosen.constant,
        fold=judged.fold,
        oof_score=judged.oof_score,
        keep_probability=chosen.probability,
        keep=keep,
        pair_fold=judged.fold[first],
        # 0 / 0 where both texts are certain, and of one class
        pair_score=score / np.maximum(score + other, np.finfo(float).tiny),
        pair_keep_probability=chosen.probability[first] * chosen.probability[second],
        pair_keep=keep_pairs,
        strengths=chosen.strengths,
    )


def _of_pairs(text_pairs: TextPairs, judged: Judged, chosen: Chosen, unit: str) -> Filtered:
    """Pairs were judged: a text has the mean over its pairs, and the chance that any of them is kept."""
    keep, keep_pairs = texts_and_pairs(text_pairs, unit, chosen.keep)
    texts = len(text_pairs.captions)
    ends = text_pairs.pairs.T.ravel()
    count = np.bincount(ends, minlength=texts)
    # a pair's score is the chance of its first text, so that the second has what is left of 1
    total = np.bincount(ends, np.concatenate([judged.oof_score, 1 - judged.oof_score]), minlength=texts)
    with np.errstate(divide="ignore"):  # a pair that is kept for certain: log(0), and a chance of 1
        none = np.exp(np.bincount(ends, np.tile(np.log1p(-chosen.probability), 2), minlength=texts))
    probability = 1 - none
    first = text_pairs.pairs[:, 0]
    if unit == "both":  # the pairs of a positive share one draw: any is kept where the likeliest is
        most = np.zeros(texts)
        np.maximum.at(most, first, chosen.probability)
        probability = np.where(text_pairs.labels == 1, most, probability)
    return Filtered(
        unit=unit,
        constant=chosen.constant,
        fold=judged.fold,
        oof_score=np.where(count > 0, total / np.maximum(count, 1), 0.5),
        keep_probability=probability,
        keep=keep,
        pair_fold=judged.fold[first],
        pair_score=judged.oof_score,
        pair_keep_probability=chosen.probability,
        pair_keep=keep_pairs,
        strengths=chosen.strengths,
    )


def _predictability(panel: Panel, plan: FilterPlan) -> Callable[[np.ndarray, int], np.ndarray]:
    """How often judges that were fitted on random halves of the images are right about the other half."""
    text_pairs, ask = panel.text_pairs, _ask_texts if plan.unit == "text" else _ask_pairs

    def measure(kept: np.ndarray, number: int) -> np.ndarray:
        right, asked = np.zeros(len(kept)), np.zeros(len(kept))
        for partition in range(AFLITE_PARTITIONS):
            # halves of the images, where the paper draws single examples: an image's texts share their words
            half = fold_of(text_pairs.image_ids, 2, f"aflite {plan.seed} {number} {partition}")
            rows, wins = ask(panel, kept, half[text_pairs.images])
            right[rows] += wins
            asked[rows] += 1
            panel.advance()
        return right / np.maximum(asked, 1)

    return measure


def _ask_texts(panel: Panel, kept: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts of fold 1, and whether the first judge, fitted on the kept texts of fold 0, is right about each."""
    judge, text_pairs = panel.judges[0], panel.text_pairs
    # -1 takes a text out of the fit, and leaves it among those that are asked about
    part = replace(text_pairs, labels=np.where(kept, text_pairs.labels, -1))
    scorer = fit_judge(judge, panel.encoded[judge.name], part, "text", fold == 0)
    rows = np.flatnonzero(fold == 1)
    return rows, paired_wins(scorer(rows) * np.where(text_pairs.labels[rows] == 1, 1, -1))


def _ask_pairs(panel: Panel, kept: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_ask_texts`, of pairs."""
    judge, text_pairs = panel.judges[0], panel.text_pairs
    part = replace(text_pairs, pairs=text_pairs.pairs[kept])
    scorer = fit_judge(judge, panel.encoded[judge.name], part, "pair", fold == 0)
    rows = np.flatnonzero(fold[text_pairs.pairs[:, 0]] == 1)
    ends = text_pairs.pairs[rows]
    return rows, paired_wins(scorer(ends[:, 0]) - scorer(ends[:, 1]))
