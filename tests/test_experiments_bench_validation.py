"""The bench of validation: which rows it reads, what it makes of captions, and that it counts what `rejection` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.bench.true_texts import MAKERS, listed_words, made_from
from experiments.bench.validation import count, main, read_records, texts_of
from negatives import NEGATIVE_TYPES, rejection

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
    assert own["low"] < 0.5 < own["high"]
    assert rows["true swap_att", "paraphrase"]["reasons"] == {"reversed_relation": 1}
    assert rows["all true negatives", "all negatives"]["texts"] == 3
    assert rows["all true negatives", "paraphrase"]["texts"] == 3
    assert rows["true paraphrase", "paraphrase"]["accepted"] == 1
    assert rows["true paraphrase", "all negatives"]["texts"] == len(NEGATIVE_TYPES)
    assert rows["true paraphrase", "swap_obj"]["reasons"] == {"list_order": 1}
    assert 0 < rows["random caption", "paraphrase"]["texts"] <= 3
    assert {source for source, _ in rows} >= set(MAKERS)
    printed = capsys.readouterr().out
    assert "| true replace_obj | replace_obj | 2 | 0.500 [0.095, 0.905] | only_deletes 1 |" in printed
    assert "nobody" not in printed


def test_other_folds_are_dropped_on_reading(data: Path) -> None:
    assert [record["coco_id"] for record in read_records(data / "pairs.jsonl", [0, 1])] == [1, 1, 2]
    assert [record["coco_id"] for record in read_records(data / "pairs.jsonl", [2])] == [3]
    texts = list(texts_of(read_records(data / "pairs.jsonl", [0, 1]), most=9, seed=0))
    assert not [text for text in texts if "fold" in text.caption + text.text]


def test_made_texts_are_of_words_in_no_list_and_the_same_at_a_seed() -> None:
    captions = ["A man in a salon", "A cup of cappuccino at a seashore", "A black cat and a white dog at a marsh"]
    made = list(made_from(captions, 5, seed=0))
    assert made == list(made_from(captions, 5, seed=0))
    assert {name for name, _, _ in made} == set(MAKERS)
    assert max([name for name, _, _ in made].count(name) for name in MAKERS) <= 5
    for name, caption, text in made:
        gone = set(caption.lower().split()) - set(text.lower().split())
        assert name in ("deletions", "list swaps") or listed_words().isdisjoint(gone - {"a", "an"})
        assert text != caption


def test_validation_refuses_what_is_made_as_every_kind() -> None:
    captions = ["A man in a salon", "A cup of cappuccino at a seashore", "A black cat and a white dog at a marsh"]
    for _, caption, text in made_from(captions, 100, seed=0):
        assert [kind for kind in NEGATIVE_TYPES if not rejection(text, caption, kind, ())] == [], (caption, text)


def test_counts_come_in_the_order_of_the_sources(data: Path) -> None:
    rows = count(texts_of(read_records(data / "pairs.jsonl", [0]), most=9, seed=0))
    assert [row.kind for row in rows if row.source == "true paraphrase"] == [
        *NEGATIVE_TYPES,
        *("all replace", "all swap", "all add", "all negatives", "paraphrase"),
    ]
