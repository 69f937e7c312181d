"""Judges that are linear in a text's features: logistic regression, or naive Bayes, on n-grams and on habits of style.

On short texts these are hard to beat as detectors of a writer's habits, and a fit takes a second.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from negatives.judging.judge import Judge, Scorer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    from negatives.judging.settings import JudgeSettings

TOKEN_PATTERN = r"(?u)\b\w+\b"  # scikit-learn's own drops single letters: "a" against "an" is a giveaway
HASH_COLUMNS = 2**20  # columns that n-grams are hashed into; unlike a vocabulary, a hash sees no other text
CHUNK = 100_000  # texts whose n-grams are counted, or that are scored, at a time
NEWTON_STEPS = 3
"""Of a fit. After more steps the scores correlate with these at 0.996, and AUC on other texts moves by 0.0005. But a
fit of 150,000 texts takes twice the time."""
COARSE_STEPS = 2
"""Of a fit in a search, where chance matters more than last digits: a correlation of 0.985, a quarter of the time."""
ALL_STEPS = 1000
MARKS = "'\"’“”-;:!?()/&"  # punctuation other than the full stop and the comma, which are features of their own


@dataclass(frozen=True)
class LinearJudge:
    """Logistic regression on features of a text, with an L2 penalty.

    Args:
        name: names the judge.
        features: texts -> sparse or dense features; each row depends on its text only.
        regularisation: inverse strength of the penalty (scikit-learn's C).
        standardised: whether features are brought to mean 0 and variance 1, as measured where the judge is fitted.
        steps: of Newton's method at most, on sparse features; on dense ones, which are few, a fit goes to its end.
    """

    name: str
    features: Callable[[Sequence[str]], Any]
    regularisation: float = 1.0
    standardised: bool = False
    threads: bool = True
    steps: int = NEWTON_STEPS

    def encode(self, texts: Sequence[str]) -> Any:
        """Features [N, F], float32."""
        return self.features(texts)

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """See `Judge.fit`."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if self.standardised:
            model = self._model(class_weight="balanced")
            scaled = make_pipeline(StandardScaler(), model).fit(encoded[rows], labels)
            return lambda rows: scaled.decision_function(encoded[rows]).astype(np.float64)
        part, used = _columns_in_use(encoded[rows])
        model = _fitted(self._model(self._steps(part), class_weight="balanced"), part, labels)
        return _linear(encoded, _spread(model.coef_[0], used, encoded.shape[1]), float(model.intercept_[0]))

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        """See `Judge.fit_pairs`."""
        # Logistic regression on differences: the model of Bradley and Terry (Biometrika 39, 1952). Every other pair the
        # other way round: the loss is the same, and the solver needs two classes. No intercept: a pair's logit must
        # change its sign when the two texts change places.
        first = np.arange(len(pairs)) % 2 == 0
        difference = _signed(encoded[pairs[:, 0]] - encoded[pairs[:, 1]], np.where(first, 1, -1).astype(np.float32))
        if self.standardised:
            model = self._model(fit_intercept=False)
            # scaled about 0, not about the mean: which text of a pair comes first must not matter. 1e-6 is for features
            # that no pair differs in
            scale = np.sqrt((difference**2).mean(axis=0)) + 1e-6
            return _linear(encoded, model.fit(difference / scale, first).coef_[0] / scale)
        part, used = _columns_in_use(difference)
        model = _fitted(self._model(self._steps(part), fit_intercept=False), part, first)
        return _linear(encoded, _spread(model.coef_[0], used, encoded.shape[1]))

    def _steps(self, features: Any) -> int:
        return ALL_STEPS if isinstance(features, np.ndarray) else self.steps

    def _model(self, steps: int = ALL_STEPS, **settings: Any) -> LogisticRegression:
        from sklearn.linear_model import LogisticRegression

        # Newton's method by conjugate gradients: with a column for each n-gram the Hessian is far too large to build,
        # but its product with a vector costs no more than a gradient. A handful of steps, and a fraction of the default
        # solver's time. It draws nothing at random, and unlike liblinear does not shrink the intercept.
        return LogisticRegression(C=self.regularisation, solver="newton-cg", max_iter=steps, **settings)


def coarse(judge: Judge) -> Judge:
    """The judge with fits that stop early, where it can."""
    return replace(judge, steps=COARSE_STEPS) if isinstance(judge, LinearJudge) else judge


@contextmanager
def early_stops() -> Iterator[None]:
    """Fits that stop early do so without scikit-learn's warning.

    Python's list of warning filters belongs to the whole process. So threads may enter this only while the thread that
    started them is inside, and that one must leave last. Whichever list they put back meanwhile ignores the warning.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _fitted(model: LogisticRegression, features: Any, labels: np.ndarray) -> LogisticRegression:
    with early_stops():
        return model.fit(features, labels)


def _linear(encoded: Any, weights: np.ndarray, intercept: float = 0.0) -> Scorer:
    def scores(rows: np.ndarray) -> np.ndarray:
        # by parts: `encoded[rows]` is a copy
        parts = [encoded[rows[start : start + CHUNK]] @ weights for start in range(0, len(rows), CHUNK)]
        return np.concatenate([np.zeros(0), *parts]) + intercept

    return scores


def _columns_in_use(features: Any) -> tuple[Any, np.ndarray]:
    """The features without empty columns, and the numbers of the columns that are left.

    N-grams of other texts must not change a fit, not even by the order in which it sums.
    """
    from scipy.sparse import csr_matrix

    if isinstance(features, np.ndarray):
        return features, np.arange(features.shape[1])
    used = np.flatnonzero(np.bincount(features.indices, minlength=features.shape[1]))
    column = np.zeros(features.shape[1], dtype=features.indices.dtype)
    column[used] = np.arange(len(used))
    # one empty column where no text has an n-gram: scikit-learn refuses a matrix of none
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


@dataclass(frozen=True)
class BayesJudge:
    """Naive Bayes: each n-gram of a text adds the log of how much more often it is in positives than in negatives.

    The weights are the log-count ratios of Wang and Manning, "Baselines and Bigrams", ACL 2012, section 2.1, with
    another divisor: the number of a class's texts, not of its n-grams. No class has a prior weight.

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
        # Rates are smoothed alike in both classes. With the textbook's equal counts, the smaller class would get the
        # larger rate for an n-gram that neither has, and every rare word would vote for it.
        smoothed = [
            np.asarray(encoded[rows].mean(axis=0)).ravel() + self.smoothing / (len(positives) + len(negatives))
            for rows in (positives, negatives)
        ]
        weights = np.log(smoothed[0]) - np.log(smoothed[1])
        return _linear(encoded, weights)


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


def build_word(settings: JudgeSettings) -> LinearJudge:
    """The word judge as set."""
    return word_judge(settings.word_ngrams)


def build_char(settings: JudgeSettings) -> LinearJudge:
    """The character judge as set."""
    return char_judge(settings.char_ngrams)


def build_surface(settings: JudgeSettings) -> LinearJudge:
    """The surface judge; it has no settings."""
    return surface_judge()


def build_bayes(settings: JudgeSettings) -> BayesJudge:
    """The naive Bayes judge; it has no settings."""
    return bayes_judge()


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
        n_features=HASH_COLUMNS,
        # naive Bayes counts, and counts have no sign
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
    "other marks": lambda text, words: float(np.log1p(sum(mark in MARKS for mark in text))),
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
