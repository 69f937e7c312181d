"""Judges that see the text only: how likely is it that a caption is a positive, without a look at the image?

A judge turns texts into features once (`encode`, which sees no label) and is then fitted on some of them: on single
texts with labels, or on pairs, where it learns to score the positive above its negative. What it has learnt is a score
for each text; on a pair it is the difference of the two, so that it is antisymmetric in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TOKEN_PATTERN = r"(?u)\b\w+\b"  # scikit-learn's own drops single letters: "a" against "an" is a cue
HASHED = 2**20  # columns that n-grams are hashed into; unlike a vocabulary, a hash sees no other text
CHUNK = 100_000  # texts whose n-grams are counted at a time

Scorer = Callable[[np.ndarray], np.ndarray]
"""Rows of encoded texts [n] -> their scores [n], higher = more likely positive."""


class Judge(Protocol):
    """What cross-fitting asks of a judge. Fits depend on their arguments only: not on order, thread or history."""

    @property
    def name(self) -> str:
        """Names the judge in tables."""

    @property
    def threads(self) -> bool:
        """Whether several fits may run at a time, each in a thread."""

    def encode(self, texts: Sequence[str]) -> Any:
        """What `fit` and `fit_pairs` take for the texts, one row for each; sees no label.

        The result is indexed by an array of rows (`encoded[rows]`), which gives the same for these texts.
        """

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """Learns to tell the classes apart, both weighing the same: a logit for each text.

        Args:
            encoded: what `encode` returned.
            rows: [n] texts to learn from.
            labels: [n] 1 or 0, both there.
        """

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        """Learns to score positives above their negatives: the difference is the logit of a pair.

        Args:
            encoded: what `encode` returned.
            pairs: [n, 2] rows of a positive and its negative, at least two.
        """


@dataclass(frozen=True)
class LinearJudge:
    """Logistic regression on features of a text, with an L2 penalty.

    Args:
        name: names the judge.
        features: texts -> sparse or dense features; each row depends on its text only.
        regularisation: inverse strength of the penalty (scikit-learn's C).
        standardised: whether features are brought to mean 0 and variance 1, as measured where the judge is fitted.
    """

    name: str
    features: Callable[[Sequence[str]], Any]
    regularisation: float = 1.0
    standardised: bool = False
    threads: bool = True

    def encode(self, texts: Sequence[str]) -> Any:
        """Features [N, F], float32."""
        return self.features(texts)

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """See `Judge.fit`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # on n-grams Newton's method takes a handful of steps and a fraction of the default solver's time
        model = LogisticRegression(C=self.regularisation, class_weight="balanced", solver="newton-cg", max_iter=1000)
        if self.standardised:
            scaled = make_pipeline(StandardScaler(), model).fit(encoded[rows], labels)
            return lambda rows: scaled.decision_function(encoded[rows]).astype(np.float64)
        part, used = _columns_in_use(encoded[rows])
        model.fit(part, labels)
        return _linear(encoded, _spread(model.coef_[0], used, encoded.shape[1]), float(model.intercept_[0]))

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        """See `Judge.fit_pairs`."""
        from sklearn.linear_model import LogisticRegression

        # every other pair the other way round: the loss is the same, and the solver needs two classes
        first = np.arange(len(pairs)) % 2 == 0
        difference = _signed(encoded[pairs[:, 0]] - encoded[pairs[:, 1]], np.where(first, 1, -1).astype(np.float32))
        model = LogisticRegression(C=self.regularisation, solver="newton-cg", max_iter=1000, fit_intercept=False)
        if self.standardised:
            scale = np.sqrt((difference**2).mean(axis=0)) + 1e-6
            return _linear(encoded, model.fit(difference / scale, first).coef_[0] / scale)
        part, used = _columns_in_use(difference)
        return _linear(encoded, _spread(model.fit(part, first).coef_[0], used, encoded.shape[1]))


def _linear(encoded: Any, weights: np.ndarray, intercept: float = 0.0) -> Scorer:
    return lambda rows: np.asarray(encoded[rows] @ weights, dtype=np.float64) + intercept


def _columns_in_use(features: Any) -> tuple[Any, np.ndarray]:
    """The features without the columns that no row has, and which are left: a fit must not know of other texts' ones,
    not even in the order in which it sums."""
    from scipy.sparse import csr_matrix

    if isinstance(features, np.ndarray):
        return features, np.arange(features.shape[1])
    used = np.flatnonzero(np.bincount(features.indices, minlength=features.shape[1]))
    column = np.zeros(features.shape[1], dtype=features.indices.dtype)
    column[used] = np.arange(len(used))
    shape = (features.shape[0], max(1, len(used)))
    return csr_matrix((features.data, column[features.indices], features.indptr), shape=shape), used


def _spread(weights: np.ndarray, used: np.ndarray, columns: int) -> np.ndarray:
    whole = np.zeros(columns, dtype=weights.dtype)
    whole[used] = weights[: len(used)]
    return whole


def _signed(difference: Any, sign: np.ndarray) -> Any:
    if isinstance(difference, np.ndarray):
        return difference * sign[:, None]
    difference.data *= np.repeat(sign, np.diff(difference.indptr))
    return difference


def word_judge(ngrams: int = 2, regularisation: float = 1.0) -> LinearJudge:
    """Which word n-grams of length 1..`ngrams` a text has: 0 or 1 each, lower-cased, single letters kept."""
    return LinearJudge("word", lambda texts: _hashed(texts, ngrams=(1, ngrams)), regularisation)


def char_judge(ngrams: int = 5, regularisation: float = 10.0) -> LinearJudge:
    """Character n-grams of length 2..`ngrams`, case kept, counts of unit length."""
    return LinearJudge("char", lambda texts: _hashed(texts, ngrams=(2, ngrams), characters=True), regularisation)


def surface_judge(regularisation: float = 1.0) -> LinearJudge:
    """Style without words (`SURFACE_FEATURES`)."""
    return LinearJudge("surface", surface_features, regularisation, standardised=True)


def bayes_judge(ngrams: int = 3, smoothing: float = 0.5) -> BayesJudge:
    """Naive Bayes on word n-grams of length 1..`ngrams`: a family that shares no fitting with the linear judges."""
    return BayesJudge(lambda texts: _hashed(texts, ngrams=(1, ngrams)), smoothing)


@dataclass(frozen=True)
class BayesJudge:
    """Naive Bayes: each n-gram of a text adds the log of how much more often it is in positives than in negatives.

    Args:
        features: texts -> 0 or 1 for each n-gram.
        smoothing: count that is spread over both classes for each n-gram, at the same rate in each.
        name: names the judge.
    """

    features: Callable[[Sequence[str]], Any]
    smoothing: float = 0.5
    name: str = "bayes"
    threads: bool = True

    def encode(self, texts: Sequence[str]) -> Any:
        """Features [N, F], float32."""
        return self.features(texts)

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """See `Judge.fit`."""
        return self._scorer(encoded, rows[labels == 1], rows[labels == 0])

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        """See `Judge.fit_pairs`: the n-grams of one side alone count, since the others cancel."""
        return self._scorer(encoded, pairs[:, 0], pairs[:, 1])

    def _scorer(self, encoded: Any, positives: np.ndarray, negatives: np.ndarray) -> Scorer:
        # rates are smoothed alike in both classes: what neither has weighs nothing, whatever their sizes
        smoothed = [
            np.asarray(encoded[rows].mean(axis=0)).ravel() + self.smoothing / (len(positives) + len(negatives))
            for rows in (positives, negatives)
        ]
        weights = np.log(smoothed[0]) - np.log(smoothed[1])
        return lambda rows: np.asarray(encoded[rows] @ weights, dtype=np.float64)


def _hashed(texts: Sequence[str], *, ngrams: tuple[int, int], characters: bool = False) -> csr_matrix:
    """n-grams of the texts in hashed columns."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer="char" if characters else "word",
        binary=not characters,
        norm="l2" if characters else None,
        lowercase=not characters,
        token_pattern=TOKEN_PATTERN,
        ngram_range=ngrams,
        n_features=HASHED,
        alternate_sign=False,
        dtype=np.float32,
    )
    parts = [vectorizer.transform(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    return parts[0] if len(parts) == 1 else vstack(parts, format="csr")


SURFACE_FEATURES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "characters": lambda text, words: float(np.log1p(len(text))),
    "words": lambda text, words: float(np.log1p(len(words))),
    "word length": lambda text, words: sum(map(len, words)) / max(1, len(words)),
    "capital first": lambda text, words: float(text.lstrip()[:1].isupper()),
    "capitals": lambda text, words: float(np.log1p(sum(letter.isupper() for letter in text))),
    "full stop last": lambda text, words: float(text.rstrip().endswith(".")),
    "commas": lambda text, words: float(np.log1p(text.count(","))),
    "other marks": lambda text, words: float(np.log1p(sum(mark in "'\"’“”-;:!?()/&" for mark in text))),
    "digits": lambda text, words: float(np.log1p(sum(letter.isdigit() for letter in text))),
    "space at an end": lambda text, words: float(text != text.strip()),
    "double space": lambda text, words: float("  " in text.strip()),
    "repeated words": lambda text, words: float(np.log1p(len(words) - len(set(words)))),
}
"""Name -> a number from a text and its lower-cased words; counts and lengths as log(1 + n)."""


def surface_features(texts: Sequence[str]) -> np.ndarray:
    """[N, F] the features of `SURFACE_FEATURES`, float32."""
    rows = [[feature(text, words) for feature in SURFACE_FEATURES.values()] for text, words in _with_words(texts)]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(SURFACE_FEATURES))


def _with_words(texts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for text in texts:
        yield text, re.findall(TOKEN_PATTERN, text.lower())
