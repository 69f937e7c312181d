"""The audit: what judges reach, which words and habits they go by, and what repeats; worked by hand where it can be."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from negatives.filtering.audit import Audit, audit_texts, count_duplicates, keep_of
from negatives.filtering.giveaways import leaking_ngrams, style_giveaways
from negatives.filtering.plan import AuditPlan
from negatives.judging.bias_metrics import auc, estimates, image_weights, probe
from negatives.judging.linear import surface_judge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import InputError, pair_table, strings, text_table

Row = tuple[str, str, str, str]


def tables(rows: Sequence[Row]) -> tuple[pa.Table, pa.Table]:
    """Captions and negatives of (image, caption, negative, type); each row has a caption of its own."""
    ids = [str(number) for number in range(len(rows))]
    images, captions, negatives, kinds = (list(column) for column in zip(*rows, strict=True))
    return (
        pa.table({"image_id": images, "image": images, "caption_id": ids, "caption": captions}),
        pa.table({"caption_id": ids, "negative_id": ids, "caption": negatives, "negative_type": kinds}),
    )


def planted(images: int = 40, leak: float = 0.5) -> list[Row]:
    """Two captions for each image, one negative for each; a part `leak` of the negatives says "without"."""
    rng = np.random.default_rng(0)
    words = np.array(["dog", "cat", "horse", "bus", "tree", "bed", "kite", "cup"])
    rows = []
    for image in range(images):
        for _ in range(2):
            a, b, c = rng.permutation(words)[:3]
            leaks = rng.random() < leak
            negative, kind = (f"a {a} without a {c}", "replace_rel") if leaks else (f"a {b} on a {a}", "swap_obj")
            rows.append((f"image {image}", f"a {a} on a {b}", negative, kind))
    return rows


def text_pairs_of(rows: Sequence[Row]) -> TextPairs:
    captions, negatives = tables(rows)
    return build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))


ROWS = planted()
TEXT_PAIRS = text_pairs_of(ROWS)
QUICK = AuditPlan(bootstrap=20)


def audited(text_pairs: TextPairs = TEXT_PAIRS, **arguments: Any) -> Audit:
    return audit_texts(seat([word_judge(), surface_judge()], text_pairs), AuditPlan(**{"bootstrap": 20, **arguments}))


def value(audit: Audit, *wanted: str) -> float:
    found = audit.find(*wanted)
    assert found is not None
    return found.value


def test_audit_finds_the_words_that_leak_and_where() -> None:
    audit = audited()
    assert (audit.positives, audit.negatives) == tuple((TEXT_PAIRS.labels == label).sum() for label in (1, 0))
    assert (audit.images, audit.pairs, audit.judge) == (40, len(TEXT_PAIRS.pairs), "stacked")
    assert audit.types == ["all", "replace_rel", "swap_obj"]
    assert {(e.judge, e.metric) for e in audit.estimates} == {
        (judge, metric) for judge in ("word", "surface", "stacked") for metric in ("auc", "paired_accuracy")
    }
    whole = audit.find("auc")
    assert whole is not None
    assert whole.low < whole.value < whole.high
    assert value(audit, "auc", "replace_rel") > 0.95
    assert value(audit, "paired_accuracy", "replace_rel") == 1.0
    assert value(audit, "auc", "swap_obj") < 0.75
    assert audit.ngrams["negative"][0].ngram in ("without", "without a")
    found = {item.ngram: item for item in audit.ngrams["negative"]}["without"]
    assert (found.positives, found.negatives) == (0, (TEXT_PAIRS.types == "replace_rel").sum())
    assert "on" in {item.ngram for item in audit.ngrams["positive"]}


def test_audit_of_what_is_kept_finds_less() -> None:
    rows = [text for text, caption in enumerate(TEXT_PAIRS.captions) if "without" not in caption]
    keep = np.isin(np.arange(len(TEXT_PAIRS.captions)), rows)
    kept = TEXT_PAIRS.subset(keep, np.ones(len(TEXT_PAIRS.pairs), dtype=bool))
    whole = seat([word_judge()], TEXT_PAIRS)
    part = whole.subset(keep, np.ones(len(TEXT_PAIRS.pairs), dtype=bool))
    before, after = audited(), audit_texts(part, QUICK)
    assert value(before, "auc") > value(after, "auc") + 0.1
    assert value(before, "paired_accuracy") > value(after, "paired_accuracy") + 0.1
    assert after.positives + after.negatives == keep.sum()
    assert after.pairs == sum(keep[a] and keep[b] for a, b in TEXT_PAIRS.pairs)
    assert not any("without" in item.ngram for items in after.ngrams.values() for item in items)
    # the encoded rows of all texts and an encoding of the kept ones alone say the same
    anew = audit_texts(seat([word_judge()], kept), QUICK)
    assert value(anew, "auc") == pytest.approx(value(after, "auc"), abs=1e-3)


def test_pairs_that_look_equal_count_as_a_half() -> None:
    """With single words a swapped caption scores exactly as its positive: neither won nor lost."""
    audit = audit_texts(seat([word_judge(ngrams=1)], TEXT_PAIRS), QUICK)
    assert audit.judge == "word"
    assert value(audit, "paired_accuracy", "swap_obj") == 0.5
    assert all(pair.negative_type == "replace_rel" for pair in audit.given_pairs)


def test_audit_does_not_depend_on_row_order() -> None:
    def rounded(audit: Audit) -> Any:
        return json.loads(json.dumps(audit.to_json()), parse_float=lambda text: round(float(text), 9))

    order = np.random.default_rng(1).permutation(len(ROWS))
    assert rounded(audited()) == rounded(audited(text_pairs_of([ROWS[row] for row in order])))


def test_other_seeds_make_other_folds_than_a_filter_at_the_same_seed() -> None:
    panel = seat([word_judge()], TEXT_PAIRS)
    filtering = probe(panel, seed="filter 0", metrics=("auc",))
    of_filter = estimates(TEXT_PAIRS, filtering, bootstrap=0, seed=0)[0].value
    assert of_filter != value(audit_texts(panel, QUICK), "auc")


def test_texts_most_given_away_are_right_and_each_wording_is_there_once() -> None:
    rows = [*ROWS, *((f"more {n}", f"a {'dog' if n % 2 else 'cat'} here", "no no no", "add_obj") for n in range(20))]
    audit = audited(text_pairs_of(rows), top=5)
    for texts, right in ((audit.given_positives, 1), (audit.given_negatives, -1)):
        assert len({text.caption for text in texts}) == len(texts) == 5
        confidence = [right * text.logit for text in texts]
        assert min(confidence) > 0
        assert confidence == sorted(confidence, reverse=True)
    assert all("without" in text.caption or text.caption == "no no no" for text in audit.given_negatives)
    assert [text.negative_type for text in audit.given_positives] == [""] * 5
    pairs = {(pair.caption, pair.negative_caption) for pair in audit.given_pairs}
    assert len(pairs) == 5
    assert pairs <= {(caption, negative) for _, caption, negative, _ in rows}


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_pairs_are_not_measured_and_no_error(images: int) -> None:
    captions, negatives = tables(ROWS)
    some = pair_table(captions, negatives.slice(0, 2 * images))
    audit = audited(build_text_pairs(text_table(captions, negatives), some), top=1)
    assert audit.pairs == 2 * images
    assert audit.find("paired_accuracy") is None
    assert audit.given_pairs == []
    assert value(audit, "auc") > 0.5


def test_a_type_without_pairs_is_null_in_json() -> None:
    captions, negatives = tables(ROWS)
    swaps = negatives.filter(pc.equal(negatives["negative_type"], "swap_obj"))
    audit = audited(build_text_pairs(text_table(captions, negatives), pair_table(captions, swaps)))
    assert math.isnan(value(audit, "paired_accuracy", "replace_rel"))
    plain = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    (entry,) = [
        e
        for e in plain["estimates"]
        if (e["estimand"], e["judge"], e["negative_type"]) == ("paired_accuracy", "stacked", "replace_rel")
    ]
    assert (entry["value"], entry["low"], entry["high"], entry["count"]) == (None, None, None, 0)
    assert set(plain["ngrams"]["negative"][0]) == {"ngram", "positives", "negatives", "z"}
    assert set(plain) == set(Audit.__dataclass_fields__) - {"giveaways"} | {"cues"}, "as files have always had it"
    assert set(plain["cues"][0]) == {"cue", "kind", "positives", "negatives", "auc"}
    assert set(entry) == {"estimand", "judge", "negative_type", "value", "low", "high", "count"}


def test_one_class_alone_is_refused() -> None:
    keep = TEXT_PAIRS.labels == 1
    with pytest.raises(InputError, match=r"both classes, got .* positives and 0 negatives"):
        audited(TEXT_PAIRS.subset(keep, np.zeros(len(TEXT_PAIRS.pairs), dtype=bool)))


def test_duplicates_are_counted() -> None:
    text_pairs = text_pairs_of(
        [
            ("1", "a dog", "a cat", "swap_obj"),
            ("1", "a dog", "a cat", "swap_att"),  # the caption again, and the negative as another type
            ("2", "a dog", "a dog", "swap_obj"),  # a positive of another image, equal to its own negative
            ("3", "a cat", "a bus", "swap_obj"),  # a positive that is a negative elsewhere
            ("3", "a bed", "a cup", "swap_obj"),
        ]
    )
    found = count_duplicates(text_pairs)
    assert (found.both_classes, found.equal_pairs) == (2, 1)
    assert (found.repeated_positives, found.repeated_negatives) == (1, 1)
    assert found.merged_rows == 1
    part = text_pairs.subset(np.ones(len(text_pairs.captions), dtype=bool), np.ones(len(text_pairs.pairs), dtype=bool))
    assert count_duplicates(part).merged_rows is None


def test_verdicts_on_rows_become_verdicts_on_texts() -> None:
    rows = [("1", "a dog", "a cat", "swap_obj"), ("1", "a dog", "a bus", "swap_obj"), ("2", "a b", "c", "swap_obj")]
    captions, negatives = tables(rows)
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    text_pairs = build_text_pairs(texts, pairs)
    keep = [caption not in ("a cat", "c") for caption in strings(texts, "caption")]
    kept, kept_pairs = keep_of(text_pairs, keep)
    assert [caption for caption, own in zip(text_pairs.captions, kept, strict=True) if own] == ["a bus", "a dog", "a b"]
    assert kept_pairs.all()
    assert len(text_pairs.subset(kept, kept_pairs).pairs) == 1
    kept, kept_pairs = keep_of(text_pairs, [True] * 6, [False, True, True])
    assert kept.all()
    assert len(text_pairs.subset(kept, kept_pairs).pairs) == 2


def test_z_scores_follow_the_formula_of_monroe_et_al() -> None:
    texts, labels = ["dog cat", "dog", "cat", "cat bus"], np.array([1, 1, 0, 0])
    # counts: bus 0|1, cat 1|2, dog 2|0; 3 in each class, 6 in all; 6 pseudo-counts give the prior bus 1, cat 3, dog 2
    dog = math.log((2 + 2) / (3 + 6 - 4)) - math.log((0 + 2) / (3 + 6 - 2))
    found = leaking_ngrams(texts, labels, ngrams=1, top=5, prior=6.0)
    assert [item.ngram for item in found["positive"]] == ["dog"]
    assert found["positive"][0].z == pytest.approx(dog / math.sqrt(1 / 4 + 1 / 2))
    assert [item.ngram for item in found["negative"]] == ["bus", "cat"]


@pytest.mark.parametrize("texts", [["...", "!"], ["", "?"]])
def test_texts_without_words_have_no_ngrams(texts: list[str]) -> None:
    assert leaking_ngrams(texts, np.array([1, 0])) == {"positive": [], "negative": []}


def test_one_ngram_alone_leaks_nothing() -> None:
    assert leaking_ngrams(["dog", "dog"], np.array([1, 0]), ngrams=1) == {"positive": [], "negative": []}


def test_style_giveaways_are_those_counted_by_hand() -> None:
    texts = ["A dog, and a  cat. ", "two cats!", "A DOG.", "a dog and a dog (2)"]
    found = {giveaway.name: giveaway for giveaway in style_giveaways(texts, np.array([1, 1, 0, 0]))}
    pairs = {name: (giveaway.positives, giveaway.negatives) for name, giveaway in found.items()}
    assert pairs["characters"] == ((19 + 9) / 2, (6 + 19) / 2)
    assert pairs["words"] == ((5 + 2) / 2, (2 + 6) / 2)
    assert pairs["letters a word"] == pytest.approx(((11 / 5 + 7 / 2) / 2, (4 / 2 + 12 / 6) / 2))
    assert pairs["capitals"] == (0.5, 2.0)
    assert pairs["commas"] == (0.5, 0.0)
    assert pairs["capital first"] == pairs["full stop last"] == (0.5, 0.5)
    assert pairs["another mark last"] == (0.5, 0.0)
    assert pairs["quotes, brackets, other marks"] == (0.5, 0.5)
    assert pairs["digits"] == (0.0, 0.5)
    assert pairs["space at an end"] == pairs["double space"] == (0.5, 0.0)
    assert pairs["a word twice"] == (0.5, 0.5)
    assert found["digits"].kind == "share"
    assert found["commas"].auc == 0.75


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
    means = [(values * weight).mean() for weight in image_weights(400, 2000, seed=0)]
    low, high = np.percentile(means, (2.5, 97.5))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
