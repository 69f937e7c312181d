"""The audit: how much of the label the text alone gives away, and which words do it.

0.5 is what a text-blind coin would reach, for the AUC of single texts as for the paired accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from negatives.judges import cross_fit, word_counter
from negatives.randomness import generator_for
from negatives.records import strings


@dataclass(frozen=True)
class TypeAudit:
    """One negative type: its negatives against all positives, and each against its own positive."""

    negatives: int
    auc: float
    pairs: int
    paired_accuracy: float | None


@dataclass(frozen=True)
class LeakingNgram:
    """An n-gram that one class uses more: in how many positives and negatives it is, and its z-score (> 0)."""

    ngram: str
    positives: int
    negatives: int
    z: float


@dataclass(frozen=True)
class Audit:
    """What a text-only judge reaches; intervals are 95 % percentile bootstrap intervals over images.

    Pair fields are None where there is no pair whose both texts are kept.
    """

    positives: int
    negatives: int
    images: int
    auc: float
    auc_interval: tuple[float, float]
    pairs: int
    paired_accuracy: float | None
    paired_accuracy_interval: tuple[float, float] | None
    types: dict[str, TypeAudit] = field(default_factory=dict)
    leaking: dict[str, list[LeakingNgram]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The audit as plain dicts, lists, numbers and strings."""
        plain = asdict(self)
        for name in ("auc_interval", "paired_accuracy_interval"):
            plain[name] = None if plain[name] is None else list(plain[name])
        return plain


def audit_texts(
    texts: pa.Table,
    negatives: pa.Table | None = None,
    keep: Sequence[bool] | np.ndarray | None = None,
    *,
    folds: int = 5,
    ngrams: int = 2,
    regularisation: float = 1.0,
    top: int = 20,
    seed: int = 0,
    bootstrap: int = 200,
) -> Audit:
    """Fits a fresh judge on the kept texts, cross-fitted by image, and measures what it reaches.

    Args:
        texts: columns `text_id, image_id, caption, label, negative_type` (see `records.text_table`).
        negatives: the negatives table, which says what negative belongs to what positive; no pairs without it.
        keep: [N] which texts to audit; all where not given.
        folds: folds of the judge, by image.
        ngrams: longest word n-gram of the judge and of the leaking ones.
        regularisation: inverse strength of the judge's L2 penalty.
        top: leaking n-grams listed for each class.
        seed: seeds folds and bootstrap.
        bootstrap: resamples of images behind each interval.

    Raises:
        InputError: if the texts cannot be judged (see `judges.cross_fit`).
    """
    if keep is not None:
        texts = texts.filter(pa.array(np.asarray(keep, dtype=bool)))
    captions, image_ids, labels = strings(texts, "caption"), strings(texts, "image_id"), texts["label"].to_numpy()
    _, score = cross_fit(
        captions,
        labels,
        image_ids,
        folds=folds,
        seed=f"audit {seed}",  # not the filter's folds at the same seed: the judge is fresh to what the filter kept
        ngrams=ngrams,
        regularisation=regularisation,
    )
    images, image = np.unique(np.array(image_ids), return_inverse=True)
    rows, wins, pair_types = _pairs(texts, negatives, score)
    pair_image = image[rows]

    def interval(statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
        return image_interval(statistic, len(images), bootstrap, seed)

    return Audit(
        positives=int((labels == 1).sum()),
        negatives=int((labels == 0).sum()),
        images=len(images),
        auc=auc(score, labels),
        auc_interval=interval(lambda weight: auc(score, labels, weight[image])),
        pairs=len(wins),
        paired_accuracy=float(wins.mean()) if len(wins) else None,
        paired_accuracy_interval=interval(lambda weight: _mean(wins, weight[pair_image])) if len(wins) else None,
        types=_types(score, labels, np.array(strings(texts, "negative_type")), wins, pair_types),
        leaking=leaking_ngrams(captions, labels, ngrams=ngrams, top=top),
    )


def auc(score: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Chance that a positive scores above a negative, ties one half; NaN where a class has no weight.

    Args:
        score: [N] higher = more likely positive.
        labels: [N] 1 or 0.
        weight: [N] how often each row counts; once where not given.

    >>> auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0]))
    0.875
    """
    weight = np.ones(len(score)) if weight is None else weight
    _, rank = np.unique(score, return_inverse=True)
    positive = np.bincount(rank, weight * (labels == 1))
    negative = np.bincount(rank, weight * (labels == 0))
    below = np.cumsum(negative) - negative
    total = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / total) if total else float("nan")


def image_interval(
    statistic: Callable[[np.ndarray], float], images: int, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic, with images drawn with replacement.

    Args:
        statistic: of the [images] weights, how often each image was drawn; NaN results are left out.
        images: number of images.
        resamples: number of draws.
        seed: seeds the draws.
    """
    weights = generator_for("image_interval", seed).multinomial(images, np.full(images, 1 / images), resamples)
    low, high = np.nanpercentile([statistic(weight.astype(np.float64)) for weight in weights], [2.5, 97.5])
    return float(low), float(high)


def leaking_ngrams(
    texts: Sequence[str], labels: np.ndarray, *, ngrams: int = 2, top: int = 20, prior: float = 500.0
) -> dict[str, list[LeakingNgram]]:
    """The n-grams that tell the classes apart best: log-odds ratio with an informative Dirichlet prior, as z-scores.

    Monroe, Colaresi and Quinn 2008, "Fightin' Words"; an n-gram counts once in a text, as for the judge.

    Args:
        texts: N texts.
        labels: [N] 1 or 0.
        ngrams: longest word n-gram.
        top: n-grams listed for each class at most.
        prior: pseudo-counts of the prior, spread over the n-grams like the counts of both classes together.

    Returns:
        "positive" and "negative": the n-grams used more in that class, largest z first.
    """
    counter = word_counter(ngrams)
    matrix = counter.fit_transform(texts)
    count = np.stack([np.asarray(matrix[np.flatnonzero(labels == c)].sum(axis=0)).ravel() for c in (1, 0)])
    alpha = prior * count.sum(axis=0) / count.sum()
    smooth = count + alpha
    rest = count.sum(axis=1, keepdims=True) + prior - smooth
    with np.errstate(divide="ignore", invalid="ignore"):  # a vocabulary of one n-gram leaves no rest
        log_odds = np.log(smooth) - np.log(rest)
        z = (log_odds[0] - log_odds[1]) / np.sqrt((1 / smooth).sum(axis=0))
    words = counter.get_feature_names_out()
    return {"positive": _top(words, count, z, top), "negative": _top(words, count, -z, top)}


def _top(words: np.ndarray, count: np.ndarray, z: np.ndarray, top: int) -> list[LeakingNgram]:
    # rounded: equal counts can differ in the last digit, and ties go by the alphabet
    order = [i for i in np.lexsort((words, -z.round(9)))[:top] if z[i] > 0]
    return [LeakingNgram(str(words[i]), int(count[0, i]), int(count[1, i]), float(z[i])) for i in order]


def _pairs(texts: pa.Table, negatives: pa.Table | None, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every kept pair: the positive's row, 1 / 0.5 / 0 for won / tied / lost, and the negative's type."""
    row_of = {text_id: row for row, text_id in enumerate(strings(texts, "text_id"))}
    found = []
    if negatives is not None:
        names = (strings(negatives, name) for name in ("caption_id", "negative_id", "negative_type"))
        for caption_id, negative_id, negative_type in zip(*names, strict=True):
            pair = row_of.get(f"caption:{caption_id}"), row_of.get(f"negative:{negative_id}")
            if None not in pair:
                found.append((*pair, negative_type))
    positive = np.array([pair[0] for pair in found], dtype=np.int64)
    negative = np.array([pair[1] for pair in found], dtype=np.int64)
    wins = (np.sign(score[positive] - score[negative]) + 1) / 2
    return positive, wins, np.array([pair[2] for pair in found], dtype=str)


def _types(
    score: np.ndarray, labels: np.ndarray, types: np.ndarray, wins: np.ndarray, pair_types: np.ndarray
) -> dict[str, TypeAudit]:
    audits = {}
    for name in sorted(set(types[labels == 0].tolist())):
        rows = (labels == 1) | (types == name)
        own = wins[pair_types == name]
        audits[name] = TypeAudit(
            negatives=int((types == name).sum()),
            auc=auc(score[rows], labels[rows]),
            pairs=len(own),
            paired_accuracy=float(own.mean()) if len(own) else None,
        )
    return audits


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float((values * weight).sum() / weight.sum()) if weight.sum() else float("nan")
