"""Caption files of others: what is read of each format, and in which words a broken one is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from negatives.tables.captions import CAPTION_COLUMNS, InputError, read_captions, strings, write_table
from negatives.tables.sources import read_caption_source

COCO = {
    "info": {"year": 2017},
    "images": [{"id": 139, "file_name": "000139.jpg"}, {"id": 285, "file_name": "000285.jpg"}],
    "annotations": [
        {"image_id": 285, "id": 7, "caption": "A big bear."},
        {"image_id": 139, "id": 9, "caption": "A room with “chairs”"},
        {"image_id": 285, "id": 8, "caption": "a bear\n"},
    ],
}
KARPATHY = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_1.jpg",
            "cocoid": 1,
            "imgid": 0,
            "split": "test",
            "sentids": [10, 11],
            "sentences": [
                {"raw": "A man.", "sentid": 10, "tokens": ["a", "man"]},
                {"raw": "A boy.", "sentid": 11, "tokens": []},
            ],
        },
        {"filename": "x.jpg", "imgid": 2, "split": "restval", "sentences": [{"raw": "A cat.", "sentid": 12}]},
    ],
    "dataset": "coco",
}
CSV = 'image,caption,note\nd/a.jpg,"A ""red"" dog, asleep",x\r\n\nd/a.jpg,a dog,\nb.jpg,"two\nlines",z\n'


def saved(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def refused(path: Path, *expected: str, **arguments: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_caption_source(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (*expected, path.name)), message


def changed(value: Any, *keys: Any, to: Any) -> Any:
    """A copy of nested JSON with the value at `keys` set to `to`."""
    copy = json.loads(json.dumps(value))
    item = copy
    for key in keys[:-1]:
        item = item[key]
    item[keys[-1]] = to
    return copy


@pytest.mark.parametrize("format", ["auto", "coco"])
def test_coco_annotations_become_rows_in_their_order(tmp_path: Path, format: str) -> None:
    table = read_caption_source(saved(tmp_path / "captions_val2017.json", COCO), format)
    assert table.column_names == list(CAPTION_COLUMNS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("285", "000285.jpg", "7", "A big bear."),
        ("139", "000139.jpg", "9", "A room with “chairs”"),
        ("285", "000285.jpg", "8", "a bear\n"),
    ]
    assert {field.type for field in table.schema} == {pa.string()}


@pytest.mark.parametrize("format", ["auto", "karpathy"])
def test_karpathy_sentences_become_rows_with_their_split(tmp_path: Path, format: str) -> None:
    path = saved(tmp_path / "dataset_coco.json", KARPATHY)
    table = read_caption_source(path, format)
    assert table.column_names == [*CAPTION_COLUMNS, "split"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("1", "val2014/COCO_1.jpg", "10", "A man.", "test"),
        ("1", "val2014/COCO_1.jpg", "11", "A boy.", "test"),
        ("2", "x.jpg", "12", "A cat.", "restval"),
    ]
    assert strings(read_caption_source(path, splits=("restval",)), "caption_id") == ["12"]
    assert len(read_caption_source(path, splits=("restval", "test"))) == 3


def test_csv_keeps_quotes_line_breaks_and_other_columns(tmp_path: Path) -> None:
    table = read_caption_source(saved(tmp_path / "captions.csv", CSV))
    assert table.column_names == [*CAPTION_COLUMNS, "note"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", "d/a.jpg", "a_0", 'A "red" dog, asleep', "x"),
        ("a", "d/a.jpg", "a_1", "a dog", ""),
        ("b", "b.jpg", "b_0", "two\nlines", "z"),
    ]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    for name, value in {"a.csv": CSV, "b.json": json.dumps(COCO)}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + value.encode())
        assert len(read_caption_source(tmp_path / name)) == 3


def test_columns_are_found_by_the_names_given_or_by_common_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.tsv", "nr\tfilepath\ttitle\tother\n5\ta.jpg\ta dog, asleep\tein Hund\n")
    assert read_caption_source(path).select(CAPTION_COLUMNS).to_pylist() == [
        {"image_id": "a", "image": "a.jpg", "caption_id": "a_0", "caption": "a dog, asleep"}
    ]
    named = read_caption_source(path, columns={"caption": "other", "caption_id": "nr", "image_id": "nr"})
    assert named.to_pylist() == [
        {"image_id": "5", "image": "a.jpg", "caption_id": "5", "caption": "ein Hund", "title": "a dog, asleep"}
    ]
    lines = saved(tmp_path / "c.jsonl", '{"file_name": "a.jpg", "text": "a dog"}\n')
    assert strings(read_caption_source(lines), "caption_id") == ["a_0"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_tables_are_read_as_read_captions_reads_them(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"image_id": 1, "image": "a.jpg", "caption_id": 10, "caption": "a dog", "n": 3},
        {"image_id": 1, "image": "a.jpg", "caption_id": 11, "caption": "a cat", "n": None},
    ]
    write_table(pa.Table.from_pylist(rows), tmp_path / f"c{suffix}")
    assert read_caption_source(tmp_path / f"c{suffix}").equals(read_captions(tmp_path / f"c{suffix}"))
    lists = saved(tmp_path / "lists.jsonl", '{"image": "x7.jpg", "captions": ["a cat", "a bear"], "split": "val"}\n')
    assert read_caption_source(lists).equals(read_captions(lists))
    assert len(read_caption_source(lists, splits=["val"])) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (json.dumps(COCO)[:-40], ["must be whole", "Copy it again"]),
        ("", ["must be whole"]),
        ("[" * 100_000, ["must be whole"]),
        ([{"image": "a.jpg"}], ["must have `images`", "a.jpg", "JSONL"]),
        ({"pictures": []}, ["must have `images`", "pictures"]),
        (changed(COCO, "images", to={}), ["`images` must be a list", "{}"]),
        (changed(COCO, "annotations", to=[]), ["must have rows"]),
        (changed(COCO, "annotations", 1, to="x"), ["must hold objects", "'x'", "annotations[1]"]),
        (changed(COCO, "annotations", 1, "image_id", to=77), ["`images`", "'77'", "annotations[1]", "Add the image"]),
        (changed(COCO, "annotations", 2, "id", to=7), ["`caption_id`", "'7'", "annotations[0] and annotations[2]"]),
        (changed(COCO, "annotations", 2, "caption", to=" "), ["`caption`", "' '", "annotations[2]", "Fill it in"]),
        (changed(COCO, "annotations", 2, to={"id": 1, "image_id": 285}), ["`caption`", "None", "annotations[2]"]),
        (changed(COCO, "images", 1, "id", to=139), ["'139'", "'000139.jpg' and '000285.jpg'", "images[1]"]),
        (changed(COCO, "images", 0, "id", to=True), ["`id`", "True", "images[0]"]),
        (changed(KARPATHY, "images", 0, "sentences", to=None), ["`sentences` must be a list", "images[0]"]),
        (changed(KARPATHY, "images", 0, "sentences", 1, "raw", to=""), ["`raw`", "images[0], sentences[1]"]),
        (changed(KARPATHY, "images", 1, "sentences", 0, "sentid", to=11), ["[0].sentences[1] and images[1].sentences"]),
        (changed(KARPATHY, "images", 1, "imgid", to=1), ["'1'", "'val2014/COCO_1.jpg' and 'x.jpg'", "images[1]"]),
        (changed(KARPATHY, "images", 1, to={"filename": "a.jpg"}), ["`cocoid`", "None", "images[1]"]),
        (changed(COCO, "images", 1, "file_name", to="a\0.jpg"), ["`image`", "without NUL", "annotations["]),
        (changed(COCO, "annotations", 1, "caption", to="a \ud83d dog"), ["half of a surrogate pair", "annotations[1]"]),
    ],
)
def test_broken_json_is_refused_with_place_and_remedy(tmp_path: Path, value: Any, expected: list[str]) -> None:
    refused(saved(tmp_path / "captions.json", value), *expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["must have rows"]),
        ("image,caption\n", ["must have rows"]),
        ("image,caption\na.jpg,a dog\nb.jpg,a dog, asleep\n", ["2 fields", "got 3", "line 3", "Quote"]),
        ("image,caption\na.jpg,'a\n\nb.jpg\n", ["2 fields", "got 1", "line 4"]),
        ('image,caption\na.jpg,"a dog\nb.jpg,a cat\n', ["closed quotes", "line 2", "written twice"]),
        ('image,caption\na.jpg,"a dog" x\n', ["closed quotes", "line 2"]),
        (f'image,caption\na.jpg,x\na.jpg,"{"x" * 200_000}\n', ["closed quotes", "line 3"]),
        ("image,caption\na.jpg,a\0dog\n", ["NUL", "line 2"]),
        ("image,caption\na.jpg, \n", ["`caption`", "' '", "line 2", "Fill it in"]),
        ("image,caption\n,a dog\n", ["`image", "''", "line 2"]),
        ("image,words\na.jpg,a dog\n", ["column for `caption`", "title", "['image', 'words']", "`columns`"]),
        ("a.jpg,a dog\nb.jpg,a cat\n", ["column for `image`", "['a.jpg', 'a dog']", "header"]),
        ("image,caption,caption\na.jpg,a dog,b\n", ["twice", "caption"]),
        ("image,caption,caption_id\na.jpg,a,1\nb.jpg,b,1\n", ["`caption_id`", "'1'", "line 2 and line 3"]),
        ("image,caption\nd/a.jpg,a\ne/a.jpg,b\n", ["'a'", "'d/a.jpg' and 'e/a.jpg'", "line 3", "id of its own"]),
    ],
)
def test_broken_csv_is_refused_with_line_and_remedy(tmp_path: Path, text: str, expected: list[str]) -> None:
    refused(saved(tmp_path / "captions.csv", text), *expected)
    refused(
        saved(tmp_path / "captions.tsv", text.replace(",", "\t")), *(part.replace(", ", "\\t") for part in expected[:1])
    )


@pytest.mark.parametrize(
    "content", [b"image,caption\na.jpg,a dog\nb.jpg,caf\xe9\n", "image,caption\n".encode("utf-16")]
)
def test_a_csv_file_of_another_encoding_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.csv").write_bytes(content)
    refused(tmp_path / "c.csv", "must be UTF-8", "line 3" if b"caf" in content else "line 1")
    (tmp_path / "c.json").write_bytes(content)
    refused(tmp_path / "c.json", "must be UTF-8")


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    csv, coco = saved(tmp_path / "c.csv", CSV), saved(tmp_path / "c.json", COCO)
    refused(csv, "must be one of auto table", "'xml'", format="xml")
    refused(csv, "`splits` needs a column `split`", splits=["val"])
    refused(saved(tmp_path / "k.json", KARPATHY), "'restval'", "'train'", splits=["train"])
    refused(csv, "column for `caption` (words)", columns={"caption": "words"})
    refused(coco, "Leave them out", columns={"caption": "words"})
    refused(saved(tmp_path / "c.txt", CSV), "'.txt'", "name its format")
    assert len(read_caption_source(tmp_path / "c.txt", "csv")) == 3
    refused(csv, "must be whole", format="coco")
    refused(coco, format="csv")
    for name in ("no.csv", "no.json", "no.parquet", "no.jsonl"):
        refused(tmp_path / name, "Cannot read", "Check the path")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "Cannot read")
    with pytest.raises(InputError, match=r"`columns` must name .* got 'words'"):
        read_caption_source(csv, columns={"words": "caption"})
    with pytest.raises(InputError, match=r"got 'captoin'\. Did you mean caption\?$"):
        read_caption_source(csv, columns={"captoin": "words"})


def test_a_file_of_coco_s_size_is_read_in_seconds(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(10_000)]
    annotations = [{"id": n, "image_id": n // 6, "caption": f"a dog and {n} cats"} for n in range(60_000)]
    path = saved(tmp_path / "c.json", {"images": images, "annotations": annotations})
    start = time.perf_counter()
    assert len(read_caption_source(path)) == 60_000
    assert time.perf_counter() - start < 10  # measured 0.6 s alone; the real file has ten times the rows
