"""The benches of filters run at tiny size, on pairs in the format of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.bench import filter_speed, filters
from negatives import NEGATIVE_TYPES, family_of

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


def test_the_table_has_a_row_for_each_arm_and_its_control(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(pairs), "--arms", "text", "top_fraction pair", "--seeds", "0", "--folds", "3", "--fold-seeds", "1"]
    out = pairs.with_name("filters.json")
    assert filters.main([*words, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "240 texts (120 positives), 120 pairs, 60 images" in printed
    table = [line for line in printed.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table[1:] if "---" not in line] == [
        *("text", "random, as large as text", "top_fraction pair", "random, as large as top_fraction pair")
    ]
    row = json.loads(out.read_text(encoding="utf-8"))["rows"][1]
    assert row["certificate"]["retention"]["pairs"] == {"kept": 84, "of": 120}


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
