"""Judges: what they see of a text, that rows are features of one text alone, and fits against slow references."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import negatives.judging.linear
from negatives.judging.bias_metrics import auc
from negatives.judging.crossfit import in_threads
from negatives.judging.judge import Judge
from negatives.judging.linear import (
    COARSE_STEPS,
    NEWTON_STEPS,
    SURFACE_FEATURES,
    BayesJudge,
    LinearJudge,
    bayes_judge,
    char_judge,
    coarse,
    surface_features,
    surface_judge,
    word_judge,
)
from tests.test_negatives_text_pairs import text_pairs_of, with_giveaway

MAKERS: dict[str, Callable[[], Judge]] = {
    "word": word_judge, "char": char_judge, "surface": surface_judge, "bayes": bayes_judge
}  # fmt: skip
STRANGE = [
    *(
        ".",
        "a",
        "  ",
        "🐶🐱 🚌",
        "👩‍👩‍👧",
        "一只狗坐在床上。",
        "كلب على السرير",
        "e\u0301te\u0301",
        "١٢٣",
        "\u200b",
        "\x00a\n\tb",
    ),
    "a dog " * 1667,
]
every_judge = pytest.mark.parametrize("name", MAKERS)


def dense(features: object) -> np.ndarray:
    return features.toarray() if issparse(features) else np.asarray(features)  # type: ignore[attr-defined]


def test_surface_features_by_hand() -> None:
    first, second = surface_features(["A dog, a DOG; it's 10!", " one  two."])
    log = math.log1p
    # words: a dog a dog it s 10, of 1 + 3 + 1 + 3 + 2 + 1 + 2 letters; marks: ; ' !
    by_hand = {
        "characters": (log(22), log(10)),
        "words": (log(7), log(2)),
        "word length": (13 / 7, 3.0),
        "capital first": (1.0, 0.0),
        "capitals": (log(4), 0.0),
        "full stop last": (0.0, 1.0),
        "commas": (log(1), 0.0),
        "other marks": (log(3), 0.0),
        "digits": (log(2), 0.0),
        "space at an end": (0.0, 1.0),
        "double space": (0.0, 1.0),
        "repeated words": (log(2), 0.0),
    }
    assert list(by_hand) == list(SURFACE_FEATURES)
    np.testing.assert_allclose(np.stack([first, second], axis=1), list(by_hand.values()), rtol=1e-6)


def test_word_features_are_the_different_ngrams_lower_cased_with_single_letters() -> None:
    gram = dense(word_judge(2).encode(["A cat", "a cat a cat", "cat", "an cat", "a"]))
    # a, cat, a_cat | a, cat, a_cat, cat_a | cat | an, cat, an_cat | a
    assert (gram @ gram.T).tolist() == [
        [3, 3, 1, 1, 1],
        [3, 4, 1, 1, 1],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 3, 0],
        [1, 1, 0, 0, 1],
    ]


def test_char_features_are_counts_of_unit_length_with_case() -> None:
    gram = dense(char_judge(3).encode(["abab", "ab", "AB"]))
    # ab ab ba aba bab: (2, 1, 1, 1), of length sqrt 7; ab
    np.testing.assert_allclose(gram @ gram.T, [[1, 2 / 7**0.5, 0], [2 / 7**0.5, 1, 0], [0, 0, 1]], atol=1e-6)


@every_judge
def test_features_of_a_text_do_not_depend_on_the_other_texts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = text_pairs_of(with_giveaway(20, 0.2, 0.5)).captions[:50]
    alone = dense(MAKERS[name]().encode(texts))
    among = dense(MAKERS[name]().encode([*STRANGE, *texts]))[len(STRANGE) :]
    # columns are numbered anew, so that sums run in another order
    np.testing.assert_allclose(np.float64(alone) @ alone.T, np.float64(among) @ among.T, rtol=1e-12)
    monkeypatch.setattr(negatives.judging.linear, "CHUNK", 7)
    np.testing.assert_array_equal(dense(MAKERS[name]().encode(texts)), alone)


def test_fit_on_texts_is_the_logistic_regression_of_scikit_learn() -> None:
    text_pairs = text_pairs_of(with_giveaway(40, 0.2, 0.6))
    judge = replace(word_judge(2, regularisation=0.5), steps=1000)
    seen, asked = np.arange(0, 100), np.arange(100, len(text_pairs.captions))
    found = judge.fit(judge.encode(text_pairs.captions), seen, text_pairs.labels[seen])(asked)
    counter = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\b\w+\b")
    model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000, tol=1e-9)
    model.fit(counter.fit_transform([text_pairs.captions[i] for i in seen]), text_pairs.labels[seen])
    expected = model.decision_function(counter.transform([text_pairs.captions[i] for i in asked]))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_fit_on_pairs_is_the_logistic_regression_on_differences_both_ways_round() -> None:
    text_pairs = text_pairs_of(with_giveaway(40, 0.2, 0.6))
    judge = replace(word_judge(1, regularisation=0.5), steps=1000)
    found = judge.fit_pairs(judge.encode(text_pairs.captions), text_pairs.pairs)(np.arange(len(text_pairs.captions)))
    counts = CountVectorizer(binary=True, token_pattern=r"\b\w+\b").fit_transform(text_pairs.captions).toarray()
    difference = counts[text_pairs.pairs[:, 0]].astype(float) - counts[text_pairs.pairs[:, 1]]
    # each pair twice, so half the weight each
    model = LogisticRegression(C=0.25, fit_intercept=False, max_iter=5000, tol=1e-9)
    model.fit(np.concatenate([difference, -difference]), [1] * len(difference) + [0] * len(difference))
    np.testing.assert_allclose(found, counts @ model.coef_[0], atol=2e-3)


@pytest.mark.parametrize("name", ["word", "char"])
@pytest.mark.parametrize("unit", ["text", "pair"])
def test_fits_that_stop_early_follow_those_that_do_not_the_closer_the_later(name: str, unit: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(200, 0.2, 0.6))
    judge = MAKERS[name]()
    assert isinstance(judge, LinearJudge)
    assert (coarse(judge).steps, judge.steps) == (COARSE_STEPS, NEWTON_STEPS)  # type: ignore[attr-defined]
    encoded, half = judge.encode(text_pairs.captions), text_pairs.images < 100
    pairs, rows = text_pairs.pairs[half[text_pairs.pairs[:, 0]]], np.flatnonzero(half)

    def scores(judge: Judge) -> np.ndarray:
        scorer = (
            judge.fit(encoded, rows, text_pairs.labels[rows]) if unit == "text" else judge.fit_pairs(encoded, pairs)
        )
        return scorer(np.flatnonzero(~half))

    exact = scores(replace(judge, steps=1000))
    one, two, three = (
        np.corrcoef(scores(own), exact)[0, 1] for own in (replace(judge, steps=1), coarse(judge), judge)
    )  # fmt: skip
    assert one < two < three < 1 - 1e-9
    assert two > 0.9
    assert three > 0.97


def test_only_linear_judges_have_coarse_fits_and_few_columns_are_fitted_to_the_end() -> None:
    bayes = bayes_judge()
    assert coarse(bayes) is bayes
    text_pairs = text_pairs_of(with_giveaway(40, 0.2, 0.6))
    judge, rows = surface_judge(), np.arange(len(text_pairs.captions))
    encoded = judge.encode(text_pairs.captions)
    for fits in (
        lambda own: own.fit(encoded, rows, text_pairs.labels),
        lambda own: own.fit_pairs(encoded, text_pairs.pairs),
    ):
        assert fits(judge)(rows).tolist() == fits(replace(judge, steps=1000))(rows).tolist()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_fit_that_stops_early_warns_nobody_and_leaves_the_filters_alone(workers: int) -> None:
    text_pairs = text_pairs_of(with_giveaway(40, 0.2, 0.6))
    judge, rows = replace(word_judge(2), steps=1), np.arange(len(text_pairs.captions))
    encoded = judge.encode(text_pairs.captions)

    def fit(number: int) -> None:
        judge.fit(encoded, rows[number:], text_pairs.labels[number:])
        judge.fit_pairs(encoded, text_pairs.pairs[number:])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        in_threads(fit, range(16), workers)
        fit(0)
        assert warnings.filters == before
        with pytest.raises(UserWarning):
            warnings.warn("others are heard", UserWarning, stacklevel=1)
    with pytest.warns(ConvergenceWarning):  # that there is something not to hear
        LogisticRegression(solver="newton-cg", max_iter=1).fit(encoded[rows], text_pairs.labels)


@every_judge
@pytest.mark.parametrize("unit", ["text", "pair"])
def test_scores_by_parts_are_those_of_one_go(name: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text_pairs = text_pairs_of(with_giveaway(20, 0.2, 0.6))
    judge, rows = MAKERS[name](), np.arange(len(text_pairs.captions))
    encoded = judge.encode(text_pairs.captions)
    scorer = (
        judge.fit(encoded, rows, text_pairs.labels) if unit == "text" else judge.fit_pairs(encoded, text_pairs.pairs)
    )
    asked = rows[::-1][:50]
    whole = scorer(asked)
    assert np.ptp(whole) > 0
    monkeypatch.setattr(negatives.judging.linear, "CHUNK", 7)
    # dense features: a product of fewer rows may sum in another order
    np.testing.assert_allclose(scorer(asked), whole, rtol=1e-5, atol=1e-6)
    assert whole.dtype == np.float64


@pytest.mark.parametrize("name", ["word", "char", "bayes"])
def test_of_no_texts_there_are_no_scores(name: str) -> None:
    """A panel may have a fold without texts that are asked about."""
    judge, rows = MAKERS[name](), np.arange(4)
    encoded = judge.encode(["a dog", "a cat", "a dog", "a bus"])
    for scorer in (judge.fit(encoded, rows, rows % 2), judge.fit_pairs(encoded, rows.reshape(-1, 2))):
        scores = scorer(np.zeros(0, dtype=np.int64))
        assert (scores.shape, scores.dtype) == ((0,), np.float64)


def test_naive_bayes_by_hand() -> None:
    judge = BayesJudge(MAKERS["bayes"]().features, smoothing=0.5)  # type: ignore[attr-defined]
    texts = ["dog", "dog", "cat", "cat", "dog", "fish"]
    encoded = judge.encode(texts)
    scores = judge.fit(encoded, np.arange(5), np.array([1, 1, 1, 0, 0]))(np.arange(6))
    # positives: 2 of 3 dog, 1 of 3 cat; negatives: 1 of 2 each; fish in none; smoothed by 0.5 in 5 texts
    dog = math.log((2 / 3 + 0.1) / (1 / 2 + 0.1))
    cat = math.log((1 / 3 + 0.1) / (1 / 2 + 0.1))
    np.testing.assert_allclose(scores, [dog, dog, cat, cat, dog, 0.0], rtol=1e-5, atol=1e-9)
    pairs = judge.fit_pairs(encoded, np.array([[0, 3], [1, 4]]))(np.array([0, 3]))
    # first of each pair: dog, dog; second: cat, dog
    np.testing.assert_allclose(pairs, [math.log(1.125 / 0.625), math.log(0.125 / 0.625)], rtol=1e-5)


@every_judge
def test_exchanging_the_texts_of_every_pair_negates_all_scores(name: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(40, 0.1, 0.5, giveaway="indeed ."))
    judge, rows = MAKERS[name](), np.arange(len(text_pairs.captions))
    encoded = judge.encode(text_pairs.captions)
    scores = judge.fit_pairs(encoded, text_pairs.pairs)(rows)
    back = judge.fit_pairs(encoded, text_pairs.pairs[:, ::-1])(rows)
    assert np.ptp(scores) > 0.5
    np.testing.assert_allclose(back, -scores, atol=1e-9)


@every_judge
@pytest.mark.parametrize("unit", ["text", "pair"])
def test_judges_learn_the_giveaway(name: str, unit: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(60, 0.0, 0.5, giveaway="indeed ."))
    judge = MAKERS[name]()
    encoded = judge.encode(text_pairs.captions)
    half = text_pairs.images < 30
    if unit == "text":
        scorer = judge.fit(encoded, np.flatnonzero(half), text_pairs.labels[half])
    else:
        scorer = judge.fit_pairs(encoded, text_pairs.pairs[half[text_pairs.pairs[:, 0]]])
    is_plain = np.array(["indeed" not in text for text in text_pairs.captions])
    assert auc(scorer(np.flatnonzero(~half)), is_plain[~half].astype(int)) > 0.9


@every_judge
def test_classes_weigh_the_same_whatever_their_sizes(name: str) -> None:
    """Of a text that is in both classes alike, nothing is known, also where one class is three times the other."""
    texts = ["a dog", "the cat on a bed.", "a dog", "the cat on a bed."]
    labels = np.array([1, 1, 0, 0])
    rows = np.array([0, 1] * 20 + [2, 3] * 60)
    judge = MAKERS[name]()
    scores = judge.fit(judge.encode(texts), rows, labels[rows])(np.arange(4))
    # naive Bayes adds its half a count to either class, which weighs a little more in the smaller one
    np.testing.assert_allclose(scores, 0.0, atol=0.02 if name == "bayes" else 1e-3)


@every_judge
@pytest.mark.parametrize("texts", [STRANGE, ["🐶", "🐱", ".", "!"] * 2], ids=["all kinds", "no word at all"])
def test_strange_texts_get_finite_scores_without_a_warning(name: str, texts: list[str]) -> None:
    judge, rows = MAKERS[name](), np.arange(len(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = judge.encode(texts)
        scores = judge.fit(encoded, rows, rows % 2)(rows)
        pairs = judge.fit_pairs(encoded, rows.reshape(-1, 2))(rows)
    assert np.isfinite(scores).all()
    assert np.isfinite(pairs).all()


def test_encoding_sees_no_label_and_judges_have_different_names() -> None:
    judges = [maker() for maker in MAKERS.values()]
    assert [judge.name for judge in judges] == list(MAKERS)
    assert all(isinstance(judge, LinearJudge | BayesJudge) and judge.threads for judge in judges)


def test_an_ngram_that_neither_class_has_weighs_nothing_for_bayes_whatever_the_sizes() -> None:
    """With counts smoothed alike, every unseen n-gram would vote for the smaller class."""
    texts = [
        *("red dog", "blue dog"),
        *(f"{colour} cat" for colour in ("red", "blue") for _ in range(5)),
        "a lone word",
    ]
    judge = bayes_judge(1)
    scorer = judge.fit(judge.encode(texts), np.arange(12), np.array([1, 1, *[0] * 10]))
    assert scorer(np.array([12])).tolist() == [0.0]
