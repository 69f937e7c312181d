"""Verdicts of a filter on disk: whether each text, or each pair, was kept.

`itm filter` writes them as Parquet with `harmonised` and `unit` in the file's metadata. Verdicts without them, as in
JSONL, are read too: they count as verdicts on single texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from negatives.tables.columns import ID_COLUMNS, check_unique, strings, with_strings
from negatives.tables.files import InputError, StrPath, load_table, quoted

PAIR_VERDICTS_FILE = "pair_verdicts.parquet"  # beside the verdicts, where pairs were judged
# files of earlier releases hold these columns under these names
VERDICT_SCHEMA = pa.schema(
    {
        "text_id": pa.string(),
        "label": pa.int64(),
        "fold": pa.int64(),
        "oof_score": pa.float64(),
        "keep_probability": pa.float64(),
        "keep": pa.bool_(),
    }
)
PAIR_VERDICT_SCHEMA = pa.schema(
    {
        "caption_id": pa.string(),
        "negative_id": pa.string(),
        "fold": pa.int64(),
        "oof_score": pa.float64(),
        "keep_probability": pa.float64(),
        "keep": pa.bool_(),
    }
)


def read_verdicts(path: StrPath, texts: pa.Table) -> pa.Table:
    """Reads verdicts from Parquet or JSONL and puts them in the order of `texts`.

    Returns:
        Columns `text_id, label, fold, oof_score, keep_probability, keep`; row i judges row i of `texts`.

    Raises:
        InputError: if the file is unreadable or empty, a column is missing or of the wrong kind, or the verdicts are
            not exactly those of `texts`.
    """
    table, places = load_table(path, ID_COLUMNS)
    table = with_strings(table, places, path, filled=("text_id",), present=VERDICT_SCHEMA.names)
    check_unique(table, "text_id", places, path)
    table = _as_schema(table, VERDICT_SCHEMA, places, path)
    remedy = "Run `itm filter` again on these captions and negatives."
    rows = {text_id: row for row, text_id in enumerate(strings(table, "text_id"))}
    wanted = strings(texts, "text_id")
    _check_none([name for name in wanted if name not in rows], len(wanted), "texts have no verdict", path, remedy)
    extra = set(rows) - set(wanted)
    _check_none(sorted(extra), len(rows), "verdicts judge a text that is not there", path, remedy)
    # callers go by rows: verdict i is that of text i
    table = table.take([rows[text_id] for text_id in wanted])
    differ = [
        a for a, b, c in zip(wanted, table["label"].to_pylist(), texts["label"].to_pylist(), strict=True) if b != c
    ]
    _check_none(differ, len(wanted), "verdicts have another label than their text", path, remedy)
    return table


def read_pair_verdicts(path: StrPath, pairs: pa.Table) -> pa.Table:
    """Reads the verdicts of pairs from Parquet or JSONL and puts them in the order of `pairs`.

    Returns:
        Columns `caption_id, negative_id, fold, oof_score, keep_probability, keep`; row i judges row i of `pairs` (see
        `pair_table`).

    Raises:
        InputError: if the file is unreadable or empty, a column is missing or of the wrong kind, or the verdicts are
            not exactly those of `pairs`.
    """
    table, places = load_table(path, ID_COLUMNS)
    table = with_strings(table, places, path, filled=("caption_id", "negative_id"), present=PAIR_VERDICT_SCHEMA.names)
    table = _as_schema(table, PAIR_VERDICT_SCHEMA, places, path)
    remedy = "Run `itm filter` again on these captions and negatives."
    rows: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(zip(strings(table, "caption_id"), strings(table, "negative_id"), strict=True)):
        if rows.setdefault(pair, row) != row:
            raise InputError(f"A pair must not repeat, got {quoted(pair)} twice ({path}, {places(row)}). {remedy}")
    wanted = list(zip(strings(pairs, "caption_id"), strings(pairs, "negative_id"), strict=True))
    _check_none([str(pair) for pair in wanted if pair not in rows], len(wanted), "pairs have no verdict", path, remedy)
    extra = sorted(set(rows) - set(wanted))
    _check_none([str(pair) for pair in extra], len(rows), "verdicts judge a pair that is not there", path, remedy)
    return table.take([rows[pair] for pair in wanted])


def is_harmonised(path: StrPath) -> bool | None:
    """Whether verdicts were made of harmonised negatives; None where the file does not say so."""
    return {b"true": True, b"false": False}.get(_metadata(path).get(b"harmonised", b""))


def judged_unit(path: StrPath) -> str:
    """The unit of the filter that made verdicts: "text", "pair" or "both"; "text" where the file does not say so."""
    return _metadata(path).get(b"unit", b"text").decode()


def _metadata(path: StrPath) -> dict[bytes, bytes]:
    if not str(path).lower().endswith(".parquet"):
        return {}
    try:
        return pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return {}  # reading the table tells what is wrong


def pair_verdicts_beside(path: StrPath) -> Path | None:
    """The file with the verdicts on pairs that belongs to verdicts on texts; None where single texts were judged.

    Raises:
        InputError: if the verdicts say that pairs were judged, and the file is not there.
    """
    # the file alone is proof enough: verdicts as JSONL have no metadata
    beside = Path(path).with_name(PAIR_VERDICTS_FILE)
    if beside.is_file():
        return beside
    if judged_unit(path) != "text":
        raise InputError(f"{path} judges pairs, and needs {PAIR_VERDICTS_FILE} beside it. Copy that file too.")
    return None


def _check_none(offenders: Sequence[str], total: int, what: str, path: StrPath, remedy: str) -> None:
    if offenders:
        raise InputError(f"{len(offenders)} of {total} {what}, such as {quoted(offenders[0])} ({path}). {remedy}")


def _as_schema(table: pa.Table, schema: pa.Schema, places: Callable[[int], str], path: StrPath) -> pa.Table:
    for field in schema:
        try:
            column = table[field.name].cast(field.type)
        except pa.ArrowException as error:
            raise InputError(f"`{field.name}` must be {field.type} ({path}). Run `itm filter` again.") from error
        # a cast lets nulls pass
        if column.null_count:
            row = column.to_pylist().index(None)
            raise InputError(f"`{field.name}` must be given, got null ({path}, {places(row)}). Run `itm filter` again.")
        table = table.set_column(table.column_names.index(field.name), field, column)
    return table.select(schema.names)
