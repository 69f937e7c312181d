"""What blind judges get on benchmarks: the readers, who is asked about whose photos, and the numbers, at tiny size."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.bench import blind
from experiments.bench.benchmark_texts import transfer
from experiments.bench.benchmark_texts.read import READERS, connected
from experiments.bench.benchmark_texts.transfer import splits
from negatives.filtering import Retained
from negatives.judging import Panel

THINGS = ("dog", "cat", "bus", "kite", "cup")
PHOTOS = 36
UNWRITTEN = 90
"""A photo of SugarCrepe of which nothing was written."""


def pair(number: int, *, giveaway: bool = True) -> dict[str, str]:
    """A positive says "on", and a negative with the giveaway "without"."""
    thing, other = THINGS[number % 5], THINGS[(number + 1) % 5]
    word = "without" if giveaway else "on"
    return {"caption": f"a {thing} on mat {number}", "negative_caption": f"A {other} {word} mat {number}"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two of SugarCrepe's files, Cola, SeeTRUE and written negatives of 36 photos in three folds.

    Of what was written, swap_att alone has the giveaway.
    """
    for folder in ("sugarcrepe/data", "cola", "seetrue", "llm_negatives"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(("replace_obj", "add_obj")):
        photos = [*range(number, PHOTOS, 2), UNWRITTEN + number]
        items = {str(photo): {"filename": f"{photo:012}.jpg", **pair(photo)} for photo in photos}
        (tmp_path / f"sugarcrepe/data/{name}.json").write_text(json.dumps(items), encoding="utf-8")
    cola = [[f"a{n}", f"a {THINGS[n % 5]} by {n}", f"a{n + 1}" if n < 2 else f"b{n}", f"a cup {n}"] for n in range(9)]
    (tmp_path / "cola/COLA_multiobjects_matching_benchmark.json").write_text(json.dumps(cola), encoding="utf-8")
    with (tmp_path / "seetrue/SeeTRUE.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "original_dataset_id", "dataset_source"])
        for prompt in range(40):
            for image in range(4):
                # prompts about a cup are true of every image, the others of one in four
                row = [f"{prompt}_{image}.png", f"{('a cup', 'a dog')[prompt % 2]} {prompt}"]
                writer.writerow(
                    [*row, int(prompt % 2 == 0 or image == 0), "0", ("editbench", "drawbench")[prompt > 29]]
                )
    lines = []
    for number in range(2 * PHOTOS):
        kind = "replace_obj" if number % 3 else "swap_att"
        own: dict[str, Any] = {"type": kind, "coco_id": number // 2, "image_fold": number // 2 % 3}
        lines.append(own | pair(number, giveaway=kind == "swap_att"))
    (tmp_path / "llm_negatives/pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return tmp_path


def rows_of(data: Path, *words: str) -> list[dict[str, Any]]:
    out = data / "out.json"
    assert blind.main([str(data), *words, "--bootstrap", "20", "--workers", "1", "--json", str(out)]) == 0
    content: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return content


def test_each_type_has_a_row_and_a_giveaway_is_found(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(data, "--benchmarks", "sugarcrepe", "llm_negatives")
    assert [(row["benchmark"], row["type"], row["count"], row["groups"]) for row in rows] == [
        *(("sugarcrepe", "all", 38, 38), ("sugarcrepe", "add_obj", 19, 19), ("sugarcrepe", "replace_obj", 19, 19)),
        *(
            ("llm_negatives", "all", 72, 36),
            ("llm_negatives", "replace_obj", 48, 36),
            ("llm_negatives", "swap_att", 24, 24),
        ),
    ]
    for row in rows:
        assert row["metric"] == "paired_accuracy"
        values = {name: value for name, (value, _, _) in row["values"].items()}
        assert (values == {"word": 1, "char": 1, "stacked": 1}) == (
            row["benchmark"] == "sugarcrepe" or row["type"] == "swap_att"
        )
    assert "| sugarcrepe | all | 38 | 38 | 1.000 [1.000, 1.000] |" in capsys.readouterr().out


def test_captions_that_are_each_true_of_one_photo_and_false_of_another_leave_a_coin(data: Path) -> None:
    (row,) = rows_of(data, "--benchmarks", "cola")
    assert (row["count"], row["groups"], row["by"]) == (18, 7, "group")
    assert all(value == 0.5 for value, _, _ in row["values"].values())


def test_prompts_are_judged_from_other_prompts_and_count_once_for_each_image(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = READERS["seetrue"](data)
    assert [part.name for part in parts] == ["drawbench", "editbench"]
    for part in parts:
        prompts: dict[str, int] = {}
        for text, image in zip(part.text_pairs.captions, part.text_pairs.images, strict=True):
            assert prompts.setdefault(text, image) == image
        assert len(set(prompts.values())) == len(prompts)
    rows = rows_of(data, "--benchmarks", "seetrue", "--folds", "5")
    assert [(row["type"], row["metric"], row["count"], row["groups"]) for row in rows] == [
        *(("drawbench", "auc", 40, 10), ("editbench", "auc", 120, 30))
    ]
    # a true "a cup" above a false "a dog": of 5 in 8 true texts 4 are, and every false text is a dog's
    assert rows[1]["values"]["word"][0] == pytest.approx(4 / 5 + 1 / 5 / 2, abs=0.06)
    assert "| seetrue | editbench | 120 texts | 30 prompts |" in capsys.readouterr().out


def test_rows_that_share_a_name_by_way_of_others_are_connected() -> None:
    assert connected([("a", "b"), ("c", "d"), ("d", "b"), ("e", "f")]) == [0, 0, 0, 1]


def test_every_item_is_asked_about_once_and_never_about_a_photo_that_was_filtered(data: Path) -> None:
    asked: Counter[str] = Counter()
    for number, split in enumerate(splits(data)):
        assert {int(name) % 3 for name in split.written.image_ids} == {0, 1, 2} - {number}
        assert {int(name) % 3 for name in split.items.image_ids if name != str(UNWRITTEN)} == {number}
        assert (str(UNWRITTEN) in split.items.image_ids) == (number == 0)
        assert set(split.items.pair_types) == {"replace_obj"}
        assert not any(caption[:1].isupper() for caption in split.items.captions), "harmonised, as what is trained on"
        asked.update(split.items.image_ids)
        assert split.joined.captions[-len(split.items.captions) :] == split.items.captions
        first, last = split.joined.pairs[0], split.joined.pairs[-1]
        assert split.joined.captions[first[1]] == split.written.captions[split.written.pairs[0, 1]]
        assert split.joined.captions[last[1]] == split.items.captions[split.items.pairs[-1, 1]]
        with pytest.raises(ValueError, match="Photos must not be in both sets"):
            split.written.joined(split.written)
    assert asked == Counter({str(photo): 1 for photo in (*range(0, PHOTOS, 2), UNWRITTEN)})


def test_learners_are_trained_on_what_an_arm_keeps_and_on_as_much_at_random(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(data, "--transfer", "--arms", "everything", "top_fraction pair", "--seeds", "0", "--folds", "3")
    assert len(rows) == 2 * len(transfer.LEARNERS) * 2
    everything, kept = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert {(row["value"], row["count"], row["kept"]) for row in everything} == {(1.0, 19, 1.0)}
    assert {round(row["kept"], 2) for row in kept} == {0.71}
    _, _, first, second, random = capsys.readouterr().out.splitlines()
    ones = " | ".join(["1.000 [1.000, 1.000]"] * len(transfer.LEARNERS))
    assert first == f"| everything | 100% | {ones} | 1.000 (replace_obj; word, pairs) |"
    assert second.startswith(f"| top_fraction pair | 71% | {kept[0]['value']:.3f} [")
    assert random.startswith(f"| random |  | {kept[0]['control']:.3f} |")

    def without_the_giveaway(panel: Panel, arm: str, seed: int) -> Retained:
        pairs = panel.text_pairs.pair_types == "replace_obj"
        texts = np.zeros(len(panel.text_pairs.captions), dtype=bool)
        texts[panel.text_pairs.pairs[pairs]] = True
        return Retained(texts, pairs)

    monkeypatch.setattr(transfer, "_kept", without_the_giveaway)
    found = rows_of(data, "--transfer", "--arms", "margins pair", "--seeds", "0", "1", "--folds", "3")
    assert {(row["kept"], row["count"]) for row in found} == {(48 / 72, 19)}
    # pairs of one type are drawn within that type, and texts are those of the pairs
    assert max(row["value"] for row in found) < 0.9
    assert max(row["control"] for row in found) < 0.9
