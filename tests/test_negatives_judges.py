"""Judge, filter and audit: cross-fitted by image, independent of row order, equal to a slow loop."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from negatives.audit import auc, audit_texts, image_interval, leaking_ngrams
from negatives.balance import filter_texts, random_subset, top_fraction
from negatives.judges import cross_fit, fold_of
from negatives.records import InputError, strings, text_table


def tables(images: int = 40, leak: float = 0.5) -> tuple[pa.Table, pa.Table]:
    """Two captions for each image, one negative for each caption; a part `leak` of them says "without"."""
    rng = np.random.default_rng(0)
    words = np.array(["dog", "cat", "horse", "bus", "tree", "bed", "kite", "cup"])
    captions: dict[str, list[str]] = {"image_id": [], "image": [], "caption_id": [], "caption": []}
    negatives: dict[str, list[str]] = {name: [] for name in ("caption_id", "negative_id", "caption", "negative_type")}
    for image in range(images):
        for number in range(2):
            a, b, c = rng.permutation(words)[:3]
            name = f"{image}_{number}"
            for column, value in zip(captions, (str(image), f"{image}.png", name, f"a {a} on a {b}"), strict=True):
                captions[column].append(value)
            leaks = rng.random() < leak
            text, kind = (f"a {a} without a {c}", "replace_rel") if leaks else (f"a {b} on a {a}", "swap_obj")
            for column, value in zip(negatives, (name, f"{name}:n", text, kind), strict=True):
                negatives[column].append(value)
    return pa.table(captions), pa.table(negatives)


CAPTIONS, NEGATIVES = tables()
TEXTS = text_table(CAPTIONS, NEGATIVES)
LABELS = TEXTS["label"].to_numpy()


def columns(texts: pa.Table = TEXTS) -> tuple[list[str], np.ndarray, list[str]]:
    return strings(texts, "caption"), texts["label"].to_numpy(), strings(texts, "image_id")


def shuffled(texts: pa.Table = TEXTS) -> pa.Table:
    return texts.take(np.random.default_rng(1).permutation(len(texts)))


def test_folds_are_by_image_and_differ_by_one_image_at_most() -> None:
    ids = [str(number) for number in range(23) for _ in range(3)]
    fold = fold_of(ids, folds=5, seed=0).reshape(23, 3)
    assert (fold == fold[:, :1]).all()
    assert sorted(np.bincount(fold[:, 0]).tolist()) == [4, 4, 5, 5, 5]
    assert not (fold_of(ids, folds=5, seed=1).reshape(23, 3) == fold).all()


def test_oof_scores_equal_a_slow_loop() -> None:
    texts, labels, image_ids = columns()
    fold, score = cross_fit(texts, labels, image_ids, folds=4, seed=7, ngrams=2, regularisation=0.5)
    for number in range(4):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        assert not {image_ids[i] for i in inside} & {image_ids[i] for i in outside}
        counter = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\b\w+\b")
        model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000, tol=1e-8)
        model.fit(counter.fit_transform([texts[i] for i in outside]), labels[outside])
        expected = model.predict_proba(counter.transform([texts[i] for i in inside]))[:, 1]
        np.testing.assert_allclose(score[inside], expected, atol=1e-3)


def test_verdict_does_not_depend_on_row_order() -> None:
    there = filter_texts(TEXTS, seed=3)
    back = filter_texts(shuffled(), seed=3)
    assert there.sort_by("text_id").equals(back.sort_by("text_id"))


def test_a_text_is_not_judged_by_a_model_that_saw_its_image() -> None:
    """The word of an image is in its positives, and in the negatives of the next one.

    A judge that saw the image would be right about it; one that saw only the next image takes the word for a lie.
    """
    images = [str(number) for number in range(20) for _ in range(4)]
    labels = np.array([1, 1, 0, 0] * 20)
    owners = [(int(image) + 1 - label) % 20 for image, label in zip(images, labels, strict=True)]
    texts = [f"a dog word{owner}" for owner in owners]
    _, score = cross_fit(texts, labels, images, folds=5, seed=0, ngrams=1)
    assert auc(score, labels) < 0.5


@pytest.mark.parametrize(
    ("texts", "labels", "images", "told"),
    [
        (["a", "b"], [1, 1], ["1", "2"], "both classes, got 2 positives and 0 negatives.*keep more"),
        (["a", "b"], [1, 0], ["1", "1"], "1 images for 2 folds.*fewer folds"),
        (["A dog", "a dog.", "a dog"], [1, 0, 1], ["1", "2", "3"], "words differ, got 3 times 'A dog'"),
        (["a", "b", "c"], [1, 0, 1], ["1", "2", "3"], "all texts outside fold .* have label 1"),
    ],
)
def test_texts_that_cannot_be_judged_are_refused(
    texts: list[str], labels: list[int], images: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        cross_fit(texts, labels, images, folds=2)


def test_top_fraction_drops_the_most_confidently_correct_of_each_class() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1, 0.95, 0.05, 0.2, 0.99])
    label = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    # 5 positives: floor(0.4 * 5) = 2 go, 0.95 and 0.9; 3 negatives: floor(0.4 * 3) = 1 goes, 0.05
    keep = top_fraction(score, label, list("abcdefgh"), 0.4)
    assert keep.tolist() == [False, True, True, True, False, False, True, True]


def test_top_fraction_drops_the_number_that_the_fraction_says() -> None:
    for fraction, dropped in ((0.0, 0), (0.29, 29), (0.3, 30), (0.999, 99)):
        keep = top_fraction(np.linspace(0, 1, 100), np.ones(100), [str(i) for i in range(100)], fraction)
        assert (~keep).sum() == dropped


def test_ties_are_broken_by_the_id_and_not_by_the_row() -> None:
    ids = [f"caption:{number}" for number in range(40)]
    score, label = np.full(40, 0.5), np.ones(40)
    kept = {ids[i] for i in np.flatnonzero(top_fraction(score, label, ids, 0.5))}
    assert kept == {ids[::-1][i] for i in np.flatnonzero(top_fraction(score, label, ids[::-1], 0.5))}
    assert kept not in (set(ids[:20]), set(ids[20:]))


def test_random_subset_keeps_as_many_of_each_class_as_the_filter() -> None:
    ids = strings(TEXTS, "text_id")
    keep = filter_texts(TEXTS)["keep"].to_numpy()
    drawn = random_subset(LABELS, keep, ids, seed=0)
    for label in (0, 1):  # 80 texts of each, floor(0.3 * 80) = 24 dropped
        own = np.flatnonzero(TEXTS["label"].to_numpy() == label)
        assert drawn[own].sum() == keep[own].sum() == 56
    back = random_subset(LABELS[::-1], keep[::-1], ids[::-1], seed=0)[::-1]
    assert (drawn == back).all()
    assert (drawn != keep).any()
    assert (drawn != random_subset(LABELS, keep, ids, seed=1)).any()


def test_auc_equals_a_loop_over_all_pairs_of_texts() -> None:
    rng = np.random.default_rng(0)
    score, labels, weight = rng.integers(0, 6, 60) / 5, rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            total += weight[i] * weight[j]
            won += weight[i] * weight[j] * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    assert auc(score, labels, weight) == pytest.approx(won / total)
    assert math.isnan(auc(score, np.ones(60)))


def test_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = image_interval(lambda weight: float((values * weight).mean()), 400, 2000, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_audit_finds_the_word_that_leaks_and_where() -> None:
    audit = audit_texts(TEXTS, NEGATIVES, folds=4)
    assert (audit.positives, audit.negatives, audit.images, audit.pairs) == (80, 80, 40, 80)
    assert audit.auc_interval[0] < audit.auc < audit.auc_interval[1]
    assert audit.types["replace_rel"].auc > 0.95
    assert audit.types["swap_obj"].auc < 0.7
    assert audit.leaking["negative"][0].ngram in ("without", "without a")
    leaks = strings(NEGATIVES, "negative_type").count("replace_rel")
    found = {item.ngram: item for item in audit.leaking["negative"]}["without"]
    assert (found.positives, found.negatives) == (0, leaks)
    assert "on" in {item.ngram for item in audit.leaking["positive"]}
    assert audit.types["swap_obj"].pairs + leaks == 80


def test_audit_after_the_filter_finds_less() -> None:
    keep = filter_texts(TEXTS, top_fraction=0.4)["keep"].to_numpy()
    before, after = audit_texts(TEXTS, NEGATIVES, bootstrap=20), audit_texts(TEXTS, NEGATIVES, keep, bootstrap=20)
    assert after.positives + after.negatives == keep.sum()
    assert after.auc < before.auc - 0.1
    kept = {name for name, kept in zip(strings(TEXTS, "text_id"), keep, strict=True) if kept}
    names = zip(strings(NEGATIVES, "caption_id"), strings(NEGATIVES, "negative_id"), strict=True)
    assert after.pairs == sum(f"caption:{a}" in kept and f"negative:{b}" in kept for a, b in names)


def test_paired_accuracy_equals_a_loop_with_ties_one_half() -> None:
    """With single words a swapped caption scores exactly as its positive: one half, not won or lost."""
    audit = audit_texts(TEXTS, NEGATIVES, ngrams=1, bootstrap=20)
    assert audit.types["swap_obj"].paired_accuracy == 0.5
    _, score = cross_fit(*columns(), seed="audit 0", ngrams=1)
    own = dict(zip(strings(TEXTS, "text_id"), score, strict=True))
    won = [
        0.5 + 0.5 * np.sign(own[f"caption:{a}"] - own[f"negative:{b}"])
        for a, b in zip(strings(NEGATIVES, "caption_id"), strings(NEGATIVES, "negative_id"), strict=True)
    ]
    assert audit.paired_accuracy == pytest.approx(np.mean(won))


def test_audit_does_not_depend_on_row_order() -> None:
    def rounded(value: Any) -> Any:
        return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 9))

    there, back = audit_texts(TEXTS, NEGATIVES), audit_texts(shuffled(), shuffled(NEGATIVES))
    assert rounded(there.to_json()) == rounded(back.to_json())


def test_audit_without_negatives_table_has_no_pairs_and_is_plain_json() -> None:
    plain = json.loads(json.dumps(audit_texts(TEXTS, bootstrap=20, top=1).to_json(), allow_nan=False))
    assert (plain["pairs"], plain["paired_accuracy"], plain["paired_accuracy_interval"]) == (0, None, None)
    assert set(plain["leaking"]["negative"][0]) == {"ngram", "positives", "negatives", "z"}


def test_z_scores_follow_the_formula_of_monroe_et_al() -> None:
    texts, labels = ["dog cat", "dog", "cat", "cat bus"], np.array([1, 1, 0, 0])
    # counts: bus 0|1, cat 1|2, dog 2|0; 3 in each class, 6 in all; 6 pseudo-counts give the prior bus 1, cat 3, dog 2
    dog = math.log((2 + 2) / (3 + 6 - 4)) - math.log((0 + 2) / (3 + 6 - 2))
    found = leaking_ngrams(texts, labels, ngrams=1, top=5, prior=6.0)
    assert [item.ngram for item in found["positive"]] == ["dog"]
    assert found["positive"][0].z == pytest.approx(dog / math.sqrt(1 / 4 + 1 / 2))
    assert [item.ngram for item in found["negative"]] == ["bus", "cat"]


def test_scores_within_a_step_are_ties_that_are_dropped_at_random() -> None:
    """Half of the negatives hold the cue; which of them go must not depend on the words around it."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(400):
        colour = str(rng.choice(["red", "blue"]))
        rows.append((f"caption:{image}", str(image), f"a {colour} cat", 1))
        rows.append((f"negative:{image}", str(image), f"a {colour} cat" + " indeed" * int(image % 2), 0))
    names = ("text_id", "image_id", "caption", "label")
    texts = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    shares = {}
    for step in (0.0, 0.1):
        keep = filter_texts(texts, top_fraction=0.25, ngrams=1, score_step=step)["keep"].to_pylist()
        cued = [(caption, kept) for (_, _, caption, _), kept in zip(rows, keep, strict=True) if "indeed" in caption]
        kept_of = [[kept for caption, kept in cued if colour in caption] for colour in ("red", "blue")]
        shares[step] = [sum(kept) / len(kept) for kept in kept_of]
    assert all(0.35 < share < 0.65 for share in shares[0.1])
    assert abs(shares[0.0][0] - shares[0.0][1]) > 0.3
