"""The bench of validation: which rows it reads, what it makes of captions, and that it counts what `rejection` says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.validation import count, main
from experiments.bench.validity.checks import (
    SAME_WORDS,
    SENSITIVITY,
    SPECIFICITY,
    TO_REFUSE,
    CheckRow,
    all_checks,
    measure,
)
from experiments.bench.validity.rates import rate_of, wilson
from experiments.bench.validity.texts import ADDITIONS, CHATGPT, PEOPLE, Text, read_records, texts_of
from experiments.bench.validity.true_texts import (
    MAKERS,
    adjective_replacements,
    listed_words,
    lowered_numbers,
    made_from,
    parts,
    verb_replacements,
)
from negatives import NEGATIVE_TYPES, PARAPHRASE, rejection

PAIRS = [
    ("replace_obj", 1, "A dog and a cat in a salon", "A dog and a giraffe in a salon", 0),
    ("replace_obj", 1, "A dog on a mat", "A dog", 0),
    (
        "swap_att",
        2,
        "A black kettle with a white cup at a seashore",
        "A white kettle with a black cup at a seashore",
        1,
    ),
    ("replace_att", 3, "A fold that nobody opens", "A fold that nobody opened", 2),
]


CAPTIONS = [
    "A man in a salon",
    "A cup of cappuccino at a seashore",
    "A black cat and a white dog at a marsh",
    "A sign stating the time near a car",
    "An adorable gnome with four kettles",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    keys = ("type", "coco_id", "caption", "negative_caption", "image_fold")
    rows = [dict(zip(keys, pair, strict=True)) for pair in PAIRS]
    rows[0]["llm_paraphrase"] = "A cat and a dog are in a salon"
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_table_counts_what_rejection_says(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "validation.json"
    assert main(["--data", str(data), "--json", str(out)]) == 0
    rows = {(row["source"], row["kind"]): row for row in json.loads(out.read_text())["rows"]}
    own = rows["true replace_obj", "replace_obj"]
    assert (own["texts"], own["accepted"], own["rate"], own["reasons"]) == (2, 1, 0.5, {"only_deletes": 1})
    assert own["images"] == 1
    assert own["low"] < 0.5 < own["high"]
    assert rows["true swap_att", "paraphrase"]["reasons"] == {"reversed_relation": 1}
    assert rows["all true negatives", "all negatives"]["texts"] == 3
    assert rows["all true negatives", "paraphrase"]["texts"] == 3
    assert rows["true paraphrase", "paraphrase"]["accepted"] == 1
    assert rows["true paraphrase", "all negatives"]["texts"] == len(NEGATIVE_TYPES)
    assert rows["true paraphrase", "swap_obj"]["reasons"] == {"list_order": 1}
    assert 0 < rows["random caption", "paraphrase"]["texts"] <= 3
    printed = capsys.readouterr().out
    assert "| true replace_obj | replace_obj | 2 | 1 | 0.500 [" in printed
    assert "nobody" not in printed


def test_other_folds_are_dropped_on_reading(data: Path) -> None:
    assert [record["coco_id"] for record in read_records(data / "pairs.jsonl", [0, 1])] == [1, 1, 2]
    assert [record["coco_id"] for record in read_records(data / "pairs.jsonl", [2])] == [3]
    texts = list(texts_of(read_records(data / "pairs.jsonl", [0, 1]), most=9, seed=0))
    assert not [text for text in texts if "fold" in text.caption + text.text]


def test_made_texts_are_of_words_in_no_list_and_the_same_at_a_seed() -> None:
    made = list(made_from(CAPTIONS, 5, seed=0))
    assert made == list(made_from(CAPTIONS, 5, seed=0))
    assert {name for name, _, _ in made} == set(MAKERS)
    assert max([name for name, _, _ in made].count(name) for name in MAKERS) <= 5
    for name, caption, text in made:
        gone = set(caption.lower().split()) - set(text.lower().split())
        exempt = name in ("deletions", "list swaps", "parts", "lowered numbers")
        assert exempt or listed_words().isdisjoint(gone - {"a", "an"})
        assert text != caption


def test_validation_refuses_what_is_made_as_every_kind() -> None:
    for name, caption, text in made_from(CAPTIONS[:3], 100, seed=0):
        if name == "empty additions":
            continue  # some pass as additions, which is for the bench to say
        assert [kind for kind in NEGATIVE_TYPES if not rejection(text, caption, kind, ())] == [], (caption, text)


def test_counts_come_in_the_order_of_the_sources(data: Path) -> None:
    rows = count(texts_of(read_records(data / "pairs.jsonl", [0]), most=9, seed=0))
    assert [row.kind for row in rows if row.source == "true paraphrase"] == [
        *NEGATIVE_TYPES,
        *("all replace", "all swap", "all add", "all negatives", "paraphrase"),
    ]


def test_new_makers_leave_the_draws_of_the_older_as_they_were() -> None:
    assert [text for _, _, text in made_from(CAPTIONS, 2, seed=3)][:7] == [
        "A sign stating the time",
        "A gnome with four kettles",
        "A cup of cappuccino at a shore",
        "An adorable fairy with four kettles",
        "A cup of cappuccino at a seacoast",
        "A black cat and a white dog at a marshland",
        "a white dog and A black cat at a marsh",
    ]


def test_verbs_and_adjectives_are_replaced_where_they_are_such() -> None:
    assert verb_replacements("A man is striking a gong") == ["A man is touching a gong"]
    assert verb_replacements("A striking gong") == verb_replacements("The striking of the gong") == []
    assert verb_replacements("Zebras are competing") == ["Zebras are contending", "Zebras are vying"]
    # "put down" is no single word
    recorded = verb_replacements("A man is recording a song")
    assert recorded == [f"A man is {verb} a song" for verb in ("entering", "preserving", "saving")]
    assert adjective_replacements("The famous building")[0] == "The celebrated building"
    # what may be a noun, and what stands before none
    assert adjective_replacements("A secret door") == adjective_replacements("Two that are adorable") == []


def test_a_part_is_near_what_its_thing_is_near_and_nothing_else() -> None:
    assert parts("A man beside a parked car") == []
    assert parts("A man in a car") == parts("A man with a dog") == []
    assert parts("Two men in front of the bench")[0] == "Two men in front of the leg"


def test_a_number_is_lowered_where_it_counts_things() -> None:
    assert lowered_numbers("A four door car by two trees") == []
    assert lowered_numbers("Many birds and three dogs") == ["Two birds and three dogs", "Many birds and two dogs"]


def record(image: int, caption: str, **others: object) -> dict[str, object]:
    return {"type": "replace_obj", "coco_id": image, "caption": caption, "negative_caption": "A kite", **others}


def test_what_people_and_chatgpt_wrote_of_a_photo_is_found() -> None:
    records = [
        record(1, "A man sitting on a bench in a wood", llm_paraphrase="A man resting on a bench in a wood"),
        record(1, "A man sitting on a bench in a forest", llm_paraphrase="On a bench in a forest sits a man"),
        record(1, "A man looks at birds"),
        record(2, "A man sitting on a bench in a valley"),
        record(3, "A slider door is open", llm_paraphrase="A door that slides is open"),
    ]
    found = {source: [] for source in (CHATGPT, PEOPLE, ADDITIONS)}
    for text in texts_of(records, most=9, seed=0):
        if text.source in found:
            found[text.source].append((text.caption, text.text))
            assert text.kinds == tuple(NEGATIVE_TYPES)
            reason = rejection(text.text, text.caption, "replace_obj", text.others)
            assert reason != "equals_other_caption", "validation would know it only by the other caption"
    one, two, bare = (str(item["caption"]) for item in records[:3])
    assert found[CHATGPT] == [(one, "A man resting on a bench in a wood")]
    assert sorted(found[PEOPLE]) == [(two, one), (one, two)]
    assert found[ADDITIONS] == [(bare, f"{bare} in a wood"), (bare, f"{bare} in a forest")]


def test_texts_of_an_image_count_as_fewer_than_they_are() -> None:
    rng = np.random.default_rng(0)
    passes = rng.random(200) < 0.3
    one = rate_of(passes.tolist(), range(200))
    seven = rate_of(np.repeat(passes, 7).tolist(), np.repeat(range(200), 7).tolist())
    assert (seven.texts, seven.images, seven.count, seven.rate) == (1400, 200, 7 * one.count, one.rate)
    assert (one.low, one.high) == pytest.approx(wilson(one.rate, 200), abs=0.002)
    assert (seven.low, seven.high) == pytest.approx((one.low, one.high), abs=0.002)


def test_the_interval_of_a_medium_rate_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(300), rng.integers(1, 9, 300))
    found = rng.random(len(images)) < rng.beta(2, 2, 300)[images]
    ours = rate_of(found.tolist(), images.tolist())
    sums, counts = np.bincount(images, found, 300), np.bincount(images, minlength=300)
    drawn = rng.integers(0, 300, size=(2000, 300))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.006)
    assert ours.high - ours.low > 1.3 * np.diff(wilson(ours.rate, ours.texts)).item()


def test_none_of_many_texts_keeps_an_upper_end_by_images() -> None:
    images = [text // 12 for text in range(1200)]
    none, all_of_them = rate_of([False] * 1200, images), rate_of([True] * 1200, images)
    assert (none.low, none.high) == pytest.approx((0, wilson(0, 100)[1]), abs=0.002)
    assert (all_of_them.low, all_of_them.high) == pytest.approx((1 - none.high, 1))
    # one image that passes tells no more than none does
    assert rate_of([image == 7 for image in images], images).high > none.high
    with pytest.raises(ValueError, match="got none"):
        rate_of([], [])


def given(source: str, text: str, caption: str, image: int = 0) -> Text:
    return Text(source, text, caption, (), image, frozenset())


def only(rows: list[CheckRow], check: str, what: str) -> list[CheckRow]:
    return [row for row in rows if (row.check, row.measure) == (check, what)]


def test_a_check_is_measured_by_itself() -> None:
    caption = "A man flies a kite at the beach"
    rows = measure(
        [
            given("true replace_obj", "A dog flies a kite at the beach", caption, 1),
            given("true replace_att", "A man flies a kite", caption, 1),
            given("true swap_obj", "A kite flies a man at the beach", caption, 2),
            given("deletions", "A man flies a kite", caption, 1),
            # two changes: another check's, and no deletion
            given("deletions", "A dog flies a bird", caption, 3),
            given("true paraphrase", "A kite is flown by a man at the beach", caption, 1),
            given("true paraphrase", "The beach has a man with a kite in the air", caption, 1),
            given("true paraphrase", "At the beach, a man flies a kite", caption, 1),
        ]
    )
    (right,) = only(rows, "says_more_than_it_deletes", SPECIFICITY)
    assert (right.kind, right.reason, right.texts, right.images, right.count) == ("replace", "only_deletes", 2, 1, 1)
    (found,) = only(rows, "says_more_than_it_deletes", SENSITIVITY)
    assert (found.source, found.texts, found.images, found.count, found.rate) == ("deletions", 2, 2, 1, 0.5)
    (reversed_relation,) = only(rows, "reverses_no_relation", SENSITIVITY)
    assert (reversed_relation.source, reversed_relation.rate) == ("true swap_obj", 1)
    assert [row.source for row in only(rows, "reverses_no_relation", SPECIFICITY)] == ["true paraphrase"]
    assert [(row.source, row.texts) for row in only(rows, "swaps_places", SENSITIVITY)] == [
        ("true paraphrase", 3),
        (SAME_WORDS, 1),
    ]
    assert only(rows, "shares_content", SENSITIVITY) == []


def test_every_check_and_source_that_is_named_exists() -> None:
    assert set(TO_REFUSE) <= set(all_checks())
    known = {*MAKERS, CHATGPT, PEOPLE, ADDITIONS, "random caption", f"true {PARAPHRASE}"}
    known |= {f"true {name}" for name in NEGATIVE_TYPES}
    asked = {source for sources in TO_REFUSE.values() for source in sources}
    assert asked <= known | {SAME_WORDS}


def test_the_table_of_checks_takes_the_place_of_the_rows(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "checks.json"
    assert main(["--data", str(data), "--checks", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["checks"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 2
    assert lines[0] == "| check | rejected as | given as | measure | of | texts | images | rate |"
    assert "| keeps_content_words | content_words | swap | specificity | true swap | 1 | 1 | 1.000 [" in "\n".join(
        lines
    )
    assert rows[0]["low"] <= rows[0]["rate"] <= rows[0]["high"]


def test_the_help_says_what_counts_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "the positive class is the text that is to be refused" in printed
    assert all(source in printed for sources in TO_REFUSE.values() for source in sources)
