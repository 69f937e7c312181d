"""Benchmarks come in as our own tables, and a file that is none is told so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.notes import count_note
from datamodules.benchmarks.pairs import Pairs, as_pairs
from datamodules.benchmarks.read import read_benchmark
from datamodules.sources.image_rows import ImageRows
from datamodules.sources.images import check_images
from negatives.tables.captions import InputError, read_captions, text_table
from tests.tiny import read_pairs, tiny_tables

ITEMS = {
    "swap_obj": {
        "0": ("000000000007.jpg", "a cat on a mat", "a mat on a cat"),
        "4": ("000000000070.jpg", "a dog in a box", "a box in a dog"),
    },
    "replace_att": {"12": ("000000000007.jpg", "a black cat", "a white cat")},
}


def write(folder: Path) -> Path:
    """Two files of the official format; keys have gaps."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in ITEMS.items():
        official = {
            key: dict(zip(("filename", "caption", "negative_caption"), item, strict=True))
            for key, item in items.items()
        }
        (folder / f"{name}.json").write_text(json.dumps(official, indent=1), encoding="utf-8")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "val2017"
    folder.mkdir()
    for number in (7, 70):
        Image.new("RGB", (4, 4)).save(folder / f"{number:012}.jpg")
    return folder


def test_sugarcrepe_items_become_captions_and_negatives(tmp_path: Path, photos: Path) -> None:
    pairs = as_pairs(read_benchmark("sugarcrepe", annotations=write(tmp_path / "data"), image_root=photos))
    captions = {row["caption_id"]: row for row in pairs.captions.to_pylist()}
    negatives = {row["caption_id"]: row for row in pairs.negatives.to_pylist()}
    assert captions.keys() == negatives.keys() == {"swap_obj:0", "swap_obj:4", "replace_att:12"}
    for name, items in ITEMS.items():
        for key, (filename, true, false) in items.items():
            caption, negative = captions[f"{name}:{key}"], negatives[f"{name}:{key}"]
            assert (caption["image"], caption["caption"]) == (filename, true)
            assert (negative["caption"], negative["negative_type"]) == (false, name)
            assert caption["image_id"] == str(int(Path(filename).stem)), "COCO's number"


def test_items_of_one_photo_share_its_row(tmp_path: Path, photos: Path) -> None:
    pairs = as_pairs(read_benchmark("sugarcrepe", annotations=write(tmp_path / "data"), image_root=photos))
    rows = {row.image_id: row.captions for row in ImageRows(pairs.captions, pairs.negatives, pairs.root)}
    assert sorted(rows["7"]) == ["a black cat", "a cat on a mat", "a mat on a cat", "a white cat"]
    assert sorted(rows["70"]) == ["a box in a dog", "a dog in a box"]


def test_items_whose_photo_is_absent_are_left_out_and_counted(tmp_path: Path, photos: Path) -> None:
    folder = write(tmp_path / "data")
    (photos / "000000000070.jpg").unlink()
    pairs = as_pairs(read_benchmark("sugarcrepe", annotations=folder, image_root=photos))
    assert pairs.captions["image_id"].to_pylist() == ["7", "7"]
    assert pairs.left_out == 1


def test_groups_of_which_nothing_is_left_are_named(tmp_path: Path, photos: Path) -> None:
    folder = write(tmp_path / "data")
    (photos / "000000000007.jpg").unlink()
    benchmark = read_benchmark("sugarcrepe", annotations=folder, image_root=photos)
    assert benchmark.notes[-1] == (
        "no item is left of add_att, add_obj, replace_att and 3 more; mean is over 1 of 7 groups"
    )
    everything = read_benchmark("sugarcrepe", annotations=folder, texts_only=True)
    assert "replace_att, " not in everything.notes[-1]


def test_files_that_are_not_there_are_named_before_those_that_are_short(tmp_path: Path) -> None:
    everything = {"replace_obj": 2, "replace_att": 1, "replace_rel": 1, "swap_obj": 0, "": 4}
    official = {"replace_obj": 3, "replace_att": 3, "replace_rel": 3, "swap_obj": 245, "": 254}
    groups = [group for group, count in everything.items() if group for _ in range(count)]
    key = pa.table({"item_id": [str(number) for number in range(len(groups))], "group": groups})
    benchmark = Benchmark("sugarcrepe", "pairs", key, key, key, tmp_path, None)
    assert count_note(benchmark, official) == (
        "counts are not the official ones: swap_obj 0 instead of 245, replace_obj 2 instead of 3, "
        "replace_att 1 instead of 3, and 2 more"
    )


def test_image_ids_restrict_a_benchmark_to_images_of_another_table(tmp_path: Path, photos: Path) -> None:
    folder, table = write(tmp_path / "data"), tmp_path / "ids.jsonl"
    line = {"image_id": 70, "image": "x.jpg", "caption_id": "70_0", "caption": "a dog"}
    table.write_text(json.dumps(line) + "\n", encoding="utf-8")
    pairs = as_pairs(read_benchmark("sugarcrepe", annotations=folder, image_root=photos, image_ids=table))
    assert pairs.captions["caption_id"].to_pylist() == pairs.negatives["caption_id"].to_pylist() == ["swap_obj:4"]
    assert pairs.left_out == 2
    table.write_text(json.dumps({**line, "image_id": 8}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="no pair is left to evaluate on; check `image_ids`"):
        read_benchmark("sugarcrepe", annotations=folder, image_root=photos, image_ids=table)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"0": 3}',
        '["filename"]',
        '{"0": {"filename": "x.jpg", "caption": "a cat"}}',
        '{"0": {"filename": "x.jpg", "caption": null, "negative_caption": "a dog"}}',
        '{"0": {"filename": 7, "caption": "a cat", "negative_caption": "a dog"}}',
        b"\xff\xfe",
    ],
    ids=str,
)
def test_a_malformed_file_is_named(tmp_path: Path, photos: Path, content: Any) -> None:
    folder = write(tmp_path / "data")
    path = folder / "replace_att.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"replace_att\.json is no SugarCrepe file .*official JSON") as error:
        read_benchmark("sugarcrepe", annotations=folder, image_root=photos)
    assert "\n" not in str(error.value)


def test_a_folder_without_files_or_photos_is_told_so(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(InputError, match=r"holds no SugarCrepe file such as replace_obj\.json"):
        read_benchmark("sugarcrepe", annotations=tmp_path, image_root=photos)
    with pytest.raises(InputError, match=r"none of its images lies in .*; set image_root"):
        read_benchmark("sugarcrepe", annotations=write(tmp_path / "data"), image_root=tmp_path)


def test_own_tables_keep_only_captions_that_have_a_negative(tmp_path: Path) -> None:
    captions, negatives = tiny_tables(tmp_path)
    from pyarrow import parquet

    some = parquet.read_table(negatives).slice(0, 7)  # all five of the first caption, two of the second
    parquet.write_table(some, tmp_path / "some.parquet")
    pairs = read_pairs(captions, tmp_path / "some.parquet")
    assert pairs.captions["caption_id"].to_pylist() == ["train-0-a", "train-0-b"]
    assert len(pairs.negatives) == 7
    assert pairs.root == captions.parent


def test_own_tables_need_their_images(tmp_path: Path) -> None:
    captions, negatives = tiny_tables(tmp_path)
    with pytest.raises(InputError, match="6 of 6 images do not exist"):
        read_benchmark("tables", captions=captions, negatives=negatives, image_root=tmp_path)


def test_real_sugarcrepe_is_read_on_real_photos(shared: Path) -> None:
    photos = shared / "data" / "coco_val2017" / "images"
    data = shared / "data" / "sugarcrepe" / "data"
    pairs: Pairs = as_pairs(read_benchmark("sugarcrepe", annotations=data, image_root=photos))
    assert len(pairs.captions) == len(pairs.negatives) > 50
    assert set(pairs.negatives["negative_type"].to_pylist()) >= {"replace_obj", "swap_att", "add_obj"}
    assert len(text_table(pairs.captions, pairs.negatives)) == 2 * len(pairs.captions)
    check_images(pairs.root, pairs.captions["image"].to_pylist())
    row = ImageRows(pairs.captions, pairs.negatives, pairs.root)[0]
    assert min(row.image.size) > 100
    # the ids are those of COCO's own caption table
    known = set(read_captions(shared / "data" / "coco_val2017" / "captions.jsonl")["image_id"].to_pylist())
    assert set(pairs.captions["image_id"].to_pylist()) <= known
