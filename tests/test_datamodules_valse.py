"""VALSE comes in as our own tables, only what its annotators confirmed, and a file that is none is told so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.benchmarks.pairs import Pairs, as_pairs
from datamodules.benchmarks.read import read_benchmark
from datamodules.sources.image_rows import ImageRows
from negatives.tables.captions import InputError, pair_table, text_table

VALID = {
    "existence": 505,
    "plurals": 851,
    "counting-hard": 868,
    "counting-small-quant": 900,
    "counting-adversarial": 691,
    "relations": 535,
    "action-replacement": 648,
    "actant-swap": 949,
    "coreference-standard": 708,
    "coreference-hard": 104,
    "foil-it": 943,
}


TOTAL = {
    "existence": 534,
    "plurals": 1000,
    "counting-hard": 1000,
    "counting-small-quant": 1000,
    "counting-adversarial": 756,
    "relations": 614,
    "action-replacement": 779,
    "actant-swap": 1042,
    "coreference-standard": 916,
    "coreference-hard": 141,
    "foil-it": 1000,
}


def read_valse(folder: Path) -> Pairs:
    return as_pairs(read_benchmark("valse", annotations=folder, texts_only=True))


def read_sugarcrepe(folder: Path) -> Pairs:
    return as_pairs(read_benchmark("sugarcrepe", annotations=folder, texts_only=True))


def item(caption: Any = "a cat", foil: Any = "a dog", votes: Any = 3, image: Any = "v7w_1.jpg") -> dict[str, Any]:
    return {"image_file": image, "caption": caption, "foil": foil, "mturk": {"caption": votes, "foil": 0, "other": 0}}


def write(folder: Path, **pieces: Any) -> Path:
    for name, content in pieces.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_items_that_annotators_confirmed_become_captions_and_negatives(tmp_path: Path) -> None:
    write(
        tmp_path,
        existence={"a": item(), "b": item(votes=1), "c": item("two cats", votes=2, image="v7w_2.jpg")},
        foil_it={"a": item("a bus", "a car", image="COCO_val2014_000000000042.jpg")},
        relations={"a": item("on", "off", image="000000000042.jpg")},
    )
    (tmp_path / "LICENSE").write_text("MIT")
    pairs = read_valse(tmp_path)
    assert pairs.left_out == 1
    assert pairs.captions["caption_id"].to_pylist() == ["existence:a", "existence:c", "foil-it:a", "relations:a"]
    assert pairs.captions["caption"].to_pylist() == ["a cat", "two cats", "a bus", "on"]
    assert pairs.captions["image_id"].to_pylist() == ["v7w_1", "v7w_2", "42", "42"]
    assert pairs.negatives["caption"].to_pylist() == ["a dog", "a dog", "a car", "off"]
    assert pairs.negatives["negative_type"].to_pylist() == ["existence", "existence", "foil-it", "relations"]


def test_a_foil_equal_to_its_caption_stays_for_the_audit_to_count(tmp_path: Path) -> None:
    pairs = read_valse(write(tmp_path, existence={"a": item("a cat", "a cat")}))
    assert pairs.captions["caption"].to_pylist() == pairs.negatives["caption"].to_pylist() == ["a cat"]


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["a"],
        {"a": 3},
        {"a": {"caption": "a cat", "foil": "a dog"}},
        {"a": {**item(), "mturk": None}},
        {"a": item(votes="3")},
        {"a": item(votes=None)},
        {"a": item(caption=None)},
        {"a": item(foil="  ")},
        {"a": item(foil="half a pair \ud800")},
        {"a": item(image="")},
        {"a": item(image=7)},
        {"": item()},
    ],
    ids=str,
)
def test_a_malformed_file_is_named(tmp_path: Path, content: Any) -> None:
    write(tmp_path, existence=content)
    with pytest.raises(InputError, match=r"existence\.json is no VALSE file .*official JSON") as error:
        read_valse(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 200_000])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "existence.json").write_bytes(content)
    with pytest.raises(InputError, match=r"existence\.json is no VALSE file"):
        read_valse(tmp_path)


@pytest.mark.parametrize("image", ["../secret.jpg", "/etc/passwd"])
def test_file_names_stay_inside_the_folder(tmp_path: Path, image: str) -> None:
    with pytest.raises(InputError, match="must stay inside"):
        read_valse(write(tmp_path, existence={"a": item(image=image)}))


def test_a_folder_without_files_or_valid_items_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no VALSE file such as existence\.json"):
        read_valse(tmp_path)
    with pytest.raises(InputError, match="no item whose caption 2 annotators prefer"):
        read_valse(write(tmp_path, existence={"a": item(votes=0)}))


def test_a_photo_under_two_names_is_one_image_and_either_file_will_do(tmp_path: Path) -> None:
    """One COCO photo has two names in VALSE, those of two of its sources."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("COCO_val2014_000000000042.jpg", "v7w_1.jpg"):
        Image.new("RGB", (4, 4)).save(images / name)
    write(
        tmp_path,
        foil_it={"a": item("a bus", "a car", image="COCO_val2014_000000000042.jpg")},
        relations={"a": item("on", "off", image="000000000042.jpg")},
        existence={"a": item(votes=0), "b": item()},
    )
    pairs = as_pairs(read_benchmark("valse", annotations=tmp_path, image_root=images))
    assert pairs.captions["caption_id"].to_pylist() == ["existence:b", "foil-it:a", "relations:a"]
    assert pairs.left_out == 1, "it is not valid"
    (images / "COCO_val2014_000000000042.jpg").rename(images / "000000000042.jpg")
    pairs = as_pairs(read_benchmark("valse", annotations=tmp_path, image_root=images))
    rows = {row.image_id: row.captions for row in ImageRows(pairs.captions, pairs.negatives, pairs.root)}
    assert rows["42"] == ["a bus", "on", "a car", "off"]
    (images / "000000000042.jpg").unlink()
    benchmark = read_benchmark("valse", annotations=tmp_path, image_root=images)
    assert benchmark.left_out == {"not valid": 1, "image missing": 2}
    assert benchmark.key["item_id"].to_pylist() == ["existence:b"]


def test_real_valse_has_as_many_valid_items_as_its_paper(shared: Path) -> None:
    folder = shared / "data" / "valse"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: put VALSE's official files into it")
    benchmark = read_benchmark("valse", annotations=folder, texts_only=True)
    assert benchmark.notes == (), "the counts are the official ones"
    pairs = as_pairs(benchmark)
    kinds = pairs.negatives["negative_type"].to_pylist()
    assert {kind: kinds.count(kind) for kind in set(kinds)} == VALID
    totals = {path.stem: len(json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")}
    assert totals == TOTAL
    assert benchmark.left_out == {"not valid": sum(TOTAL.values()) - sum(VALID.values())}
    assert len(text_table(pairs.captions, pairs.negatives)) == 2 * len(kinds)
    assert len(pair_table(pairs.captions, pairs.negatives)) == len(kinds)


def test_sugarcrepe_is_read_without_its_photos(tmp_path: Path) -> None:
    items = {
        "0": {"filename": "000000000007.jpg", "caption": "a cat", "negative_caption": "a dog"},
        "4": {"filename": "000000000070.jpg", "caption": "a cup", "negative_caption": "a cup"},
    }
    (tmp_path / "swap_obj.json").write_text(json.dumps(items))
    pairs = read_sugarcrepe(tmp_path)
    assert (len(pairs.captions), len(pairs.negatives), pairs.left_out) == (2, 2, 0)
    assert pairs.captions["image_id"].to_pylist() == ["7", "70"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"negative_caption": " "}, "no SugarCrepe file"),
        ({"caption": "half a pair \ud800"}, "no SugarCrepe file"),
        ({"filename": "../7.jpg"}, "must stay inside"),
    ],
    ids=str,
)
def test_bad_sugarcrepe_texts_and_paths_are_refused(tmp_path: Path, change: dict[str, str], told: str) -> None:
    entry = {"filename": "000000000007.jpg", "caption": "a cat", "negative_caption": "a dog", **change}
    (tmp_path / "swap_obj.json").write_text(json.dumps({"0": entry}))
    with pytest.raises(InputError, match=told):
        read_sugarcrepe(tmp_path)


def test_real_sugarcrepe_is_whole_without_photos(shared: Path) -> None:
    pairs = read_sugarcrepe(shared / "data" / "sugarcrepe" / "data")
    assert len(pairs.captions) == len(pairs.negatives) > 4000
    assert pairs.left_out == 0


def test_a_malformed_item_is_named(tmp_path: Path) -> None:
    write(tmp_path, existence={"a": item(), "b": {"image_file": "1.jpg"}})
    with pytest.raises(InputError, match=r"no VALSE file \(item 'b' has no caption\)"):
        read_valse(tmp_path)
