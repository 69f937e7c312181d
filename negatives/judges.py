"""Judges that see the text only: how likely is it that a caption is a positive, without a look at the image?

A judge's scores are out-of-fold (cross-fitted): no text is judged by a model that saw another text of its image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from negatives.files import InputError, show
from negatives.randomness import hash_of

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

TOKEN_PATTERN = r"(?u)\b\w+\b"  # scikit-learn's own drops single letters: "a" against "an" is a cue


def word_counter(ngrams: int) -> CountVectorizer:
    """Which word n-grams of length 1..`ngrams` a text has: 0 or 1 each, lower-cased, single letters kept."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(binary=True, lowercase=True, token_pattern=TOKEN_PATTERN, ngram_range=(1, ngrams))


def word_judge(regularisation: float = 1.0) -> LogisticRegression:
    """Logistic regression with an L2 penalty, both classes weighing the same.

    Args:
        regularisation: inverse strength of the penalty (scikit-learn's C).
    """
    from sklearn.linear_model import LogisticRegression

    # on word counts Newton's method takes a handful of steps and a fraction of the default solver's time
    return LogisticRegression(C=regularisation, class_weight="balanced", solver="newton-cg", max_iter=1000)


def fold_of(image_ids: Sequence[str], folds: int, seed: int | str) -> np.ndarray:
    """The fold of each row's image: 0..folds-1, images dealt out in the order of a hash of (seed, image id).

    Folds differ by one image at most. They depend on the set of images, not on the rows' order.

    >>> first, second = fold_of(["a", "b", "a"], folds=2, seed=0), fold_of(["b", "a", "a"], folds=2, seed=0)
    >>> bool((first == second[[1, 0, 2]]).all())
    True
    """
    ordered = sorted(set(image_ids), key=lambda image_id: (hash_of("fold", seed, image_id), image_id))
    fold = {image_id: position % folds for position, image_id in enumerate(ordered)}
    return np.array([fold[image_id] for image_id in image_ids], dtype=np.int64)


def cross_fit(
    texts: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    image_ids: Sequence[str],
    *,
    folds: int = 5,
    seed: int | str = 0,
    ngrams: int = 2,
    regularisation: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Judges every text by a word judge that was fitted on the other folds.

    The result does not depend on the rows' order: rows are sorted before the solver sees them.

    Args:
        texts: N texts.
        labels: N labels, 1 positive or 0 negative.
        image_ids: N image ids; the texts of an image share a fold.
        folds: number of folds.
        seed: seeds the folds.
        ngrams: longest word n-gram.
        regularisation: inverse strength of the L2 penalty (scikit-learn's C).

    Returns:
        fold [N], and oof_score [N], the probability in [0, 1] that the label is 1.

    Raises:
        InputError: if a class is missing (also from the texts outside one fold), images are fewer than folds, or all
            texts are equal.
    """
    targets = np.asarray(labels, dtype=np.int64)
    _check(texts, targets, image_ids, folds)
    # rows that are equal in all three get equal folds and scores, so their order among themselves does not matter
    order = np.array(sorted(range(len(texts)), key=lambda row: (image_ids[row], texts[row], targets[row])))
    fold = fold_of(image_ids, folds, seed)
    score = np.empty(len(texts))
    # counted once for all folds: an n-gram that a fold's judge never saw keeps the weight 0
    counts = word_counter(ngrams).fit_transform([texts[row] for row in order])
    for number in range(folds):
        inside = fold[order] == number
        seen = targets[order[~inside]]
        if len(set(seen.tolist())) < 2:
            raise InputError(
                f"Each fold's judge needs texts of both classes, and all texts outside fold {number} have label "
                f"{seen[0]} ({len(set(image_ids))} images, {folds} folds). Give more images, or another seed."
            )
        model = word_judge(regularisation).fit(counts[~inside], seen)
        score[order[inside]] = model.predict_proba(counts[inside])[:, 1]
    return fold, score


def _check(texts: Sequence[str], labels: np.ndarray, image_ids: Sequence[str], folds: int) -> None:
    counts = {label: int((labels == label).sum()) for label in (1, 0)}
    if not all(counts.values()):
        raise InputError(
            f"The judge needs texts of both classes, got {counts[1]} positives and {counts[0]} negatives. "
            "Give captions together with their negatives, or keep more of them."
        )
    if len(set(image_ids)) < folds:
        raise InputError(
            f"The judge needs an image for each fold, got {len(set(image_ids))} images for {folds} folds "
            "(`judge.folds`). Give more images, or ask for fewer folds."
        )
    if len({" ".join(re.findall(TOKEN_PATTERN, text.lower())) for text in texts}) == 1:
        raise InputError(
            f"The judge needs texts whose words differ, got {len(texts)} times {show(texts[0])} (case and punctuation "
            "aside). Check the caption columns."
        )
