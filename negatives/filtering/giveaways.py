"""What tells positives from negatives in their texts: n-grams that one class prefers, and habits of style."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negatives.judging.bias_metrics import auc
from negatives.judging.linear import MARKS, TOKEN_PATTERN


@dataclass(frozen=True)
class LeakingNgram:
    """An n-gram that one class uses more: in how many positives and negatives it is, and its z-score (> 0)."""

    ngram: str
    positives: int
    negatives: int
    z: float


@dataclass(frozen=True)
class Giveaway:
    """A habit of style.

    Attributes:
        name: one of `MEANS` or `SHARES`.
        kind: "mean" over texts, or "share" of texts that have it, in [0, 1].
        positives, negatives: its value in each class.
        auc: what the giveaway alone says of the label: below 0.5 where negatives have more of it.
    """

    name: str
    kind: str
    positives: float
    negatives: float
    auc: float

    def to_json(self) -> dict[str, Any]:
        """As `audit.json` holds it: there the name is called cue."""
        return {"cue" if name == "name" else name: value for name, value in vars(self).items()}


def leaking_ngrams(
    texts: Sequence[str], labels: np.ndarray, *, ngrams: int = 2, top: int = 20, prior: float = 500.0
) -> dict[str, list[LeakingNgram]]:
    """The n-grams that tell the classes apart best: log-odds ratio with an informative Dirichlet prior, as z-scores.

    Monroe, Colaresi and Quinn, "Fightin' Words", Political Analysis 16(4), 2008, sections 3.3 to 3.5. A ratio of rates
    would list the rarest words first, and a difference of rates the commonest. Dividing the log-odds ratio by its
    standard deviation asks how sure the difference is; the prior, which follows the counts of both classes together,
    pulls words that are seldom there towards no difference. An n-gram counts once in a text, as for the word judge.

    Args:
        texts: N texts.
        labels: [N] 1 or 0.
        ngrams: longest word n-gram.
        top: n-grams listed for each class at most.
        prior: pseudo-counts of the prior, spread over the n-grams like the counts of both classes together.

    Returns:
        "positive" and "negative": the n-grams used more in that class, largest z first.
    """
    words, count = _ngram_counts(texts, labels, ngrams)
    if not len(words):
        return {"positive": [], "negative": []}
    # the paper's names: y (here count), alpha, and the smoothed count y + alpha against all others of its class
    alpha = prior * count.sum(axis=0) / count.sum()
    smooth = count + alpha
    rest = count.sum(axis=1, keepdims=True) + prior - smooth
    with np.errstate(divide="ignore", invalid="ignore"):  # a vocabulary of one n-gram leaves no rest
        log_odds = np.log(smooth) - np.log(rest)
        # the variance of the ratio is about the sum of one over each smoothed count
        z = (log_odds[0] - log_odds[1]) / np.sqrt((1 / smooth).sum(axis=0))
    return {"positive": _top(words, count, z, top), "negative": _top(words, count, -z, top)}


def _ngram_counts(texts: Sequence[str], labels: np.ndarray, ngrams: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams by the alphabet, and [2, n-grams] the number of positives and of negatives that hold each."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(binary=True, ngram_range=(1, ngrams), token_pattern=TOKEN_PATTERN, dtype=np.int32)
    # scikit-learn refuses texts without any word
    if not any(re.search(TOKEN_PATTERN, text) for text in texts):
        return np.empty(0, dtype=object), np.empty((2, 0))
    matrix = counter.fit_transform(texts)
    count = np.stack([np.asarray(matrix[np.flatnonzero(labels == c)].sum(axis=0)).ravel() for c in (1, 0)])
    return counter.get_feature_names_out(), count


def _top(words: np.ndarray, count: np.ndarray, z: np.ndarray, top: int) -> list[LeakingNgram]:
    # rounded: equal counts can differ in the last digit, and ties go by the alphabet
    order = [i for i in np.argsort(-z.round(9), kind="stable")[:top] if z[i] > 0]
    return [LeakingNgram(str(words[i]), int(count[0, i]), int(count[1, i]), float(z[i])) for i in order]


MEANS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "characters": lambda text, words: len(text),
    "words": lambda text, words: len(words),
    "letters a word": lambda text, words: sum(map(len, words)) / max(1, len(words)),
    "capitals": lambda text, words: sum(letter.isupper() for letter in text),
    "commas": lambda text, words: text.count(","),
}
"""Giveaway -> its size in a text, from the text and its lower-cased words."""

SHARES: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "capital first": lambda text, words: text.lstrip()[:1].isupper(),
    "full stop last": lambda text, words: text.rstrip().endswith("."),
    "another mark last": lambda text, words: text.rstrip().endswith(tuple("!?…;:,-")),
    "quotes, brackets, other marks": lambda text, words: any(mark in MARKS for mark in text),
    "digits": lambda text, words: any(letter.isdigit() for letter in text),
    "space at an end": lambda text, words: text != text.strip(),
    "double space": lambda text, words: "  " in text.strip(),
    "a word twice": lambda text, words: len(set(words)) < len(words),
}
"""Giveaway -> whether a text has it, from the text and its lower-cased words."""


def style_giveaways(texts: Sequence[str], labels: np.ndarray) -> list[Giveaway]:
    """What each class's texts look like, habit by habit; NaN for a class without texts.

    Args:
        texts: N texts.
        labels: [N] 1 or 0.

    >>> found = style_giveaways(["A dog.", "a dog", "a cat"], np.array([1, 0, 0]))
    >>> next((one.positives, one.negatives, one.auc) for one in found if one.name == "full stop last")
    (1.0, 0.0, 1.0)
    """
    kinds = {**dict.fromkeys(MEANS, "mean"), **dict.fromkeys(SHARES, "share")}
    functions = [*MEANS.values(), *SHARES.values()]
    # one pass over the texts: each is split into words once for all habits
    values = np.empty((len(texts), len(functions)))
    for row, text in enumerate(texts):
        words = re.findall(TOKEN_PATTERN, text.lower())
        values[row] = [function(text, words) for function in functions]
    positive = labels == 1
    return [
        Giveaway(name, kind, _mean(column[positive]), _mean(column[~positive]), auc(column, labels))
        for (name, kind), column in zip(kinds.items(), values.T, strict=True)
    ]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
