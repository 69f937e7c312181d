"""Cross-fitting by image: what a judge says of texts and pairs whose images it has never seen.

An image's captions share its words. A judge that saw one of them knows something of the others, so that a fold holds
whole images, never single texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from negatives.judging.judge import Judge, Scorer
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs, fold_of
from negatives.tables.files import InputError, quoted

_WEAK_PENALTY = (
    100.0  # scikit-learn's C, for a few weights on thousands of rows: next to no penalty, yet always a solution
)

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
    """Plain cross-fitting: each fold is scored by a judge fitted on all others. K fits for K folds.

    Args:
        panel, judge, unit, fold: see `held_out_scores`; two folds are enough.

    Returns:
        [U] scores; the logit of a pair is the difference of its two.
    """
    scores = np.empty(len(fold))

    def score_fold(number: int) -> None:
        rows = np.flatnonzero(fold == number)
        # each thread writes the rows of its own fold, so that no lock is needed
        scores[rows] = fit_judge(judge, panel.encoded[judge.name], panel.text_pairs, unit, fold != number)(rows)
        panel.advance()

    _in_threads(score_fold, range(int(fold.max()) + 1), panel.workers if judge.threads else 1)
    return scores


@dataclass
class HeldOut:
    """Scores of one judge by models that each left out two folds, which is what combining judges honestly takes.

    Combining is a second fit, on scores of the first. For it to say nothing of fold k that fold k has taught it, the
    scores that it learns from must be held out twice: from the text's own fold, or a judge that has learnt its texts by
    heart would look better than it is; and from fold k, whose texts the combination will be asked about.

    `scores[k][i]` of a text i outside fold k comes from the model that saw neither k nor i's fold: on these the
    combination for fold k is fitted. Of a text inside fold k it is the mean over all models that did not see k.
    """

    scores: np.ndarray

    def out_of_fold(self, fold: np.ndarray) -> np.ndarray:
        """[U] each text's score by the models that saw no text of its fold."""
        return self.scores[fold, np.arange(len(fold))]


def held_out_scores(panel: Panel, judge: Judge, *, unit: str, fold: np.ndarray) -> HeldOut:
    """Fits a judge for every two folds, on all texts outside both.

    With K folds these are K (K - 1) / 2 fits on K - 2 folds each: for K = 5, half as much again as plain cross-fitting.

    Args:
        panel: the texts and the judge's features of them; its other judges are not asked.
        judge: to fit.
        unit: "text" fits on single texts, "pair" on pairs.
        fold: [U] see `fold_of_texts`; at least three folds.
    """
    folds = int(fold.max()) + 1
    scores = np.zeros((folds, len(fold)))
    couples = list(combinations(range(folds), 2))

    def score_couple(couple: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        inside = np.isin(fold, couple)
        rows = np.flatnonzero(inside)
        scored = fit_judge(judge, panel.encoded[judge.name], panel.text_pairs, unit, ~inside)(rows)
        panel.advance()
        return rows, scored

    results = _in_threads(score_couple, couples, panel.workers if judge.threads else 1)
    # summed in the order of the couples, not of their ends: floating-point sums must not depend on the threads
    for (first, second), (rows, scored) in zip(couples, results, strict=True):
        inside = fold[rows]
        for number, other in ((first, second), (second, first)):
            scores[number, rows[inside == other]] = scored[inside == other]
            # K - 1 models did not see the fold: one for each other fold
            scores[number, rows[inside == number]] += scored[inside == number] / (folds - 1)
    return HeldOut(scores)


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """The function's results, in the order of the items."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def fit_judge(judge: Judge, encoded: Any, text_pairs: TextPairs, unit: str, seen: np.ndarray) -> Scorer:
    """Fits a judge on the texts, or pairs, that it may see.

    Args:
        judge: to fit.
        encoded: its features of the texts.
        text_pairs: texts and pairs.
        unit: "text" or "pair".
        seen: [U] bool; texts whose label is neither 1 nor 0 are left out.

    Raises:
        InputError: if these are no pairs, or texts of one class only.
    """
    if unit == "pair":
        pairs = text_pairs.pairs[seen[text_pairs.pairs[:, 0]]]
        if len(pairs) < 2:
            raise InputError(
                f"Each fold's judge needs two pairs or more, and {len(pairs)} lie outside its folds "
                f"({len(text_pairs.pairs)} pairs, {len(text_pairs.image_ids)} images). Give more images with negatives."
            )
        return judge.fit_pairs(encoded, pairs)
    # -1 marks texts that AFLite has dropped: they are judged, but nothing is learnt from them
    rows = np.flatnonzero(seen & (text_pairs.labels >= 0))
    labels = text_pairs.labels[rows]
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"Each fold's judge needs texts of both classes, and all {len(rows)} texts outside its folds have label "
            f"{labels[0] if len(labels) else 'of neither class'} ({len(text_pairs.image_ids)} images). Give more "
            "images, or another seed."
        )
    return judge.fit(encoded, rows, labels)


def combine_texts(columns: Sequence[HeldOut], labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[U] one calibrated logit for each text from several judges' scores, both classes weighing the same.

    For each fold, logistic regression on what the judges say of the other folds: stacking (Wolpert, "Stacked
    Generalization", Neural Networks 5, 1992), or with one judge the calibration of Platt (1999). Nothing that it is
    fitted on has seen the fold.
    """
    from sklearn.linear_model import LogisticRegression

    logits = np.empty(len(fold))
    for number in range(int(fold.max()) + 1):
        features = np.stack([column.scores[number] for column in columns], axis=1)
        inside = fold == number
        # balanced: rule `overlap` needs a chance in which both classes weigh the same, however many texts each has
        model = LogisticRegression(C=_WEAK_PENALTY, class_weight="balanced").fit(features[~inside], labels[~inside])
        logits[inside] = model.decision_function(features[inside])
    return logits


def combine_pairs(columns: Sequence[HeldOut], pairs: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """[P] one calibrated logit for each pair, that its first text is the positive; see `combine_texts`."""
    from sklearn.linear_model import LogisticRegression

    logits = np.empty(len(pairs))
    pair_fold = fold[pairs[:, 0]]
    for number in range(int(fold.max()) + 1):
        scores = np.stack([column.scores[number] for column in columns], axis=1)
        features = scores[pairs[:, 0]] - scores[pairs[:, 1]]
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
