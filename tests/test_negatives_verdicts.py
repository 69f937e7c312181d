"""Verdicts on disk: they come in the order of what they judge, and judge exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from negatives.tables.captions import InputError, strings, text_table, write_table
from negatives.tables.verdicts import is_harmonised, read_pair_verdicts, read_verdicts
from tests.test_negatives_captions import captions_table, jsonl, negatives_table, pairs_of


def verdict(text_id: str, label: int) -> dict[str, Any]:
    return {"text_id": text_id, "label": label, "fold": 0, "oof_score": 0.5, "keep_probability": 1.0, "keep": True}


VERDICTS = [verdict("negative:n0", 0), *(verdict(f"caption:{name}", 1) for name in ("2_0", "1_1", "1_0"))]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verdicts_come_in_the_order_of_the_texts(tmp_path: Path, suffix: str) -> None:
    texts = text_table(captions_table(), negatives_table())
    write_table(pa.Table.from_pylist(VERDICTS), tmp_path / f"verdicts{suffix}")
    assert strings(read_verdicts(tmp_path / f"verdicts{suffix}", texts), "text_id") == strings(texts, "text_id")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (VERDICTS[:3], "1 of 4 texts have no verdict, such as 'caption:1_0'"),
        ([*VERDICTS, verdict("caption:9", 1)], "1 of 5 verdicts judge a text that is not there, such as 'caption:9'"),
        ([*VERDICTS[:3], verdict("caption:1_0", 0)], "1 of 4 verdicts have another label.*'caption:1_0'"),
        ([*VERDICTS, VERDICTS[0]], "`text_id` must not repeat.*line 1 and line 5"),
        ([row | {"keep": "perhaps"} for row in VERDICTS], "`keep` must be bool"),
        ([VERDICTS[0] | {"keep": None}, *VERDICTS[1:]], "`keep` must be given.*line 1"),
    ],
)
def test_verdicts_must_be_exactly_those_of_the_texts(tmp_path: Path, rows: list[Any], expected: str) -> None:
    path = jsonl(tmp_path / "verdicts.jsonl", rows)
    with pytest.raises(InputError, match=expected):
        read_verdicts(path, text_table(captions_table(), negatives_table()))


def pair_verdict(caption_id: str, negative_id: str) -> dict[str, Any]:
    own = {"caption_id": caption_id, "negative_id": negative_id}
    return own | {"fold": 0, "oof_score": 0.5, "keep_probability": 1.0, "keep": True}


PAIRS = pa.table({"caption_id": ["a", "b", "a"], "negative_id": ["n0", "n0", "n1"]})
PAIR_VERDICTS = [pair_verdict(*pair) for pair in (("a", "n1"), ("a", "n0"), ("b", "n0"))]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verdicts_of_pairs_come_in_the_order_of_the_pairs(tmp_path: Path, suffix: str) -> None:
    rows = [row | {"fold": fold, "note": "x"} for fold, row in enumerate(PAIR_VERDICTS)]
    write_table(pa.Table.from_pylist(rows), tmp_path / f"v{suffix}")
    table = read_pair_verdicts(tmp_path / f"v{suffix}", PAIRS)
    assert pairs_of(table) == pairs_of(PAIRS)
    assert table["fold"].to_pylist() == [1, 2, 0]
    assert table.column_names == list(PAIR_VERDICTS[0])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (PAIR_VERDICTS[:2], r"1 of 3 pairs have no verdict, such as .*'b', 'n0'"),
        ([*PAIR_VERDICTS, pair_verdict("b", "n1")], r"1 of 4 verdicts judge a pair that is not there.*'b', 'n1'"),
        ([*PAIR_VERDICTS, PAIR_VERDICTS[0]], r"A pair must not repeat, got \('a', 'n1'\) twice.*line 4"),
        ([row | {"oof_score": "high"} for row in PAIR_VERDICTS], "`oof_score` must be double"),
        ([PAIR_VERDICTS[0] | {"keep": None}, *PAIR_VERDICTS[1:]], "`keep` must be given.*line 1"),
        ([{k: v for k, v in row.items() if k != "fold"} for row in PAIR_VERDICTS], "needs column `fold`"),
    ],
)
def test_verdicts_must_be_exactly_those_of_the_pairs(tmp_path: Path, rows: list[Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_pair_verdicts(jsonl(tmp_path / "v.jsonl", rows), PAIRS)


@pytest.mark.parametrize(
    ("metadata", "harmonised"),
    [({"harmonised": "true"}, True), ({"harmonised": "false"}, False), ({"harmonised": "1"}, None), (None, None)],
)
def test_verdicts_say_whether_their_negatives_were_harmonised(
    tmp_path: Path, metadata: dict[str, str] | None, harmonised: bool | None
) -> None:
    write_table(captions_table().replace_schema_metadata(metadata), tmp_path / "v.parquet")
    assert is_harmonised(tmp_path / "v.parquet") is harmonised


@pytest.mark.parametrize("name", ["v.jsonl", "nowhere.parquet", "broken.parquet"])
def test_files_that_cannot_say_so_do_not(tmp_path: Path, name: str) -> None:
    if name != "nowhere.parquet":
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    assert is_harmonised(tmp_path / name) is None
