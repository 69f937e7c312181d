"""What text alone gives away, in two numbers: AUC on single texts, and accuracy of choosing the positive of a pair.

0.5 is what a coin reaches in both. Intervals are 95 % percentile bootstrap intervals, with images drawn with
replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negatives.judging.crossfit import (
    HeldOut,
    combine_pairs,
    combine_texts,
    fold_of_texts,
    fold_scores,
    held_out_scores,
)
from negatives.judging.linear import Judge
from negatives.judging.text_pairs import Corpus
from negatives.tables.randomness import generator_for

ESTIMANDS = ("auc", "paired_accuracy")
STACKED = "stacked"
ALL = "all"
UNIT_OF = {"auc": "text", "paired_accuracy": "pair"}
TIE = 1e-9  # logits of pairs closer than this look equal: sums in another order differ in their last digits


@dataclass(frozen=True)
class Estimate:
    """One measured value.

    Attributes:
        estimand: "auc" or "paired_accuracy".
        judge: which judge, or "stacked" for all n-gram and surface judges together.
        negative_type: a type, or "all".
        value, low, high: in [0, 1]; 0.5 is a coin. NaN where nothing could be measured, None for an interval that was
            not asked for.
        count: texts (both classes) or pairs behind it.
    """

    estimand: str
    judge: str
    negative_type: str
    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Probed:
    """What judges say of a corpus, cross-fitted by image.

    Attributes:
        texts: judge -> [U] scores of single texts.
        pairs: judge -> [P] logits that the first of each pair is the positive, by a judge that was fitted on pairs.
    """

    texts: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]


def encode(judges: Sequence[Judge], corpus: Corpus) -> dict[str, Any]:
    """Judge -> its features of all texts."""
    return {judge.name: judge.encode(corpus.captions) for judge in judges}


def probe(
    corpus: Corpus,
    judges: Sequence[Judge],
    encoded: Mapping[str, Any],
    *,
    folds: int,
    seed: int | str,
    stacked: Sequence[str] = (),
    estimands: Sequence[str] = ESTIMANDS,
    workers: int = 1,
    advance: Callable[[], None] | None = None,
) -> Probed:
    """Fits fresh judges and asks them about texts and pairs.

    Args:
        corpus: texts and pairs; with too few pairs nothing is said about them (see `enough_pairs`).
        judges: to fit.
        encoded: judge -> its features of the corpus.
        folds: at least 3.
        seed: of the folds.
        stacked: judges that "stacked" combines, where there are several.
        estimands: which of the two to fit for.
        workers: threads.
        advance: called after each fit.

    Raises:
        InputError: if the texts cannot be judged (see `crossfit.fold_of_texts`).
    """
    fold = fold_of_texts(corpus, folds, seed)
    found = Probed({}, {})
    for estimand in estimands:
        unit = UNIT_OF[estimand]
        if unit == "pair" and not enough_pairs(corpus, fold):
            continue
        arguments: dict[str, Any] = {"unit": unit, "fold": fold, "workers": workers, "advance": advance}
        columns: list[HeldOut] = []
        for judge in judges:
            if judge.name in stacked and len(stacked) > 1:
                columns.append(held_out_scores(judge, encoded[judge.name], corpus, **arguments))
                scores = columns[-1].out_of_fold(fold)
            else:
                scores = fold_scores(judge, encoded[judge.name], corpus, **arguments)
            if unit == "text":
                found.texts[judge.name] = scores
            else:
                found.pairs[judge.name] = scores[corpus.pairs[:, 0]] - scores[corpus.pairs[:, 1]]
        if columns and unit == "text":
            found.texts[STACKED] = combine_texts(columns, corpus.labels, fold)
        elif columns:
            found.pairs[STACKED] = combine_pairs(columns, corpus.pairs, fold)
    return found


def enough_pairs(corpus: Corpus, fold: np.ndarray) -> bool:
    """Whether two pairs or more lie outside any two folds, which is what fits on pairs need.

    Args:
        corpus: texts and pairs.
        fold: [U] fold of each text.
    """
    counts = np.sort(np.bincount(fold[corpus.pairs[:, 0]], minlength=int(fold.max()) + 1))
    return bool(counts[:-2].sum() >= 2)


def fits(judges: int, folds: int, estimands: int = 2, *, stacked: bool = True) -> int:
    """How many fits `probe` makes: more of each judge that is combined with others."""
    return judges * estimands * (folds * (folds - 1) // 2 if stacked else folds)


def estimates(corpus: Corpus, *probed: Probed, bootstrap: int, seed: int | str, by_type: bool = True) -> list[Estimate]:
    """AUC and paired accuracy of each judge, over all negatives and for each type.

    A type's AUC is that of its negatives against the positives that they are paired with: types may come from other
    sources than each other, and that is not what tells the classes apart. A type without pairs has all positives.

    Args:
        corpus: what was probed.
        probed: what the judges said, once or with several fold seeds: the values are means over these.
        bootstrap: resamples behind each interval; 0 for none.
        seed: of the bootstrap.
        by_type: whether to break down by negative type.
    """
    types = [ALL, *(sorted({str(t) for t in corpus.types[corpus.labels == 0]}) if by_type else [])]
    weights = list(image_weights(len(corpus.image_ids), bootstrap, seed))
    found = []
    for judge in probed[0].texts:
        for name in types:
            rows = _texts_of_type(corpus, name)
            images = corpus.images[rows]
            measures = [auc_of(one.texts[judge][rows], corpus.labels[rows]) for one in probed]
            drawn = [float(np.mean([measure(weight[images]) for measure in measures])) for weight in weights]
            value = float(np.mean([measure(None) for measure in measures]))
            found.append(_estimate("auc", judge, name, value, drawn, len(rows)))
    for judge in probed[0].pairs:
        wins = np.mean([paired_wins(one.pairs[judge]) for one in probed], axis=0)
        for name in types:
            rows = np.flatnonzero((corpus.pair_types == name) | (name == ALL))
            images = corpus.pair_images[rows]
            drawn = [_mean(wins[rows], weight[images]) for weight in weights]
            found.append(_estimate("paired_accuracy", judge, name, _mean(wins[rows]), drawn, len(rows)))
    return found


def _texts_of_type(corpus: Corpus, negative_type: str) -> np.ndarray:
    if negative_type == ALL:
        return np.arange(len(corpus.captions))
    positive = corpus.labels == 1
    paired = np.zeros(len(positive), dtype=bool)
    paired[corpus.pairs[corpus.pair_types == negative_type, 0]] = True
    return np.flatnonzero((paired if paired.any() else positive) | (corpus.types == negative_type))


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
        yield np.bincount(generator.integers(0, images, images), minlength=images).astype(np.float64)


def _estimate(
    estimand: str, judge: str, negative_type: str, value: float, drawn: Sequence[float], count: int
) -> Estimate:
    present = [number for number in drawn if not np.isnan(number)]
    low, high = np.percentile(present, (2.5, 97.5)) if present else (None, None)
    ends = (None if low is None else float(low), None if high is None else float(high))
    return Estimate(estimand, judge, negative_type, value, *ends, count)


def _mean(values: np.ndarray, weight: np.ndarray | None = None) -> float:
    weight = np.ones(len(values)) if weight is None else weight
    return float((values * weight).sum() / weight.sum()) if weight.sum() else float("nan")
