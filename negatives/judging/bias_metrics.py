"""Bias metrics: what text alone gives away, as AUC on single texts and as accuracy of choosing the positive of a pair.

0.5 is what a coin reaches in both. Neither stands for the other: texts that say nothing one by one may still give the
label away side by side, where what a pair shares cancels. Intervals are 95 % percentile bootstrap intervals, with
images drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): an image's
texts are alike, and drawing texts would make the intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negatives.judging.crossfit import (
    combine_pairs,
    combine_texts,
    fold_of_texts,
    fold_scores,
)
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.randomness import generator_for

BIAS_METRICS = ("auc", "paired_accuracy")
STACKED = "stacked"
# no type can be called so: `captions.is_type_name` refuses it
ALL = "all"
TIE = 1e-9  # logits of pairs closer than this look equal: sums in another order differ in their last digits


@dataclass(frozen=True)
class Estimate:
    """One measured value.

    Attributes:
        metric: one of `BIAS_METRICS`.
        judge: which judge, or "stacked" for several combined.
        negative_type: a type, or "all".
        value, low, high: in [0, 1]; 0.5 is a coin. NaN where nothing could be measured, None for an interval that was
            not asked for.
        count: texts (both classes) or pairs behind it.
    """

    metric: str
    judge: str
    negative_type: str
    value: float
    low: float | None
    high: float | None
    count: int

    def to_json(self) -> dict[str, Any]:
        """As `certificate.json` and `audit.json` hold it: there the metric is called estimand."""
        return {"estimand" if name == "metric" else name: value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Probed:
    """What judges say of texts and pairs, cross-fitted by image.

    Attributes:
        texts: judge -> [U] scores of single texts.
        pairs: judge -> [P] logits that the first of each pair is the positive, by a judge that was fitted on pairs.
    """

    texts: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]


def probe(
    panel: Panel, *, seed: int | str, stacked: Sequence[str] = (), metrics: Sequence[str] = BIAS_METRICS
) -> Probed:
    """Fits fresh judges and asks them about texts and pairs.

    Args:
        panel: judges and texts; with too few pairs nothing is measured on pairs (see `enough_pairs`).
        seed: of the folds.
        stacked: judges that "stacked" combines, where there are several.
        metrics: which of `BIAS_METRICS` to fit for.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    fold = fold_of_texts(panel.text_pairs, panel.folds, seed)
    probed = Probed({}, {})
    if "auc" in metrics:
        probed.texts.update(_text_scores(panel, fold, stacked))
    if "paired_accuracy" in metrics and enough_pairs(panel.text_pairs, fold):
        probed.pairs.update(_pair_logits(panel, fold, stacked))
    return probed


def _text_scores(panel: Panel, fold: np.ndarray, stacked: Sequence[str]) -> dict[str, np.ndarray]:
    """Judge, or "stacked" -> [U] out-of-fold scores of single texts."""
    scores = {judge.name: fold_scores(panel, judge, unit="text", fold=fold) for judge in panel.judges}
    if len(stacked) > 1:
        scores[STACKED] = combine_texts([scores[name] for name in stacked], panel.text_pairs.labels, fold)
    return scores


def _pair_logits(panel: Panel, fold: np.ndarray, stacked: Sequence[str]) -> dict[str, np.ndarray]:
    """Judge, or "stacked" -> [P] out-of-fold logits that the first of each pair is the positive."""
    pairs = panel.text_pairs.pairs
    scores = {judge.name: fold_scores(panel, judge, unit="pair", fold=fold) for judge in panel.judges}
    logits = {name: own[pairs[:, 0]] - own[pairs[:, 1]] for name, own in scores.items()}
    if len(stacked) > 1:
        logits[STACKED] = combine_pairs([scores[name] for name in stacked], pairs, fold)
    return logits


def enough_pairs(text_pairs: TextPairs, fold: np.ndarray) -> bool:
    """Whether two pairs or more lie outside any fold, which is what fits on pairs need.

    Args:
        text_pairs: texts and pairs.
        fold: [U] fold of each text.
    """
    counts = np.bincount(fold[text_pairs.pairs[:, 0]], minlength=int(fold.max()) + 1)
    return bool(counts.sum() - counts.max() >= 2)


def fits(judges: int, folds: int, metrics: int = 2) -> int:
    """How many fits `probe` makes."""
    return judges * metrics * folds


def estimates(text_pairs: TextPairs, *probed: Probed, bootstrap: int, seed: int | str) -> list[Estimate]:
    """AUC and paired accuracy of each judge, over all negatives and for each type.

    A type's AUC is that of its negatives against the positives that they are paired with. Types may come from different
    sources, and a difference between sources must not count as one between the classes. A type without pairs is
    measured against all positives.

    Args:
        text_pairs: what was probed.
        probed: what the judges said, once or with several fold seeds: the values are means over these.
        bootstrap: resamples behind each interval; 0 for none.
        seed: of the bootstrap.
    """
    types = [ALL, *sorted({str(negative_type) for negative_type in text_pairs.types[text_pairs.labels == 0]})]
    # the same resamples for every judge and type, so that their intervals can be compared
    # small numbers, but one for each image and resample
    weights = [weight.astype(np.uint16) for weight in image_weights(len(text_pairs.image_ids), bootstrap, seed)]
    found = [
        _auc_estimate(text_pairs, [one.texts[judge] for one in probed], judge, negative_type, weights)
        for judge in probed[0].texts
        for negative_type in types
    ]
    for judge in probed[0].pairs:
        wins = np.mean([paired_wins(one.pairs[judge]) for one in probed], axis=0)
        found += [_pair_estimate(text_pairs, wins, judge, negative_type, weights) for negative_type in types]
    return found


def _auc_estimate(
    text_pairs: TextPairs,
    scores: Sequence[np.ndarray],
    judge: str,
    negative_type: str,
    weights: Sequence[np.ndarray],
) -> Estimate:
    """The mean over fold seeds of a judge's AUC; `scores` are its [U] of each seed."""
    rows = _texts_of_type(text_pairs, negative_type)
    images = text_pairs.images[rows]
    measures = [auc_of(own[rows], text_pairs.labels[rows]) for own in scores]
    resampled = [float(np.mean([measure(weight[images]) for measure in measures])) for weight in weights]
    value = float(np.mean([measure(None) for measure in measures]))
    return Estimate("auc", judge, negative_type, value, *_ends(resampled), len(rows))


def _pair_estimate(
    text_pairs: TextPairs, wins: np.ndarray, judge: str, negative_type: str, weights: Sequence[np.ndarray]
) -> Estimate:
    """A judge's paired accuracy; `wins` are its [P] pairs won, as a mean over fold seeds."""
    rows = np.flatnonzero((text_pairs.pair_types == negative_type) | (negative_type == ALL))
    images = text_pairs.pair_images[rows]
    resampled = [_mean(wins[rows], weight[images]) for weight in weights]
    return Estimate("paired_accuracy", judge, negative_type, _mean(wins[rows]), *_ends(resampled), len(rows))


def _texts_of_type(text_pairs: TextPairs, negative_type: str) -> np.ndarray:
    if negative_type == ALL:
        return np.arange(len(text_pairs.captions))
    positive = text_pairs.labels == 1
    # not `positive & same image`: an image's other captions may have negatives of another source
    paired = np.zeros(len(positive), dtype=bool)
    paired[text_pairs.pairs[text_pairs.pair_types == negative_type, 0]] = True
    return np.flatnonzero((paired if paired.any() else positive) | (text_pairs.types == negative_type))


def paired_wins(logits: np.ndarray) -> np.ndarray:
    """1 where the positive is chosen, 0 where the negative is, 1/2 where the two look equal: that counts as a coin.

    >>> paired_wins(np.array([2.0, -1.0, 0.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    return (np.sign(np.where(np.abs(logits) < TIE, 0.0, logits)) + 1) / 2


def auc(scores: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Chance that a positive scores above a negative, ties one half; NaN where a class has no weight.

    Args:
        scores: [N] higher = more likely positive.
        labels: [N] 1 or 0.
        weight: [N] how often each row counts; once where not given.

    >>> auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0]))
    0.875
    """
    return auc_of(scores, labels)(weight)


def auc_of(scores: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray | None], float]:
    """`auc` as a function of the weights alone, so that a bootstrap sorts the scores once."""
    # The Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982): equal scores share a rank,
    # and for each rank the negatives below it count once, those at it one half. Against all pairs of texts this is
    # linear in the texts once they are sorted.
    _, rank = np.unique(scores, return_inverse=True)
    is_positive = labels == 1

    def measure(weight: np.ndarray | None = None) -> float:
        weight = np.ones(len(scores)) if weight is None else weight
        positive = np.bincount(rank, weight * is_positive)
        negative = np.bincount(rank, weight * ~is_positive)
        below = np.cumsum(negative) - negative
        total = positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / total) if total else float("nan")

    return measure


def image_weights(images: int, resamples: int, seed: int | str) -> Iterator[np.ndarray]:
    """How often each image is drawn, [images] for each resample."""
    generator = generator_for("image_weights", seed)
    for _ in range(resamples):
        # counts instead of copies of rows: a text that is drawn twice weighs two, and nothing is sorted again
        yield np.bincount(generator.integers(0, images, images), minlength=images).astype(np.float64)


def _ends(resampled: Sequence[float]) -> tuple[float | None, float | None]:
    """Ends of the 95 % percentile interval; None where no resample could be measured."""
    # a resample may draw no image with a text of one class, and has no AUC then
    present = [number for number in resampled if not np.isnan(number)]
    if not present:
        return None, None
    low, high = np.percentile(present, (2.5, 97.5))
    return float(low), float(high)


def _mean(values: np.ndarray, weight: np.ndarray | None = None) -> float:
    weight = np.ones(len(values)) if weight is None else weight
    return float((values * weight).sum() / weight.sum()) if weight.sum() else float("nan")
