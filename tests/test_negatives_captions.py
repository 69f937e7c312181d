"""Tables of texts on disk: what is read, what is refused and in which words, and that nothing is left half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import negatives.tables.files
from negatives.tables.captions import (
    InputError,
    pair_table,
    read_captions,
    read_negatives,
    strings,
    text_table,
    with_paraphrases,
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
    ("rows", "expected"),
    [
        ([CAPTIONS[0], CAPTIONS[1] | {"caption": "  "}], ["`caption`", "'  '", "line 2", "remove the row"]),
        ([CAPTIONS[0], CAPTIONS[0]], ["`caption_id`", "'1_0'", "line 1 and line 2", "rename its id"]),
        ([CAPTIONS[0], CAPTIONS[1] | {"image": "z.jpg"}], ["'1'", "'a.jpg' and 'z.jpg'", "line 2", "Give each image"]),
        ([{"image_id": "1", "image": "a.jpg", "caption_id": "1"}], ["column `caption`", "line 1", "Add or rename"]),
        ([CAPTIONS[0], {"image": "a.jpg", "captions": "a dog"}], ["list of strings", "'a dog'", "line 2", "Mend"]),
        (
            [CAPTIONS[0], CAPTIONS[1] | {"caption": 3}],
            ["`caption` must hold one kind of value, got '", "' and 3 (", "Mend"],
        ),
        ([CAPTIONS[0], ["a dog"]], ["one JSON object", "['a dog']", "line 2", "Mend"]),
        ([CAPTIONS[0] | {"image_id": None}], ["`image_id`", "None", "line 1", "Fill it in"]),
        ([CAPTIONS[0], CAPTIONS[2] | {"image": "b\0.jpg"}], ["`image`", "without NUL", "'b\\x00.jpg'", "line 2"]),
        ([CAPTIONS[0] | {"caption": "a\0dog"}], ["`caption`", "without NUL", "line 1"]),
        ([CAPTIONS[0] | {"caption": "a \ud83d dog"}], ["half of a surrogate pair", "'a \\ud83d dog'", "Mend"]),
        ([CAPTIONS[0] | {"\ud83d": 1}], ["half of a surrogate pair", "Mend"]),
        ([], ["must have rows", "Check what wrote it"]),
    ],
)
def test_bad_captions_are_refused_with_place_and_remedy(tmp_path: Path, rows: list[Any], expected: list[str]) -> None:
    path = jsonl(tmp_path / "captions.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_captions(path)
    message = str(caught.value)
    assert all(part in message for part in [*expected, str(path)]), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("captions.csv", b"a,b", ".parquet or .jsonl"),
        ("captions.parquet", b"not parquet", "must be a Parquet file"),
        ("captions.jsonl", b'{"image_id": "\xff"}', "must be UTF-8"),
        ("captions.jsonl", b'{"image_id": ', "line 1"),
        ("captions.jsonl", b'{"image_id": ' + b"[" * 100_000, "recursion.*line 1"),
        ("captions.jsonl", b'{"image_id": ' + b"9" * 5000 + b"}", "digits.*line 1"),
    ],
)
def test_undecodable_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_captions(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.parquet"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*Check the path"):
        read_captions(tmp_path / name)


def test_parquet_that_stands_for_what_no_table_is_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, table = tmp_path / "c.parquet", captions_table()
    data = pa.array([b"\xff\xfe"] * 3).buffers()
    for column in ("caption", "other"):
        # Parquet says that texts are UTF-8, and nobody checks them when they are written
        broken = table.drop_columns([column] if column in table.column_names else [])
        pq.write_table(broken.append_column(column, pa.Array.from_buffers(pa.string(), 3, data)), path)
        with pytest.raises(InputError, match=r"c\.parquet must be a Parquet file, and cannot be read"):
            read_captions(path)
    deep = pa.array([[1]] * 3)
    for _ in range(100):
        deep = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), deep)
    pq.write_table(table.append_column("deep", deep), path)
    with pytest.raises(InputError, match=r"c\.parquet must be a Parquet file, and cannot be read"):
        read_captions(path)
    monkeypatch.setattr(negatives.tables.files, "MOST_ROWS", 2)
    pq.write_table(table, path)
    with pytest.raises(InputError, match=r"at most 2 rows, .*c\.parquet has 3"):
        read_captions(path)


def test_bad_rows_of_parquet_are_named_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([CAPTIONS[0], CAPTIONS[1] | {"caption": ""}]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet, row 2"):
        read_captions(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([NEGATIVE, NEGATIVE | {"negative_id": "n1", "caption_id": "9_9"}], ["1 of its 2 rows", "'9_9'", "line 2"]),
        ([NEGATIVE, NEGATIVE], ["`negative_id`", "'n0'", "line 1 and line 2", "rename its id"]),
        ([NEGATIVE | {"negative_type": "flip it"}], ["without white space", "'flip it'", "line 1", "Rename it"]),
        ([NEGATIVE | {"negative_type": "flip/it"}], ["without white space and /", "'flip/it'", "line 1", "Rename it"]),
        ([NEGATIVE, NEGATIVE | {"negative_id": "n1", "negative_type": "mean"}], ["not all or mean", "line 2"]),
        ([NEGATIVE | {"caption": " "}], ["`caption`", "' '", "line 1", "remove the row"]),
        ([{k: v for k, v in NEGATIVE.items() if k != "model"}], ["column `model`", "line 1", "Add or rename"]),
    ],
)
def test_bad_negatives_are_refused_with_place_and_remedy(tmp_path: Path, rows: list[Any], expected: list[str]) -> None:
    path = jsonl(tmp_path / "negatives.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_negatives(path, captions_table())
    assert all(part in str(caught.value) for part in [*expected, str(path)]), str(caught.value)


def test_tables_of_others_may_name_types_that_have_no_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "negatives.jsonl", [NEGATIVE | {"negative_type": "counting-hard"}])
    negatives = read_negatives(path, captions_table())
    assert strings(negatives, "negative_type") == ["counting-hard"]
    assert strings(pair_table(captions_table(), negatives), "negative_type") == ["counting-hard"]


def test_text_table_has_one_row_for_every_text() -> None:
    texts = text_table(captions_table(), negatives_table())
    assert strings(texts, "text_id") == ["caption:1_0", "caption:1_1", "caption:2_0", "negative:n0"]
    assert strings(texts, "image_id") == ["1", "1", "2", "1"]
    assert texts["label"].to_pylist() == [1, 1, 1, 0]
    assert strings(texts, "negative_type") == ["", "", "", "replace_obj"]


PARAPHRASES = [
    {"image_id": "1", "image": "a.jpg", "caption_id": "p0", "caption": "one dog", "source_caption_id": "1_0"},
    {"image_id": "1", "image": "a.jpg", "caption_id": "p1", "caption": "some dog", "source_caption_id": "1_0"},
    {"image_id": "2", "image": "b.jpg", "caption_id": "p2", "caption": "one cat", "source_caption_id": "2_0"},
]


def pairs_of(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(strings(table, "caption_id"), strings(table, "negative_id"), strict=True))


def test_each_negative_is_paired_with_its_own_caption_in_its_own_order() -> None:
    others = [{"negative_id": "n9", "caption_id": "2_0"}, {"negative_id": "n1", "negative_type": "swap_att"}]
    negatives = pa.Table.from_pylist([NEGATIVE | other for other in others] + [NEGATIVE])
    pairs = pair_table(captions_table(), negatives)
    assert pairs_of(pairs) == [("2_0", "n9"), ("1_0", "n1"), ("1_0", "n0")]
    assert strings(pairs, "negative_type") == ["replace_obj", "swap_att", "replace_obj"]


def test_a_negative_is_paired_with_the_paraphrases_of_its_caption(tmp_path: Path) -> None:
    captions = with_paraphrases(captions_table(), jsonl(tmp_path / "p.jsonl", PARAPHRASES))
    other = NEGATIVE | {"negative_id": "n1", "caption_id": "1_1"}
    pairs = pair_table(captions, pa.Table.from_pylist([NEGATIVE, other]))
    assert pairs_of(pairs) == [("1_0", "n0"), ("p0", "n0"), ("p1", "n0"), ("1_1", "n1")]


def test_without_negatives_there_are_no_pairs() -> None:
    pairs = pair_table(captions_table(), negatives_table().slice(0, 0))
    assert (len(pairs), pairs.column_names) == (0, ["caption_id", "negative_id", "negative_type"])
    assert pairs.schema.types == [pa.string()] * 3


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_paraphrases_come_after_the_captions(tmp_path: Path, suffix: str) -> None:
    write_table(pa.Table.from_pylist([row | {"note": "x"} for row in PARAPHRASES]), tmp_path / f"p{suffix}")
    captions = captions_table().append_column("note", pa.array(["y"] * 3))
    table = with_paraphrases(captions, tmp_path / f"p{suffix}")
    assert table.column_names == ["image_id", "image", "caption_id", "caption", "source_caption_id"]
    assert table.to_pylist() == [*(row | {"source_caption_id": None} for row in CAPTIONS), *PARAPHRASES]


def test_whole_numbers_name_the_source_of_a_paraphrase(tmp_path: Path) -> None:
    captions = pa.Table.from_pylist([CAPTIONS[0] | {"caption_id": "7"}])
    path = jsonl(tmp_path / "p.jsonl", [PARAPHRASES[0] | {"source_caption_id": 7, "image_id": 1}])
    pairs = pair_table(with_paraphrases(captions, path), pa.Table.from_pylist([NEGATIVE | {"caption_id": "7"}]))
    assert pairs_of(pairs) == [("7", "n0"), ("p0", "n0")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PARAPHRASES[0] | {"source_caption_id": "9"}, "must name a caption of the same image, got '9'.*line 2"),
        (PARAPHRASES[0] | {"source_caption_id": "2_0"}, "must name a caption of the same image, got '2_0'.*line 2"),
        (PARAPHRASES[0] | {"source_caption_id": "p1"}, "must name a caption of the same image, got 'p1'.*line 2"),
        (PARAPHRASES[0] | {"caption_id": "1_1"}, "`caption_id` '1_1' is a caption's already.*line 2.*Rename"),
        (PARAPHRASES[1], "`caption_id` must not repeat, got 'p1' twice.*line 1 and line 2"),
        (PARAPHRASES[0] | {"caption": " "}, "`caption` must be a text that is not blank.*line 2"),
        (PARAPHRASES[0] | {"source_caption_id": None}, "`source_caption_id` must be a text.*line 2"),
    ],
)
def test_bad_paraphrases_are_refused_with_place_and_remedy(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        with_paraphrases(captions_table(), jsonl(tmp_path / "p.jsonl", [PARAPHRASES[1], row]))
    assert "p.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_captions_without_a_source_are_no_paraphrases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs column `source_caption_id`"):
        with_paraphrases(captions_table(), jsonl(tmp_path / "p.jsonl", CAPTIONS))


def test_a_paraphrase_that_gives_its_image_another_file_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [PARAPHRASES[0] | {"image": "z.jpg"}])
    with pytest.raises(InputError, match=r"'a\.jpg'.*'z\.jpg'"):
        with_paraphrases(captions_table(), path)


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

    monkeypatch.setattr(negatives.tables.files.os, "replace", fail)
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
