"""The benches of filters run at tiny size, on pairs in the format of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.bench import filter_speed, filters
from negatives import NEGATIVE_TYPES, family_of
from negatives.filtering.certificate import Certificate
from negatives.filtering.lessons import Lesson
from negatives.filtering.teaching import Learner

COLOURS = ("red", "blue", "green", "white")
THINGS = ("dog", "cat", "bus", "kite", "cup")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """120 pairs of 60 images; half of the negatives say "without", a third have a paraphrase."""
    lines = []
    for number in range(120):
        colour, thing = COLOURS[number % 4], THINGS[number % 5]
        negative = f"A {COLOURS[(number + 1) % 4]} {thing} {'without' if number % 2 else 'on'} a mat {number}."
        line = {"type": "replace_att" if number % 3 else "swap_obj", "coco_id": number // 2}
        line |= {"caption": f"a {colour} {thing} on a mat {number}", "negative_caption": negative}
        lines.append(json.dumps(line | ({"llm_paraphrase": f"There is a {colour} {thing}."} if number % 3 else {})))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_table_has_a_row_for_each_arm_and_learner(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["overlap text", "top_fraction pair"]
    words = [str(pairs), "--arms", *arms, "--seeds", "0", "--folds", "3", "--judges", "word"]
    out = pairs.with_name("filters.json")
    assert filters.main([*words, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "240 texts (120 positives), 120 pairs, 60 images" in printed
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [(row[0], row[3]) for row in cells[1:] if "---" not in row] == [
        *(("overlap text", "word, texts"), ("overlap text", "bayes, texts")),
        *(("top_fraction pair", f"{judge}, {reads}") for judge in ("word", "bayes") for reads in ("pairs", "texts")),
    ]
    content = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["arm"] for row in content] == arms
    assert content[1]["certificate"]["retention"]["pairs"] == {"kept": 84, "of": 120}
    # of each of three parts of 40 pairs, 12 are dropped
    assert content[1]["shares"]["pairs"] == 0.7
    (value,) = [
        one["value"]
        for one in content[1]["certificate"]["teaching"]
        if (one["judge"], one["reads"], one["group"]) == ("word", "pair", "all")
    ]
    (row,) = [row for row in cells if row[0] == "top_fraction pair" and row[3] == "word, pairs"]
    assert row[4] == f"{value:.3f}"


def test_the_table_names_the_type_and_the_third_furthest_from_a_coin_over_the_seeds() -> None:
    def row(seed: int, values: dict[str, float]) -> filters.Row:
        found = [Lesson(Learner("word", "pair"), name, value, 0, 1, 0.6, 0.7, 9) for name, value in values.items()]
        certificate = Certificate("pair", False, [], {}, found, [])
        return filters.Row("pair", seed, None, 1.0, certificate, {"texts": 0.5, "pairs": 0.4})

    one = {"all": 0.5, "swap_obj": 0.9, "swap_att": 0.6, "weak third": 0.3, "strong third": 0.55}
    other = {"all": 0.54, "swap_obj": 0.1, "swap_att": 0.7, "weak third": 0.3, "strong third": 0.65}
    last = filters.table([row(0, one), row(1, other)]).splitlines()[-1]
    assert "| 0.520 [0.500, 0.540] | swap_att 0.650 [0.600, 0.700] | weak third 0.300 [0.300, 0.300] |" in last


def test_paraphrases_join_the_positives_and_raw_texts_keep_their_style(pairs: Path) -> None:
    types = [name for name in NEGATIVE_TYPES if family_of(name) == "replace"]
    plain = filters.read_text_pairs(str(pairs), types, harmonised=True, paraphrases=False)
    more = filters.read_text_pairs(str(pairs), types, harmonised=False, paraphrases=True)
    assert more.labels.sum() > plain.labels.sum()
    assert len(more.pairs) > len(plain.pairs)
    assert not any(caption.startswith("A ") for caption in plain.captions)
    assert any(caption.startswith("A ") for caption in more.captions)


def test_what_validation_rejects_can_be_left_out(pairs: Path) -> None:
    record = {"type": "replace_att", "coco_id": 99, "caption": "A red dog on a mat", "llm_paraphrase": "A cup on a mat"}
    texts = ("A red dog", "A green dog on a mat")
    pairs.write_text("\n".join(json.dumps(record | {"negative_caption": text}) for text in texts), encoding="utf-8")
    every, valid = (
        filters.read_text_pairs(
            str(pairs), ["replace_att"], harmonised=False, paraphrases=True, validated=validated
        ).captions
        for validated in (False, True)
    )
    assert sorted(every) == ["A cup on a mat", "A green dog on a mat", "A red dog", "A red dog on a mat"]
    assert sorted(valid) == ["A green dog on a mat", "A red dog on a mat"]


@pytest.mark.slow
def test_speed_is_counted_for_each_size(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert filter_speed.main([str(pairs), "--texts", "200", "400", "--judges", "word", "surface"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("200 texts: ")
    assert "times those of 200" in second
    assert "peak" in second
