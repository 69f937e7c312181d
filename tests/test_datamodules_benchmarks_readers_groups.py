"""Readers of images with as many texts: official layouts and quirks, each on a small folder that the test writes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.benchmarks.read import read_benchmark
from negatives.tables import InputError
from tests.benchmark_files import files_of, items, photos, picture, write_csv, write_json, write_parquet


def example(number: int, **changes: Any) -> dict[str, Any]:
    sides = {f"image_{side}": f"ex_{number}_img_{side}" for side in (0, 1)}
    texts = {f"caption_{side}": f"some words {number} {side}" for side in (0, 1)}
    tags = {"tag": "Adjective-Age", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": "Object"}
    return {"id": number, **sides, **texts, **tags, **changes}


def winoground(folder: Path) -> Path:
    lines = [example(0), example(1, collapsed_tag="Both", secondary_tag="Morpheme-Level", num_main_preds=2)]
    (folder / "examples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_winoground_has_its_tags_and_the_sub_tags_of_why_it_is_hard(tmp_path: Path) -> None:
    folder = winoground(tmp_path)
    write_json(folder / "new_tag_assignments.json", {"0": [], "1": ["Unusual Image", "Visually Difficult"]})
    root = photos(folder, *(f"images/ex_{number}_img_{side}.png" for number in (0, 1) for side in (0, 1)))
    benchmark = read_benchmark("winoground", annotations=folder, image_root=root)
    first, second = items(benchmark)
    assert first["image_ids"] == ["ex_0_img_0", "ex_0_img_1"]
    assert first["text_ids"] == ["some words 0 0", "some words 0 1"]
    assert (first["group"], first["tags"]) == ("Object", ["1_main_pred", "No_Tag"])
    assert second["tags"] == ["2_main_preds", "Morpheme-Level", "Unusual_Image", "Visually_Difficult"]
    assert len(benchmark.pairs) == 8, "every image of an item with every text of it"
    assert benchmark.notes == ("counts are not the official ones: items 2 instead of 400",)
    inside = read_benchmark("winoground", annotations=folder, image_root=root / "images")
    assert files_of(inside)["ex_0_img_0"] == "ex_0_img_0.png", "the folder of images may be given itself"


def test_winogrounds_copy_with_paths_is_read_too(tmp_path: Path) -> None:
    header = ("id", "image_0", "image_1", "caption_0", "caption_1")
    rows = [(n, f"pictures/{n}_0.png", f"pictures/{n}_1.png", f"one {n}", f"two {n}") for n in (0, 1)]
    write_csv(tmp_path / "metadata.csv", header, *rows)
    root = photos(tmp_path, *(name for row in rows for name in row[1:3]))
    benchmark = read_benchmark("winoground", annotations=tmp_path, image_root=root)
    assert files_of(benchmark)["0_1"] == "pictures/0_1.png"
    assert [item["group"] for item in items(benchmark)] == ["", ""]
    tagged = read_benchmark("winoground", annotations=winoground(tmp_path), image_root=root)
    assert files_of(tagged) == files_of(benchmark)
    assert [item["group"] for item in items(tagged)] == ["Object", "Both"], "examples.jsonl has the tags"


def test_an_item_without_one_of_its_images_is_left_out_and_counted(tmp_path: Path) -> None:
    root = photos(tmp_path, "images/ex_0_img_0.png", "images/ex_0_img_1.png", "images/ex_1_img_0.png")
    benchmark = read_benchmark("winoground", annotations=winoground(tmp_path), image_root=root)
    assert benchmark.left_out == {"image missing": 1}
    assert [item["item_id"] for item in items(benchmark)] == ["0"]
    assert len(benchmark.images) == len(benchmark.texts) == 2, "nothing is asked that no item needs"


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    lines = [example(0), example(0)]
    (tmp_path / "examples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(InputError, match="item_id must be unique, '0' is there more often"):
        read_benchmark("winoground", annotations=tmp_path, texts_only=True)


def bivlc(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image": picture((number, 0, 0), "000000000042.jpg"),
        "caption": f"a cat {number}",
        "negative_caption": f"a dog {number}",
        "negative_image": picture((0, number, 0)),
        "type": "replace",
        "subtype": "obj",
        **changes,
    }


def test_bivlc_saves_its_pictures_once_and_reads_texts_without_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/test-00000-of-00002.parquet", [bivlc(10)])
    write_parquet(tmp_path / "data/test-00001-of-00002.parquet", [bivlc(20, type="swap", subtype="att")])
    texts = read_benchmark("bivlc", annotations=tmp_path, texts_only=True)
    root = tmp_path / "images"
    benchmark = read_benchmark("bivlc", annotations=tmp_path, image_root=root)
    first, second = items(benchmark)
    assert items(texts) == [first, second]
    assert first["image_ids"] == ["42", "0_negative_image"], "the first image is a photo of COCO"
    assert (first["group"], first["tags"], second["tags"]) == ("replace", ["replace_obj"], ["swap_att"])
    assert first["text_ids"] == ["a cat 10", "a dog 10"]
    assert Image.open(root / "1_negative_image").getpixel((0, 0)) == (0, 20, 0), "rows count on over the files"
    saved = {path: path.stat().st_mtime_ns for path in root.iterdir()}
    read_benchmark("bivlc", annotations=tmp_path, image_root=root)
    assert {path: path.stat().st_mtime_ns for path in root.iterdir()} == saved
    assert sorted(path.name for path in root.iterdir()) == [
        "0_image",
        "0_negative_image",
        "1_image",
        "1_negative_image",
    ]


@pytest.mark.parametrize("name", ["bivlc", "naturalbench"])
def test_two_shards_do_not_share_pictures_of_one_name(tmp_path: Path, name: str) -> None:
    shards = [tmp_path / f"test-0000{number}-of-00002.parquet" for number in (0, 1)]
    for number, shard in enumerate(shards):
        write_parquet(shard, [bivlc(10 + number) if name == "bivlc" else natural(10 + number, "ynny")])
    root = tmp_path / "images"
    read_benchmark(name, annotations=shards[0], image_root=root)
    saved = {path: path.read_bytes() for path in root.iterdir()}
    with pytest.raises(
        InputError, match=r"0_(i|I)mage\w* must be the benchmark's own picture.* `image_root` of its own"
    ):
        read_benchmark(name, annotations=shards[1], image_root=root)
    assert {path: path.read_bytes() for path in root.iterdir()} == saved
    assert len(read_benchmark(name, annotations=shards[1], image_root=tmp_path / "others").key) == 1
    # a later version of Pillow may have written the same pixels in other bytes
    Image.open(next(iter(saved))).save(next(iter(saved)), format="PNG", compress_level=0)
    assert len(read_benchmark(name, annotations=shards[0], image_root=root).key) == 1


def test_a_parquet_file_of_another_version_is_refused(tmp_path: Path) -> None:
    row = bivlc(1)
    del row["subtype"]
    write_parquet(tmp_path / "test.parquet", [row])
    with pytest.raises(InputError, match=r"test\.parquet is no BiVLC file \(no column subtype, got image"):
        read_benchmark("bivlc", annotations=tmp_path, texts_only=True)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"test\.parquet is no BiVLC file"):
        read_benchmark("bivlc", annotations=tmp_path, texts_only=True)


def natural(number: int, answers: str, kind: str = "yes_no") -> dict[str, Any]:
    names = [f"Image_{image}_Question_{question}" for question in (0, 1) for image in (0, 1)]
    words = {"y": "Yes", "n": "No", "a": "A", "b": "B"}
    return {
        "Index": number,
        "Image_0": picture((number, 0, 0)),
        "Image_1": picture((0, number, 0)),
        "Question_0": f"Is it {number}?",
        "Question_1": f"Is it not {number}?",
        **dict(zip(names, (words[answer] for answer in answers), strict=True)),
        "Question_Type": kind,
    }


def test_naturalbenchs_questions_stand_on_the_image_on_which_they_are_right(tmp_path: Path) -> None:
    rows = [natural(0, "ynny"), natural(1, "nyyn"), natural(2, "abba", "multiple_choice"), natural(3, "ynyn")]
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows)
    benchmark = read_benchmark("naturalbench", annotations=tmp_path, image_root=tmp_path / "images")
    first, second, third = items(benchmark)
    assert first["text_ids"] == ["Is it 0?Please answer Yes or No.", "Is it not 0?Please answer Yes or No."]
    assert second["text_ids"][0].startswith("Is it not 1?"), "it is the other question that is right on the first image"
    assert third["text_ids"][0] == "Is it 2?Please output the letter corresponding to the correct option."
    assert [item["group"] for item in items(benchmark)] == ["yes_no", "yes_no", "multiple_choice"]
    assert benchmark.left_out == {"answers do not tell its images apart": 1}
    assert Image.open(benchmark.root / files_of(benchmark)["2_Image_1"]).getpixel((0, 0)) == (0, 2, 0)
    assert benchmark.key["yes_no"].to_pylist() == [True, True, False]
    assert "ask as they are" in benchmark.notes[0]
    assert "over the yes/no questions alone" in benchmark.notes[1]


def test_naturalbenchs_retrieval_form_has_captions(tmp_path: Path) -> None:
    item = {"index": 4, "image_0": "images/a.jpg", "image_1": "images/b.jpg", "caption_0": "one", "caption_1": "two"}
    write_json(tmp_path / "metadata.json", [item])
    root = photos(tmp_path, "images/a.jpg", "images/b.jpg")
    benchmark = read_benchmark("naturalbench_retrieval", annotations=tmp_path, image_root=root)
    assert items(benchmark) == [
        {"item_id": "4", "group": "", "image_ids": ["images/a", "images/b"], "text_ids": ["one", "two"]}
    ]


@pytest.mark.parametrize("folder", ["MLLM_VLM Images/", "MMVP_VLM_Images/", ""])
def test_mmvp_pairs_consecutive_rows_under_either_spelling_of_its_folder(tmp_path: Path, folder: str) -> None:
    pattern = "Orientation and Direction"
    rows = [(1, pattern, "a left hand"), (2, pattern, "a right hand"), (3, "Texts", "A"), (4, "Texts", "B")]
    write_csv(tmp_path / "Questions.csv", ("Question ID", "Type", "Statement"), *rows)
    root = photos(tmp_path, *(f"{folder}{kind}/{number}.jpg" for number, kind, _ in rows))
    benchmark = read_benchmark("mmvp_vlm", annotations=tmp_path, image_root=root)
    first, second = items(benchmark)
    assert first["text_ids"] == ["a photo of a left hand", "a photo of a right hand"]
    assert [first["group"], second["group"]] == ["Orientation_and_Direction", "Texts"]
    assert first["image_ids"] == ["mmvp_1", "mmvp_2"], "the same under both spellings"
    assert files_of(benchmark)["mmvp_1"] == f"{folder}{pattern}/1.jpg"


@pytest.mark.parametrize(
    ("rows", "fault"),
    [([(1, "Texts", "A")], "1 rows make no pairs"), ([(1, "Texts", "A"), (2, "Other", "B")], "are of two patterns")],
)
def test_mmvp_rows_that_make_no_pairs_are_refused(tmp_path: Path, rows: list[tuple[Any, ...]], fault: str) -> None:
    write_csv(tmp_path / "Questions.csv", ("Question ID", "Type", "Statement"), *rows)
    with pytest.raises(InputError, match=fault):
        read_benchmark("mmvp_vlm", annotations=tmp_path, texts_only=True)


def test_vismin_has_a_root_for_originals_and_one_for_edits(tmp_path: Path) -> None:
    header = ("image_path", "edited_image_path", "caption", "edited_caption", "edit_id")
    write_csv(tmp_path / "object.csv", header, ("images/1.jpg", "edit/1.png", "a red cup", "a blue cup", "e1"))
    write_csv(tmp_path / "counting.csv", header, ("images/1.jpg", "edit/2.png", "two", "three", "e1"))
    root = photos(tmp_path, "original_images/images/1.jpg", "edited_images/edit/1.png", "edited_images/edit/2.png")
    benchmark = read_benchmark("vismin", annotations=tmp_path, image_root=root)
    first, second = items(benchmark)
    assert (first["item_id"], second["item_id"]) == ("object:e1", "counting:e1")
    assert first["image_ids"] == ["original_images/images/1", "edited_images/edit/1"]
    assert first["text_ids"] == ["a red cup", "a blue cup"]
    assert [item["group"] for item in items(benchmark)] == ["object", "counting"]


def magicbrush(folder: Path, captions: Any) -> Path:
    names = ["7-input.png", "7-output1.png", "7-output2.png"]
    turns = [{"input": a, "output": b, "instruction": "x"} for a, b in pairwise(names)]
    write_json(folder / "edit_sessions.json", {"7": turns})
    write_json(folder / "global_descriptions.json", captions)
    return photos(folder, *(f"images/7/{name}" for name in names))


CAPTIONS = {"7-input.png": "a cat", "7-output1.png": "a cat with a hat", "7-output2.png": "a cat with a hat"}


@pytest.mark.parametrize("captions", [{"7": CAPTIONS}, CAPTIONS], ids=["by session", "by image"])
def test_magicbrush_turns_with_equal_captions_are_counted(tmp_path: Path, captions: Any) -> None:
    root = magicbrush(tmp_path, captions)
    benchmark = read_benchmark("magicbrush", annotations=tmp_path, image_root=root)
    assert items(benchmark) == [
        {
            "item_id": "7:1",
            "group": "",
            "image_ids": ["7-input", "7-output1"],
            "text_ids": ["a cat", "a cat with a hat"],
        }
    ]
    assert benchmark.left_out == {"both images have one caption": 1}


def test_magicbrush_turns_without_a_caption_are_counted(tmp_path: Path) -> None:
    root = magicbrush(tmp_path, {"7": {**CAPTIONS, "7-output2.png": None}})
    benchmark = read_benchmark("magicbrush", annotations=tmp_path, image_root=root)
    assert benchmark.left_out == {"without a caption": 1}


def test_cola_calls_images_by_visual_genomes_number(tmp_path: Path) -> None:
    address = "https://cs-people.bu.edu/array/data/vg_gqa_images/"
    row = [f"{address}2390970.jpg", "a tall giraffe", f"{address}2388902.jpg", "a brown giraffe"]
    write_json(tmp_path / "COLA_multiobjects_matching_benchmark.json", [row])
    root = photos(tmp_path, "2390970.jpg", "2388902.jpg")
    (item,) = items(read_benchmark("cola", annotations=tmp_path, image_root=root))
    assert (item["image_ids"], item["text_ids"]) == (["2390970", "2388902"], ["a tall giraffe", "a brown giraffe"])
    write_json(tmp_path / "COLA_multiobjects_matching_benchmark.json", [row[:3]])
    with pytest.raises(InputError, match="item 0 has 3 parts instead of 4"):
        read_benchmark("cola", annotations=tmp_path, texts_only=True)


def test_real_cola_is_whole(shared: Path) -> None:
    benchmark = read_benchmark("cola", annotations=shared / "data/cola", texts_only=True)
    assert (len(benchmark.key), benchmark.notes) == (210, ())
    assert len(benchmark.images) == len({image for ids in benchmark.key["image_ids"].to_pylist() for image in ids})


def test_real_sub_tags_of_winoground_have_their_published_counts(tmp_path: Path, shared: Path) -> None:
    lines = (json.dumps(example(number)) for number in range(400))
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    tags = shared / "data/winoground_tags/new_tag_assignments.json"
    benchmark = read_benchmark("winoground", annotations=tmp_path, texts_only=True, tags=tags)
    found = [tag for row in benchmark.key["tags"].to_pylist() for tag in row]
    counts = {"No_Tag": 172, "Complex_Reasoning": 78, "Unusual_Image": 56, "Unusual_Text": 50}
    counts |= {"Ambiguously_Correct": 46, "Visually_Difficult": 38, "Non_Minimal": 30}
    assert {tag: found.count(tag) for tag in counts} == counts
    assert benchmark.notes == ()
