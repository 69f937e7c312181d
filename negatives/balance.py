"""Filters: which texts to keep, so that the text alone says less about the label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from negatives.judges import cross_fit
from negatives.randomness import hash_of
from negatives.records import VERDICT_SCHEMA, strings


def top_fraction(oof_score: np.ndarray, labels: np.ndarray, text_ids: Sequence[str], fraction: float) -> np.ndarray:
    """Keeps all but the texts that the judge is most confidently right about (LLaVA-score, arXiv 2410.00905).

    Within each class, floor(fraction * n) of its n texts are dropped: positives with the highest score, negatives with
    the lowest. Ties are broken by a hash of the text's id: at random, and always in the same way.

    Args:
        oof_score: [N] probability that the label is 1.
        labels: [N] 1 or 0.
        text_ids: N ids.
        fraction: part of each class to drop, in [0, 1).

    Returns:
        [N] bool, True = kept.

    >>> top_fraction(np.array([0.9, 0.6, 0.2, 0.8]), np.array([1, 1, 0, 0]), ["a", "b", "c", "d"], 0.5).tolist()
    [False, True, False, True]
    """
    labels = np.asarray(labels)
    # -score, not 1 - score: rounding would tie the scores nearest to zero
    confidence = np.where(labels == 1, oof_score, -np.asarray(oof_score))
    ties = _hashes("top_fraction", text_ids)
    keep = np.ones(len(labels), dtype=bool)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        dropped = math.floor(fraction * len(rows) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        ranked = rows[np.lexsort((ties[rows], -confidence[rows]))]
        keep[ranked[:dropped]] = False
    return keep


def random_subset(labels: np.ndarray, keep: np.ndarray, text_ids: Sequence[str], seed: int) -> np.ndarray:
    """The control of a filter: as many texts of each class as `keep` keeps, drawn at random.

    Returns:
        [N] bool, True = kept; a function of the seed, the ids and the numbers kept, not of the rows' order.
    """
    labels, keep = np.asarray(labels), np.asarray(keep, dtype=bool)
    draws = _hashes(f"random_subset {seed}", text_ids)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        chosen[rows[np.argsort(draws[rows], kind="stable")][: keep[rows].sum()]] = True
    return chosen


_drop_top = top_fraction  # `filter_texts` has an argument of the rule's name


def filter_texts(
    texts: pa.Table,
    *,
    top_fraction: float = 0.3,
    folds: int = 5,
    ngrams: int = 2,
    regularisation: float = 1.0,
    score_step: float = 0.0,
    seed: int = 0,
) -> pa.Table:
    """Judges all texts out-of-fold and drops the top fraction of each class.

    Args:
        texts: columns `text_id, image_id, caption, label` (see `records.text_table`).
        top_fraction: part of each class to drop, in [0, 1).
        folds: folds of the judge, by image.
        ngrams: longest word n-gram of the judge.
        regularisation: inverse strength of the judge's L2 penalty.
        score_step: scores are rounded to multiples of it before they are ranked, so that differences below the judge's
            sampling error are ties, dropped at random; 0 ranks them as they are.
        seed: seeds the folds.

    Returns:
        Verdicts, row i for row i of `texts`; `keep_probability` is 1 where kept and 0 elsewhere.

    Raises:
        InputError: if the texts cannot be judged (see `judges.cross_fit`).
    """
    labels, text_ids = texts["label"].to_numpy(), strings(texts, "text_id")
    fold, score = cross_fit(
        strings(texts, "caption"),
        labels,
        strings(texts, "image_id"),
        folds=folds,
        seed=seed,
        ngrams=ngrams,
        regularisation=regularisation,
    )
    ranked = np.round(score / score_step) if score_step else score
    keep = _drop_top(ranked, labels, text_ids, top_fraction)
    columns = (text_ids, labels, fold, score, keep.astype(np.float64), keep)
    return pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)


def _hashes(purpose: str, text_ids: Sequence[str]) -> np.ndarray:
    return np.array([hash_of(purpose, text_id) for text_id in text_ids], dtype=np.uint64)
