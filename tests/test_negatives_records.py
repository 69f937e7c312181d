"""Tables on disk: what is read, what is refused and in which words, and that nothing is left half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import negatives.files
from negatives.records import (
    InputError,
    read_captions,
    read_negatives,
    read_verdicts,
    strings,
    text_table,
    write_json,
    write_table,
    write_text,
)

CAPTIONS = [
    {"image_id": "1", "image": "a.jpg", "caption_id": "1_0", "caption": "a dog"},
    {"image_id": "1", "image": "a.jpg", "caption_id": "1_1", "caption": "a brown dog"},
    {"image_id": "2", "image": "b.jpg", "caption_id": "2_0", "caption": "a cat"},
]
NEGATIVE = {
    "caption_id": "1_0",
    "negative_id": "n0",
    "caption": "a cat",
    "negative_type": "replace_obj",
    "generator": "rules",
    "model": "",
    "prompt_version": "1",
}


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def captions_table() -> pa.Table:
    return pa.Table.from_pylist(CAPTIONS)


def negatives_table() -> pa.Table:
    return pa.Table.from_pylist([NEGATIVE])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_what_is_written_is_what_is_read(tmp_path: Path, suffix: str) -> None:
    captions = captions_table().append_column("note", pa.array(["x", None, "line\u2028break\n"]))
    path = tmp_path / "deep" / "er" / f"captions{suffix}"
    write_table(captions, path)
    assert read_captions(path).to_pylist() == captions.to_pylist()


def test_a_line_with_a_list_of_captions_becomes_one_row_for_each(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "coco.jsonl",
        [
            {"image": "images/000000000285.jpg", "captions": ["a bear", "a big bear"], "coco_id": 285, "split": "val"},
            {"image": "images/x7.jpg", "captions": ["a cat"]},
        ],
    )
    table = read_captions(path)
    assert strings(table, "image_id") == ["285", "285", "x7"]
    assert strings(table, "caption_id") == ["285_0", "285_1", "x7_0"]
    assert strings(table, "caption") == ["a bear", "a big bear", "a cat"]
    assert table["split"].to_pylist() == ["val", "val", None]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_whole_numbers_as_ids_become_strings(tmp_path: Path, suffix: str) -> None:
    write_table(pa.Table.from_pylist([CAPTIONS[0] | {"image_id": 7, "caption_id": 70}]), tmp_path / f"c{suffix}")
    table = read_captions(tmp_path / f"c{suffix}")
    assert (strings(table, "image_id"), strings(table, "caption_id")) == (["7"], ["70"])


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([CAPTIONS[0], CAPTIONS[1] | {"caption": "  "}], ["`caption`", "'  '", "line 2", "remove the row"]),
        ([CAPTIONS[0], CAPTIONS[0]], ["`caption_id`", "'1_0'", "line 1 and line 2", "rename its id"]),
        ([CAPTIONS[0], CAPTIONS[1] | {"image": "z.jpg"}], ["'1'", "'a.jpg' and 'z.jpg'", "line 2", "Give each image"]),
        ([{"image_id": "1", "image": "a.jpg", "caption_id": "1"}], ["column `caption`", "line 1", "Add or rename"]),
        ([CAPTIONS[0], {"image": "a.jpg", "captions": "a dog"}], ["list of strings", "'a dog'", "line 2", "Mend"]),
        ([CAPTIONS[0], CAPTIONS[1] | {"caption": 3}], ["`caption`", "one kind of value", "Mend"]),
        ([CAPTIONS[0], ["a dog"]], ["one JSON object", "['a dog']", "line 2", "Mend"]),
        ([CAPTIONS[0] | {"image_id": None}], ["`image_id`", "None", "line 1", "Fill it in"]),
        ([], ["must have rows", "Check what wrote it"]),
    ],
)
def test_bad_captions_are_refused_with_place_and_remedy(tmp_path: Path, rows: list[Any], told: list[str]) -> None:
    path = jsonl(tmp_path / "captions.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_captions(path)
    message = str(caught.value)
    assert all(part in message for part in [*told, str(path)]), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("captions.csv", b"a,b", ".parquet or .jsonl"),
        ("captions.parquet", b"not parquet", "must be a Parquet file"),
        ("captions.jsonl", b'{"image_id": "\xff"}', "must be UTF-8"),
        ("captions.jsonl", b'{"image_id": ', "line 1"),
    ],
)
def test_undecodable_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        read_captions(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.parquet"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*Check the path"):
        read_captions(tmp_path / name)


def test_bad_rows_of_parquet_are_named_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([CAPTIONS[0], CAPTIONS[1] | {"caption": ""}]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet, row 2"):
        read_captions(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([NEGATIVE, NEGATIVE | {"negative_id": "n1", "caption_id": "9_9"}], ["1 of its 2 rows", "'9_9'", "line 2"]),
        ([NEGATIVE, NEGATIVE], ["`negative_id`", "'n0'", "line 1 and line 2", "rename its id"]),
        ([NEGATIVE | {"negative_type": "flip"}], ["replace_obj", "'flip'", "line 1", "Rename it"]),
        ([NEGATIVE | {"caption": " "}], ["`caption`", "' '", "line 1", "remove the row"]),
        ([{k: v for k, v in NEGATIVE.items() if k != "model"}], ["column `model`", "line 1", "Add or rename"]),
    ],
)
def test_bad_negatives_are_refused_with_place_and_remedy(tmp_path: Path, rows: list[Any], told: list[str]) -> None:
    path = jsonl(tmp_path / "negatives.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_negatives(path, captions_table())
    assert all(part in str(caught.value) for part in [*told, str(path)]), str(caught.value)


def test_text_table_has_one_row_for_every_text() -> None:
    texts = text_table(captions_table(), negatives_table())
    assert strings(texts, "text_id") == ["caption:1_0", "caption:1_1", "caption:2_0", "negative:n0"]
    assert strings(texts, "image_id") == ["1", "1", "2", "1"]
    assert texts["label"].to_pylist() == [1, 1, 1, 0]
    assert strings(texts, "negative_type") == ["", "", "", "replace_obj"]


def verdict(text_id: str, label: int) -> dict[str, Any]:
    return {"text_id": text_id, "label": label, "fold": 0, "oof_score": 0.5, "keep_probability": 1.0, "keep": True}


VERDICTS = [verdict("negative:n0", 0), *(verdict(f"caption:{name}", 1) for name in ("2_0", "1_1", "1_0"))]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verdicts_come_in_the_order_of_the_texts(tmp_path: Path, suffix: str) -> None:
    texts = text_table(captions_table(), negatives_table())
    write_table(pa.Table.from_pylist(VERDICTS), tmp_path / f"verdicts{suffix}")
    assert strings(read_verdicts(tmp_path / f"verdicts{suffix}", texts), "text_id") == strings(texts, "text_id")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (VERDICTS[:3], "1 of 4 texts have no verdict, such as 'caption:1_0'"),
        ([*VERDICTS, verdict("caption:9", 1)], "1 of 5 verdicts judge a text that is not there, such as 'caption:9'"),
        ([*VERDICTS[:3], verdict("caption:1_0", 0)], "1 of 4 verdicts have another label.*'caption:1_0'"),
        ([*VERDICTS, VERDICTS[0]], "`text_id` must not repeat.*line 1 and line 5"),
        ([row | {"keep": "perhaps"} for row in VERDICTS], "`keep` must be bool"),
        ([VERDICTS[0] | {"keep": None}, *VERDICTS[1:]], "`keep` must be given.*line 1"),
    ],
)
def test_verdicts_must_be_exactly_those_of_the_texts(tmp_path: Path, rows: list[Any], told: str) -> None:
    path = jsonl(tmp_path / "verdicts.jsonl", rows)
    with pytest.raises(InputError, match=told):
        read_verdicts(path, text_table(captions_table(), negatives_table()))


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_write_table_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: type[BaseException]
) -> None:
    write_table(captions_table(), tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def fail(*_: object) -> None:
        assert len(os.listdir(tmp_path)) == 2, "the new file must be written beside the old one"
        raise failure

    monkeypatch.setattr(negatives.files.os, "replace", fail)
    with pytest.raises(failure):
        write_table(negatives_table(), tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == before


def test_json_and_text_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json({"ü": [1, 0.5, None]}, tmp_path / "new" / "a.json")
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"ü": [1, 0.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": float("nan")}, tmp_path / "b.json")
    write_text("é\n", tmp_path / "c.txt")
    assert sorted(os.listdir(tmp_path)) == ["c.txt", "new"]
    assert (tmp_path / "c.txt").read_bytes() == "é\n".encode()


def test_a_table_with_another_suffix_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv"):
        write_table(captions_table(), tmp_path / "t.csv")
    assert os.listdir(tmp_path) == []
