"""Cross-fitting: what a model saw is never of the image that it judges, and scores are those of a slow loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import negatives.judging.crossfit
from negatives.judging.bias_metrics import enough_pairs
from negatives.judging.crossfit import combine_pairs, combine_texts, fit_judge, fold_of_texts, fold_scores, in_threads
from negatives.judging.judge import Judge, Scorer
from negatives.judging.linear import LinearJudge, bayes_judge, char_judge, surface_judge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import InputError, pair_table, text_table
from negatives.tables.randomness import hash_of
from tests.test_negatives_text_pairs import Row, shuffled, tables, text_pairs_of, with_giveaway

TEXT_PAIRS = text_pairs_of(with_giveaway(40, 0.2, 0.6))
FOLD = fold_of_texts(TEXT_PAIRS, 4, 0)
LARGE = text_pairs_of(with_giveaway(300, 0.2, 0.6))


@dataclass
class RecordingJudge:
    """Remembers which rows each fit saw and which it scored; a score is the sum of what the fit saw, plus the row."""

    name: str = "recording"
    threads: bool = False
    fits: list[tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=list)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.arange(len(texts))

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        scored: list[np.ndarray] = []
        self.fits.append((rows, scored))

        def scorer(asked: np.ndarray) -> np.ndarray:
            scored.append(asked)
            return encoded[asked] + float(rows.sum())

        return scorer

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        return self.fit(encoded, pairs.ravel(), np.empty(0))


def scored(judge: Judge, text_pairs: TextPairs, fold: np.ndarray, unit: str, workers: int = 1) -> np.ndarray:
    return fold_scores(seat([judge], text_pairs, workers=workers), judge, unit=unit, fold=fold)


both_units = pytest.mark.parametrize("unit", ["text", "pair"])


@both_units
def test_no_fit_scores_a_text_of_an_image_that_it_saw(unit: str) -> None:
    judge = RecordingJudge()
    scored(judge, TEXT_PAIRS, FOLD, unit)
    assert len(judge.fits) == 4
    for seen, asked in judge.fits:
        assert len(seen) > 0
        assert not set(TEXT_PAIRS.images[seen]) & set(TEXT_PAIRS.images[np.concatenate(asked)])


def test_each_fit_sees_all_texts_outside_its_fold_and_scores_those_inside() -> None:
    judge = RecordingJudge()
    scores = scored(judge, TEXT_PAIRS, FOLD, "text")
    for number, (seen, asked) in enumerate(judge.fits):
        rows = np.flatnonzero(np.isin(FOLD, number))
        assert seen.tolist() == np.flatnonzero(~np.isin(FOLD, number)).tolist()
        assert np.concatenate(asked).tolist() == rows.tolist()
        assert scores[rows].tolist() == (rows + float(seen.sum())).tolist()


@both_units
def test_oof_scores_equal_a_slow_loop(unit: str) -> None:
    found = scored(replace(word_judge(2, regularisation=0.5), steps=1000), TEXT_PAIRS, FOLD, unit)
    expected = np.zeros(len(FOLD))
    for number in range(4):
        outside = [row for row in range(len(FOLD)) if FOLD[row] != number]
        inside = [row for row in range(len(FOLD)) if FOLD[row] == number]
        counter = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\b\w+\b")
        counter.fit([TEXT_PAIRS.captions[row] for row in outside])
        features = counter.transform(TEXT_PAIRS.captions).toarray().astype(float)
        if unit == "text":
            model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000, tol=1e-9)
            model.fit(features[outside], TEXT_PAIRS.labels[outside])
            scores = model.decision_function(features)
        else:
            pairs = [(first, second) for first, second in TEXT_PAIRS.pairs if first in outside]
            differences = np.array([features[first] - features[second] for first, second in pairs])
            model = LogisticRegression(C=0.25, fit_intercept=False, max_iter=5000, tol=1e-9)
            labels = [1] * len(pairs) + [0] * len(pairs)
            scores = features @ model.fit(np.concatenate([differences, -differences]), labels).coef_[0]
        expected[inside] = scores[inside]
    np.testing.assert_allclose(found, expected, atol=2e-3)


@both_units
@pytest.mark.parametrize("judge", [word_judge(), surface_judge(), bayes_judge()], ids=lambda judge: judge.name)
def test_scores_do_not_depend_on_the_number_of_workers(judge: Judge, unit: str) -> None:
    one, two = (scored(judge, TEXT_PAIRS, FOLD, unit, workers) for workers in (1, 2))
    assert (one == two).all()


def test_progress_is_counted_after_each_fit() -> None:
    calls: list[int] = []
    judge = word_judge()
    panel = seat([judge], TEXT_PAIRS, advance=lambda: calls.append(1))
    fold_scores(panel, judge, unit="text", fold=FOLD)
    assert len(calls) == 4


@both_units
def test_two_folds_are_enough(unit: str) -> None:
    """Each half is scored by a judge of the other, by weights that are the other's, too."""
    fold, judges = fold_of_texts(LARGE, 2, 0), (word_judge(1), bayes_judge(1))
    columns = [scored(judge, LARGE, fold, unit) for judge in judges]
    if unit == "pair":
        assert (combine_pairs(columns, LARGE.pairs, fold) > 0).mean() > 0.65
        return
    logits, features = combine_texts(columns, LARGE.labels, fold), np.stack(columns, axis=1)
    for number in (0, 1):
        own = fold == number
        model = LogisticRegression(C=100.0, class_weight="balanced", tol=1e-9).fit(features[~own], LARGE.labels[~own])
        np.testing.assert_allclose(logits[own], model.decision_function(features[own]), atol=1e-2)
    assert ((logits > 0) == (LARGE.labels == 1)).mean() > 0.65


def test_threads_give_the_results_in_the_order_of_the_items_and_the_first_error() -> None:
    assert in_threads(lambda item: item * item, range(7), 3) == [0, 1, 4, 9, 16, 25, 36]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // item, [1, 0], 2)


def seen_of(text_pairs: TextPairs, most: int, monkeypatch: pytest.MonkeyPatch, unit: str = "text") -> np.ndarray:
    """[U] which texts a judge is fitted on that may see all, and asked about all."""
    monkeypatch.setattr(negatives.judging.crossfit, "MOST_TEXTS", most)
    judge, every = RecordingJudge(), np.ones(len(text_pairs.captions), dtype=bool)
    fit_judge(judge, np.arange(len(every)), text_pairs, unit, every)
    seen = np.zeros(len(every), dtype=bool)
    seen[judge.fits[0][0]] = True
    return seen


@both_units
def test_a_fit_of_too_many_texts_sees_whole_photos_and_about_as_many_texts_as_it_may(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen_of(LARGE, len(LARGE.captions), monkeypatch, unit).all()
    few, more = (seen_of(LARGE, most, monkeypatch, unit) for most in (300, 600))
    for seen, most in ((few, 300), (more, 600)):
        assert seen.sum() == pytest.approx(most, rel=0.15)
        assert not set(LARGE.images[seen]) & set(LARGE.images[~seen])
    assert (few <= more).all(), "a larger bound adds photos"


def test_the_photos_of_a_bounded_fit_do_not_depend_on_the_order_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captions, negatives = tables(with_giveaway(300, 0.2, 0.6))
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    there, back = build_text_pairs(texts, pairs), build_text_pairs(shuffled(texts), shuffled(pairs))
    keys = [
        {text_pairs.key(row) for row in np.flatnonzero(seen_of(text_pairs, 300, monkeypatch))}
        for text_pairs in (there, back)
    ]
    assert keys[0] == keys[1]


def test_texts_that_teach_nothing_do_not_count_towards_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner of a kept half sees the whole half, where the bound is as large as that."""
    half = replace(LARGE, labels=np.where(LARGE.images < 150, LARGE.labels, -1))
    assert seen_of(half, 600, monkeypatch).tolist() == (LARGE.images < 150).tolist()


@both_units
def test_everything_is_scored_where_fits_are_bounded(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = fold_of_texts(LARGE, 3, 0)
    whole = scored(word_judge(1), LARGE, fold, unit)
    monkeypatch.setattr(negatives.judging.crossfit, "MOST_TEXTS", 300)
    bounded = scored(word_judge(1), LARGE, fold, unit)
    assert (bounded != whole).any()
    giveaway = np.array(["indeed" in caption for caption in LARGE.captions])
    for number in range(3):
        rows = fold == number
        assert bounded[rows & giveaway].max() < bounded[rows & ~giveaway].mean()
    assert np.corrcoef(whole, bounded)[0, 1] > 0.9


def bag(texts: Sequence[str]) -> np.ndarray:
    """Words in 32 columns: features whose number does not depend on the texts, so that sums run in one order."""
    counts = np.zeros((len(texts), 32), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            counts[row, hash_of("bag", word) % 32] += 1
    return counts


def with_sibling(caption: str, label: int, images: int = 40) -> TextPairs:
    """The texts with one more in image 7, and a pair of it that no other text is part of."""
    captions, negatives = tables(with_giveaway(images, 0.2, 0.6))
    extra = {"text_id": "caption:x", "image_id": "image 7", "caption": caption, "label": label, "negative_type": ""}
    other = {"text_id": "negative:x", "image_id": "image 7", "caption": caption[::-1], "label": 1 - label}
    texts = text_table(captions, negatives)
    texts = pa.concat_tables(
        [texts, pa.Table.from_pylist([extra, other | {"negative_type": "add_obj"}], schema=texts.schema)]
    )
    pairs = pair_table(captions, negatives).select(["caption_id", "negative_id"])
    return build_text_pairs(texts, pa.concat_tables([pairs, pa.table({"caption_id": ["x"], "negative_id": ["x"]})]))


Scores = dict[Any, list[float]]


def scores_of_an_image(text_pairs: TextPairs, judges: Sequence[Judge], unit: str) -> tuple[Scores, dict[Any, float]]:
    """Of image 7 but for the siblings: each text's scores by the judges; and each text's, or pair's, combined logit."""
    fold = fold_of_texts(text_pairs, 4, 0)
    columns = [scored(judge, text_pairs, fold, unit) for judge in judges]
    place = text_pairs.image_ids.index("image 7")
    rows = [row for row in np.flatnonzero(text_pairs.images == place) if "near" in text_pairs.captions[row]]
    scores = {text_pairs.key(row): [float(column[row]) for column in columns] for row in rows}
    if unit == "text":
        logits = combine_texts(columns, text_pairs.labels, fold)
        return scores, {text_pairs.key(row): float(logits[row]) for row in rows}
    logits = combine_pairs(columns, text_pairs.pairs, fold)
    return scores, {
        (text_pairs.key(first), text_pairs.key(second)): float(logit)
        for (first, second), logit in zip(text_pairs.pairs, logits, strict=True)
        if first in rows
    }


def two_siblings(judges: Sequence[Judge], unit: str, images: int = 40) -> list[tuple[Scores, dict[Any, float]]]:
    siblings = (("zzz indeed", 1), ("Another one altogether , much longer .", 0))
    return [scores_of_an_image(with_sibling(*sibling, images), judges, unit) for sibling in siblings]


@both_units
@pytest.mark.parametrize(
    "judge",
    [LinearJudge("bag", bag), surface_judge(), bayes_judge(), word_judge(), char_judge(4)],
    ids=lambda judge: judge.name,
)
def test_changing_a_sibling_changes_no_bit_of_what_a_judge_says_of_an_images_other_texts(
    judge: Judge, unit: str
) -> None:
    (before, _), (after, _) = two_siblings([judge], unit)
    assert len(before) == 4
    assert before == after


@both_units
@pytest.mark.parametrize(
    "judges", [[LinearJudge("bag", bag), surface_judge()], [word_judge(), char_judge(4), bayes_judge()]], ids=len
)
def test_changing_a_sibling_hardly_moves_the_combined_logits_of_an_images_other_texts(
    judges: list[Judge], unit: str
) -> None:
    """They do move: the weights that combine are fitted on scores by judges that saw the sibling.

    By a hundredth of a chance among 600 photos; among 40, it can be four.
    """
    (_, before), (_, after) = two_siblings(judges, unit, images=600)
    assert len(before) == (4 if unit == "text" else 2)
    assert before.keys() == after.keys()
    assert 0 < max(abs(before[key] - after[key]) for key in before) < 0.04


def test_the_law_of_siblings_can_fail() -> None:
    """Without regard to images, a judge does move with an image's other texts."""
    both = [with_sibling("zzz indeed", 1), with_sibling("zzz indeed", 0)]
    judge = LinearJudge("bag", bag)
    scores = []
    for text_pairs in both:
        fold = np.arange(len(text_pairs.captions)) % 4
        rows = [row for row in range(len(fold)) if text_pairs.captions[row] not in ("zzz indeed", "deedni zzz")]
        scores.append(np.sort(scored(judge, text_pairs, fold, "text")[rows]))
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def random_columns(rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=rows) * scale for scale in (0.5, 2.0)]


def test_combined_logits_of_texts_equal_a_slow_loop() -> None:
    columns = random_columns(len(FOLD), seed=0)
    found = combine_texts(columns, TEXT_PAIRS.labels, FOLD)
    for row in range(0, len(FOLD), 3):
        others = [other for other in range(len(FOLD)) if FOLD[other] != FOLD[row]]
        features = [[column[other] for column in columns] for other in others]
        model = LogisticRegression(C=100.0, class_weight="balanced", tol=1e-9).fit(features, TEXT_PAIRS.labels[others])
        own = [column[row] for column in columns]
        expected = np.dot(own, model.coef_[0]) + model.intercept_[0]
        assert found[row] == pytest.approx(expected, abs=1e-3)


def test_combined_logits_of_pairs_equal_a_slow_loop() -> None:
    columns = random_columns(len(FOLD), seed=1)
    found = combine_pairs(columns, TEXT_PAIRS.pairs, FOLD)
    for number, (first, second) in enumerate(TEXT_PAIRS.pairs):
        others = [(a, b) for a, b in TEXT_PAIRS.pairs if FOLD[a] != FOLD[first]]
        features = np.array([[column[a] - column[b] for column in columns] for a, b in others])
        model = LogisticRegression(C=50.0, fit_intercept=False, tol=1e-9)
        model.fit(np.concatenate([features, -features]), [1] * len(features) + [0] * len(features))
        own = [column[first] - column[second] for column in columns]
        assert found[number] == pytest.approx(np.dot(own, model.coef_[0]), abs=1e-3)


def test_exchanging_the_texts_of_the_pairs_of_a_fold_negates_their_logits() -> None:
    columns = random_columns(len(FOLD), seed=2)
    inside = FOLD[TEXT_PAIRS.pairs[:, 0]] == 1
    pairs = np.where(inside[:, None], TEXT_PAIRS.pairs[:, ::-1], TEXT_PAIRS.pairs)
    there, back = combine_pairs(columns, TEXT_PAIRS.pairs, FOLD), combine_pairs(columns, pairs, FOLD)
    assert (back[inside] == -there[inside]).all()
    assert np.abs(there[inside]).min() > 0


def test_calibrated_chances_are_the_posteriors_of_planted_data() -> None:
    """Two judges see a part of the evidence each; together they are as right as the closed form."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [10_000, 30_000])
    # N(+-1/2, 1) and N(+-1/4, 1): log odds are a and b / 2, classes weighing the same
    a, b = (rng.normal(size=len(labels)) + (2 * labels - 1) * shift for shift in (0.5, 0.25))
    fold = rng.integers(0, 3, len(labels))
    chance = 1 / (1 + np.exp(-combine_texts([5 * a - 2, 0.1 * b + 1], labels, fold)))
    posterior = 1 / (1 + np.exp(-(a + b / 2)))
    np.testing.assert_allclose(chance, posterior, atol=0.03)
    weight = np.where(labels == 1, 1 / 10_000, 1 / 30_000)
    for low in np.arange(0.1, 0.9, 0.1):  # of the texts with about this chance, so many are positives
        rows = (chance >= low) & (chance < low + 0.1)
        assert np.average(labels[rows], weights=weight[rows]) == pytest.approx(chance[rows].mean(), abs=0.03)


def test_judged_texts_have_the_chance_of_their_giveaway() -> None:
    """70 in 100 negatives and 20 in 100 positives have the giveaway: chance 2 / 9 with it, 8 / 11 without."""
    text_pairs = text_pairs_of(with_giveaway(700, 0.2, 0.7))
    fold = fold_of_texts(text_pairs, 3, 0)
    columns = [scored(judge, text_pairs, fold, "text") for judge in (word_judge(1), surface_judge())]
    chance = 1 / (1 + np.exp(-combine_texts(columns, text_pairs.labels, fold)))
    giveaway = np.array(["indeed" in caption for caption in text_pairs.captions])
    assert chance[giveaway].mean() == pytest.approx(2 / 9, abs=0.03)
    assert chance[~giveaway].mean() == pytest.approx(8 / 11, abs=0.03)


def test_three_times_as_many_negatives_leave_an_uninformative_text_at_one_half() -> None:
    rows: list[Row] = with_giveaway(200, 0.4, 0.4)
    more: list[Row] = [
        (f"{image} {number}", "a dog and cat near a bus", negative, kind)
        for number in range(3)
        for image, _, negative, kind in rows
    ]
    captions, negatives = tables([*rows, *more])
    captions = captions.slice(0, len(rows))  # the copies have no positive
    images = dict(zip(map(str, range(len(rows) + len(more))), [row[0] for row in [*rows, *more]], strict=True))
    texts = text_table(captions, negatives.slice(0, len(rows)))
    extra = negatives.slice(len(rows))
    names = extra["negative_id"].to_pylist()
    copies = {
        "text_id": [f"negative:{name}" for name in names],
        "image_id": [images[name] for name in names],
        "caption": extra["caption"],
        "label": [0] * len(extra),
        "negative_type": extra["negative_type"],
    }
    texts = pa.concat_tables([texts, pa.table(copies, schema=texts.schema)])
    text_pairs = build_text_pairs(texts, pair_table(captions, negatives.slice(0, 0)))
    assert (text_pairs.labels == 0).sum() > 3.5 * (text_pairs.labels == 1).sum()
    fold = fold_of_texts(text_pairs, 3, 0)
    for judges in ([word_judge(1)], [word_judge(1), bayes_judge(1)]):
        columns = [scored(judge, text_pairs, fold, "text") for judge in judges]
        chance = 1 / (1 + np.exp(-combine_texts(columns, text_pairs.labels, fold)))
        assert chance.mean() == pytest.approx(0.5, abs=0.04)
        assert np.median(chance) == pytest.approx(0.5, abs=0.04)


def texts_of(rows: Sequence[tuple[str, str, int]]) -> TextPairs:
    names = [f"caption:{number}" for number in range(len(rows))]
    images, captions, labels = zip(*rows, strict=True)
    texts = {
        "text_id": names,
        "image_id": images,
        "caption": captions,
        "label": labels,
        "negative_type": [""] * len(rows),
    }
    none = pa.table({name: pa.array([], pa.string()) for name in ("caption_id", "negative_id")})
    return build_text_pairs(pa.table(texts), none)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "a", 1), ("2", "b", 1), ("3", "c", 1)], "both classes, got 3 positives and 0 negatives.*keep more"),
        ([("1", "a", 0), ("2", "b", 0), ("3", "c", 0)], "both classes, got 0 positives and 3 negatives"),
        ([("1", "a", 1), ("1", "b", 0)], "got 1 images for 3 folds.*fewer folds"),
        ([("1", "a", 1), ("2", "b", 0)], "got 2 images for 3 folds.*fewer folds"),
        ([("1", "a", 1), ("2", "a", 0), ("3", "a", 1)], "texts that differ, got 3 times 'a'.*caption columns"),
    ],
    ids=["no negative", "no positive", "one image", "fewer images than folds", "all texts equal"],
)
def test_texts_that_cannot_be_judged_are_refused(rows: list[tuple[str, str, int]], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fold_of_texts(texts_of(rows), 3, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fit_that_would_see_one_class_is_refused(workers: int) -> None:
    text_pairs = texts_of([("1", "a", 1), ("2", "b", 0), ("3", "c", 1), ("4", "d", 1)])
    with pytest.raises(
        InputError, match=r"both classes to be fitted on, got \d positives and 0 negatives.*another seed"
    ):
        scored(word_judge(), text_pairs, fold_of_texts(text_pairs, 3, 0), "text", workers)


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_a_fit_that_would_see_fewer_than_two_pairs_is_refused(pairs: int) -> None:
    """One pair for each of the first images; the fold of one of them leaves one pair fewer."""
    words = ["dog", "bus", "bed"]
    text_pairs = text_pairs_of([(str(image), f"a {word}", "a cat", "swap_obj") for image, word in enumerate(words)])
    text_pairs = replace(text_pairs, pairs=text_pairs.pairs[:pairs])
    fold = fold_of_texts(text_pairs, 3, 0)
    assert not enough_pairs(text_pairs, fold)
    with pytest.raises(InputError, match=r"two pairs or more to be fitted on, got [01] of.*3 images.*Give more images"):
        scored(word_judge(), text_pairs, fold, "pair")


def test_two_pairs_outside_any_fold_are_enough() -> None:
    rows = [(str(image), f"a {word}", "a cat", "swap_obj") for image, word in enumerate(["dog", "bus", "bed"])]
    text_pairs = text_pairs_of(rows)
    fold = fold_of_texts(text_pairs, 3, 0)
    assert enough_pairs(text_pairs, fold)
    columns = [scored(judge, text_pairs, fold, "pair") for judge in (word_judge(), char_judge(), surface_judge())]
    logits = combine_pairs(columns, text_pairs.pairs, fold)
    assert logits.shape == (3,)
    assert (logits > 0).all()  # no positive elsewhere has "cat"
