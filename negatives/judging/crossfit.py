"""Cross-fitting by image: what a judge says of texts and pairs whose images it has never seen.

An image's captions share its words. A judge that saw one of them knows something of the others, so that a fold holds
whole images, never single texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from negatives.judging.judge import Judge, Scorer
from negatives.judging.linear import early_stops
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs, fold_of
from negatives.tables.files import InputError, quoted
from negatives.tables.randomness import generator_for

# scikit-learn's C, for a few weights on thousands of rows: next to no penalty, yet always a solution
_WEAK_PENALTY = 100.0

MOST_TEXTS = 100_000
"""About so many texts is a judge fitted on at most: a fit's time grows faster than they do, and each adds less."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def fold_of_texts(text_pairs: TextPairs, folds: int, seed: int | str) -> np.ndarray:
    """[U] the fold of each text: that of its image.

    Raises:
        InputError: if no judge could be fitted: a class is missing, there are fewer images than folds, or all texts are
            equal.
    """
    counts = {label: int((text_pairs.labels == label).sum()) for label in (1, 0)}
    if not all(counts.values()):
        raise InputError(
            f"The judge needs texts of both classes, got {counts[1]} positives and {counts[0]} negatives. "
            "Give captions together with their negatives, or keep more of them."
        )
    # no feature would be left to fit on
    if len(set(text_pairs.captions)) == 1:
        raise InputError(
            f"The judge needs texts that differ, got {len(text_pairs.captions)} times "
            f"{quoted(text_pairs.captions[0])}. "
            "Check the caption columns."
        )
    return fold_of(text_pairs.image_ids, folds, seed)[text_pairs.images]


def fold_scores(panel: Panel, judge: Judge, *, unit: str, fold: np.ndarray) -> np.ndarray:
    """Cross-fitting: each fold is scored by a judge that was fitted on all others. K fits for K folds.

    Args:
        panel: the texts and the judge's features of them; its other judges are not asked.
        judge: to fit.
        unit: "text" fits on single texts, "pair" on pairs.
        fold: [U] see `fold_of_texts`; two folds are enough.

    Returns:
        [U] scores; the logit of a pair is the difference of its two.
    """
    scores = np.empty(len(fold))

    def score_fold(number: int) -> None:
        rows = np.flatnonzero(fold == number)
        # each thread writes the rows of its own fold, so that no lock is needed
        scores[rows] = fit_judge(judge, panel.encoded[judge.name], panel.text_pairs, unit, fold != number)(rows)
        panel.advance()

    in_threads(score_fold, range(int(fold.max()) + 1), panel.workers if judge.threads else 1)
    return scores


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """The function's results, in the order of the items; the threads may fit linear judges."""
    with early_stops(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def fit_judge(judge: Judge, encoded: Any, text_pairs: TextPairs, unit: str, seen: np.ndarray) -> Scorer:
    """Fits a judge on the texts, or pairs, that it may see.

    Args:
        judge: to fit.
        encoded: its features of the texts.
        text_pairs: texts and pairs.
        unit: "text" or "pair".
        seen: [U] bool; texts whose label is neither 1 nor 0 are left out. Of more than `MOST_TEXTS`, some of the photos
            are drawn.

    Raises:
        InputError: if these are fewer than two pairs, or texts of one class only.
    """
    seen = _within_bounds(text_pairs, seen)
    if unit == "pair":
        pairs = text_pairs.pairs[seen[text_pairs.pairs[:, 0]]]
        if len(pairs) < 2:
            raise InputError(
                f"A judge needs two pairs or more to be fitted on, got {len(pairs)} of {len(text_pairs.pairs)} "
                f"({len(text_pairs.image_ids)} images). Give more images with negatives."
            )
        return judge.fit_pairs(encoded, pairs)
    rows = np.flatnonzero(seen)
    labels = text_pairs.labels[rows]
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"A judge needs texts of both classes to be fitted on, got {int((labels == 1).sum())} positives and "
            f"{int((labels == 0).sum())} negatives ({len(text_pairs.image_ids)} images). Give more images, or another "
            "seed."
        )
    return judge.fit(encoded, rows, labels)


def _within_bounds(text_pairs: TextPairs, seen: np.ndarray) -> np.ndarray:
    """The seen texts, or those of a part of the photos, drawn at random, where they are too many."""
    # -1 marks texts that were dropped: they are judged, but nothing is learnt from them
    seen = seen & (text_pairs.labels >= 0)
    if (count := int(seen.sum())) <= MOST_TEXTS:
        return seen
    # one draw for each photo of a sorted list, and no hash of its id, which would take longer than the fit
    drawn = generator_for("fit").random(len(text_pairs.image_ids))
    return seen & (drawn[text_pairs.images] < MOST_TEXTS / count)


def combine_texts(columns: Sequence[np.ndarray], labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[U] one calibrated logit for each text from several judges' out-of-fold scores, both classes weighing the same.

    For each fold, logistic regression on what the judges say of the other folds: stacking (Wolpert, "Stacked
    Generalization", Neural Networks 5, 1992), or with one judge the calibration of Platt (1999). No judge that scores a
    text has seen its image. The few weights of the combination are fitted on scores by judges that have. Leaving out
    two folds at a time would avoid that, with twice the fits, each of which sees less. It was tried and was no better.

    Args:
        columns: for each judge [U] scores, see `fold_scores`.
        labels: [U] 1 or 0.
        fold: [U] see `fold_of_texts`.
    """
    from sklearn.linear_model import LogisticRegression

    logits, features = np.empty(len(fold)), np.stack(columns, axis=1)
    for number in range(int(fold.max()) + 1):
        inside = fold == number
        # balanced: rule `overlap` needs a chance in which both classes weigh the same, however many texts each has
        model = LogisticRegression(C=_WEAK_PENALTY, class_weight="balanced").fit(features[~inside], labels[~inside])
        logits[inside] = model.decision_function(features[inside])
    return logits


def combine_pairs(columns: Sequence[np.ndarray], pairs: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[P] one calibrated logit for each pair, that its first text is the positive; see `combine_texts`."""
    from sklearn.linear_model import LogisticRegression

    logits, scores = np.empty(len(pairs)), np.stack(columns, axis=1)
    features, pair_fold = scores[pairs[:, 0]] - scores[pairs[:, 1]], fold[pairs[:, 0]]
    for number in range(int(fold.max()) + 1):
        inside = pair_fold == number
        # a fold may hold images without pairs
        if not inside.any():
            continue
        # as in `LinearJudge.fit_pairs`: every other pair the other way round, and no intercept
        first = np.arange((~inside).sum()) % 2 == 0
        model = LogisticRegression(C=_WEAK_PENALTY, fit_intercept=False)
        model.fit(features[~inside] * np.where(first, 1, -1)[:, None], first)
        logits[inside] = features[inside] @ model.coef_[0]
    return logits
