"""The filter: judges texts or pairs out-of-fold and keeps those on which text alone says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from negatives.filtering.keep_rules import aflite, aflite_rounds, constants_for_shares, draw, overlap, top_fraction
from negatives.judging.bias_metrics import auc, fits, paired_wins, probe
from negatives.judging.crossfit import HeldOut, combine_pairs, combine_texts, fit_judge, fold_of_texts, held_out_scores
from negatives.judging.linear import Judge
from negatives.judging.text_pairs import Corpus, fold_of
from negatives.tables.files import InputError

UNITS = {"text": ("auc",), "pair": ("paired_accuracy",), "both": ("auc", "paired_accuracy")}
"""Unit -> what has to be at a coin's level."""
LARGEST_CONSTANT = 8.0
TARGETS = {"text": 0.505, "pair": 0.512, "both": 0.512}
"""Unit -> what a probe may reach in the search. Probes of other families, and several together, see somewhat more than
those which search, and more so on single texts."""

SEARCH_STEPS = 5
MOST_SEARCH_FOLDS = 3  # probes learn from two thirds then; those of a certificate, being combined, from three fifths
MIN_SLOPE = 0.01  # of what a judge reaches against log(constant); less is noise
AFLITE_PARTITIONS = 10

Advance = Callable[[], None]


@dataclass(frozen=True)
class Judged:
    """What is filtered: the texts (unit text) or the pairs, with what the judges say of them.

    Attributes:
        fold: [U] fold of each text of the corpus; a pair has that of its texts.
        oof_score: [N] chance that a text is a positive, or that the first of a pair is.
        labels: [N] 1 or 0; 1 for all pairs.
        groups: N names of class and type: what shrinks alike where types are kept apart.
        keys: N names that draws depend on.
    """

    fold: np.ndarray
    oof_score: np.ndarray
    labels: np.ndarray
    groups: list[str]
    keys: list[str]


@dataclass(frozen=True)
class Filtered:
    """What was kept, and how sure of it the rule was.

    Attributes:
        unit: "text", "pair" or "both".
        constant: factor of the odds; None for other rules.
        fold, oof_score, keep_probability, keep: [U] for each text. Where pairs were judged, a text's score is the mean
            over its pairs of the chance that it is the positive, and it is kept if any of its pairs is.
        pair_fold, pair_score, pair_keep_probability, pair_keep: [P] for each pair; the score is the chance that the
            first is the positive. For unit text, a pair is kept if both its texts are.
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


def filter_fits(judges: int, folds: int, unit: str, *, searching: int = 0, aflite_fraction: float = 0.0) -> int:
    """How many fits `filter_corpus` makes at most; `searching` judges look for the constant of rule overlap."""
    kinds = {"text": 1, "pair": 1, "both": 2}[unit]
    once = fits(searching, min(MOST_SEARCH_FOLDS, folds), len(UNITS[unit]), stacked=False)
    rounds = aflite_rounds(aflite_fraction) if aflite_fraction else 0
    return fits(judges, folds, kinds) + (SEARCH_STEPS + 1) * once + AFLITE_PARTITIONS * rounds


def judge_texts(
    corpus: Corpus,
    judges: Sequence[Judge],
    encoded: Mapping[str, Any],
    *,
    unit: str,
    folds: int,
    seed: int,
    workers: int = 1,
    advance: Advance | None = None,
) -> Judged:
    """Cross-fits the judges by image and combines them.

    With unit "both", the judges of single texts join those of pairs, by the difference of what they say of the two: a
    pair is then dropped for what gives away either text as well as for what the two give away side by side.

    Args:
        corpus: texts and pairs.
        judges: to fit.
        encoded: judge -> its features of the corpus.
        unit: see `UNITS`.
        folds: at least 3.
        seed: of the folds.
        workers: threads.
        advance: called after each fit.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`), or there are no pairs to judge.
    """
    if unit != "text" and not len(corpus.pairs):
        raise InputError(f"unit: {unit} needs pairs, and no negative belongs to any caption. Ask for unit: text.")
    fold = fold_of_texts(corpus, folds, f"filter {seed}")

    def columns(kind: str) -> list[HeldOut]:
        arguments: dict[str, Any] = {"unit": kind, "fold": fold, "workers": workers, "advance": advance}
        return [held_out_scores(judge, encoded[judge.name], corpus, **arguments) for judge in judges]

    if unit == "text":
        logits = combine_texts(columns("text"), corpus.labels, fold)
        groups = [f"{label} {kind}" for label, kind in zip(corpus.labels, corpus.types, strict=True)]
        keys = [corpus.key(text) for text in range(len(corpus.captions))]
        return Judged(fold, _chance(logits), corpus.labels, groups, keys)
    logits = combine_pairs(columns("pair") + (columns("text") if unit == "both" else []), corpus.pairs, fold)
    # with "both", the pairs of a positive share one draw: with one for each, a telling positive of many pairs would
    # stay as a text although most of its pairs go
    parts = corpus.pairs[:, :1] if unit == "both" else corpus.pairs
    keys = ["\n".join(corpus.key(text) for text in texts) for texts in parts]
    ones = np.ones(len(corpus.pairs), dtype=np.int64)
    return Judged(fold, _chance(logits), ones, [str(kind) for kind in corpus.pair_types], keys)


def search_constant(
    corpus: Corpus,
    judged: Judged,
    judges: Sequence[Judge],
    encoded: Mapping[str, Any],
    *,
    unit: str,
    target: float,
    seed: int,
    per_type: bool = False,
    workers: int = 1,
    advance: Advance | None = None,
) -> float:
    """The largest constant of `overlap` with which no fresh judge reaches more than `target` on what is kept.

    Constants below 1 are not tried: at 1 the two classes are equal already as far as the judge can tell, and below it
    fresh judges fall under 0.5. Each judge is asked alone: what it reaches falls with the constant, while judges
    combined turn one that has fallen below 0.5 around, and rise again.

    Args:
        corpus, judges, encoded, unit, workers, advance: see `judge_texts`.
        judged: what the judges said.
        target: in [0.5, 1].
        seed: of folds, and of the draw that is searched for.
        per_type: see `keep_probabilities`.

    Returns:
        In [1, LARGEST_CONSTANT], or infinity where everything can be kept.

    Raises:
        InputError: if there are too few texts, pairs or images to probe even with everything kept.
    """
    folds = min(MOST_SEARCH_FOLDS, int(judged.fold.max()) + 1)
    # a fit of the others takes a hundred times as long, and what they add to the search is little
    quick = [judge for judge in judges if judge.threads] or list(judges)

    def reached(constant: float, step: int) -> list[float]:
        # the draw that will be kept, since what it happens to hold counts; other folds at each step, so that their
        # noise averages out in the lines below
        kept = draw(keep_probabilities(judged, constant, per_type), judged.keys, seed)
        keep, keep_pairs = texts_and_pairs(corpus, unit, kept)
        part = corpus.subset(keep, keep_pairs)
        rows = np.flatnonzero(keep)
        own = {judge.name: encoded[judge.name][rows] for judge in quick}
        arguments: dict[str, Any] = {"folds": folds, "seed": f"search {seed} {step}", "workers": workers}
        found = probe(part, quick, own, estimands=UNITS[unit], advance=advance, **arguments)
        values = [auc(scores, part.labels) for scores in found.texts.values()]
        values += [float(paired_wins(logits).mean()) for logits in found.pairs.values()]
        if len(values) < len(quick) * len(UNITS[unit]):
            raise InputError(f"Too few pairs to probe: {len(part.pairs)} of {len(corpus.pairs)}. Give more of them.")
        return values

    if max(reached(math.inf, 0)) <= target:
        return math.inf
    low, high = 0.0, math.log(LARGEST_CONSTANT)
    tried: list[tuple[float, list[float]]] = []
    for step in range(1, SEARCH_STEPS + 1):
        place = (low + high) / 2
        try:
            values = reached(math.exp(place), step)
        except InputError:  # too little is kept for a probe to learn from
            low = place
            continue
        tried.append((place, values))
        low, high = (place, high) if max(values) <= target else (low, place)
    # the first one lies in the middle of everything, the others near the crossing
    return math.exp(_crossing(tried[1:], target) if len(tried) > 2 else low)


def _crossing(tried: Sequence[tuple[float, list[float]]], target: float) -> float:
    """Where the first of the lines through each judge's noisy values reaches the target, near what was tried."""
    places, values = np.array([place for place, _ in tried]), np.array([reached for _, reached in tried])
    slopes, offsets = np.polyfit(places, values, 1)
    rising = slopes > MIN_SLOPE
    crossings = (target - offsets[rising]) / slopes[rising]
    lowest = max(0.0, float(places.min()) - 0.2)
    return float(np.clip(crossings.min(), lowest, places.max())) if rising.any() else float(places.max())


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


def filter_corpus(
    corpus: Corpus,
    judges: Sequence[Judge],
    encoded: Mapping[str, Any],
    *,
    unit: str = "text",
    rule: str = "overlap",
    constant: float | None = None,
    target: float | None = None,
    fraction: float = 0.3,
    per_type: bool = False,
    folds: int = 5,
    seed: int = 0,
    workers: int = 1,
    advance: Advance | None = None,
) -> Filtered:
    """Judges the corpus and applies a rule.

    Args:
        corpus: texts and pairs.
        judges: to fit; rule aflite takes the first.
        encoded: judge -> its features of the corpus.
        unit: "text", "pair" or "both".
        rule: one of `balance.RULES`.
        constant: of `overlap`; searched for where not given (`search_constant`).
        target: of the search; not given: that of `TARGETS`.
        fraction: of `top_fraction` and `aflite`.
        per_type: keep the same share of each negative type.
        folds: at least 3.
        seed: of folds and draws.
        workers: threads; the result does not depend on them.
        advance: called after each fit.

    Raises:
        InputError: if the texts cannot be judged, or nothing would be kept.
    """
    arguments: dict[str, Any] = {"unit": unit, "seed": seed, "workers": workers, "advance": advance}
    judged = judge_texts(corpus, judges, encoded, folds=folds, **arguments)
    groups = judged.groups if per_type else [str(label) for label in judged.labels]
    if rule == "overlap":
        if constant is None:
            goal = TARGETS[unit] if target is None else target
            constant = search_constant(corpus, judged, judges, encoded, target=goal, per_type=per_type, **arguments)
        probability = keep_probabilities(judged, constant, per_type)
        kept = draw(probability, judged.keys, seed)
    else:
        constant = None
        if rule == "top_fraction":
            kept = top_fraction(judged.oof_score, groups, judged.labels, judged.keys, fraction)
        else:
            predict = _predictability(corpus, judges[0], encoded[judges[0].name], unit, seed, advance)
            kept = aflite(predict, groups, judged.keys, fraction=fraction)
        probability = kept.astype(np.float64)
    if not kept.any():
        raise InputError(
            "Nothing would be kept: the judges tell the classes apart on every text. Write other negatives."
        )
    return _filtered(corpus, unit, judged, probability, kept, constant)


def _filtered(
    corpus: Corpus, unit: str, judged: Judged, probability: np.ndarray, kept: np.ndarray, constant: float | None
) -> Filtered:
    keep, keep_pairs = texts_and_pairs(corpus, unit, kept)
    fold = judged.fold
    first, second = corpus.pairs[:, 0], corpus.pairs[:, 1]
    if unit == "text":
        both = probability[first] * probability[second]
        score = judged.oof_score[first] * (1 - judged.oof_score[second])
        other = judged.oof_score[second] * (1 - judged.oof_score[first])
        chance = score / np.maximum(score + other, np.finfo(float).tiny)
        return Filtered(
            unit, constant, fold, judged.oof_score, probability, keep, fold[first], chance, both, keep_pairs
        )
    texts = len(corpus.captions)
    ends = corpus.pairs.T.ravel()
    chances = np.concatenate([judged.oof_score, 1 - judged.oof_score])
    count = np.bincount(ends, minlength=texts)
    mean = np.where(count > 0, np.bincount(ends, chances, minlength=texts) / np.maximum(count, 1), 0.5)
    with np.errstate(divide="ignore"):
        chance = 1 - np.exp(np.bincount(ends, np.tile(np.log1p(-probability), 2), minlength=texts))
    if unit == "both":  # the pairs of a positive share one draw
        most = np.zeros(texts)
        np.maximum.at(most, first, probability)
        chance = np.where(corpus.labels == 1, most, chance)
    return Filtered(unit, constant, fold, mean, chance, keep, fold[first], judged.oof_score, probability, keep_pairs)


def texts_and_pairs(corpus: Corpus, unit: str, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept texts [U] and pairs [P]: a pair needs both texts, and where pairs are judged a text needs a pair."""
    if unit == "text":
        return kept, kept[corpus.pairs].all(axis=1)
    keep = np.zeros(len(corpus.captions), dtype=bool)
    keep[corpus.pairs[kept].ravel()] = True
    return keep, kept


def _predictability(
    corpus: Corpus, judge: Judge, encoded: Any, unit: str, seed: int, advance: Advance | None
) -> Callable[[np.ndarray, int], np.ndarray]:
    """How often judges that were fitted on random halves of the images are right about the other half."""

    def measure(kept: np.ndarray, number: int) -> np.ndarray:
        right, asked = np.zeros(len(kept)), np.zeros(len(kept))
        for partition in range(AFLITE_PARTITIONS):
            half = fold_of(corpus.image_ids, 2, f"aflite {seed} {number} {partition}")
            fold = half[corpus.images]
            if unit == "text":
                part = replace(corpus, labels=np.where(kept, corpus.labels, -1))
                scorer = fit_judge(judge, encoded, part, "text", fold == 0)
                rows = np.flatnonzero(fold == 1)
                right[rows] += paired_wins(scorer(rows) * np.where(corpus.labels[rows] == 1, 1, -1))
            else:
                part = replace(corpus, pairs=corpus.pairs[kept])
                scorer = fit_judge(judge, encoded, part, "pair", fold == 0)
                rows = np.flatnonzero(fold[corpus.pairs[:, 0]] == 1)
                ends = corpus.pairs[rows]
                right[rows] += paired_wins(scorer(ends[:, 0]) - scorer(ends[:, 1]))
            asked[rows] += 1
            if advance is not None:
                advance()
        return right / np.maximum(asked, 1)

    return measure


def _chance(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits))
