"""The tables on disk: captions, negatives, verdicts. In memory a table is a `pyarrow.Table`.

Reading checks every rule that later steps rely on, and names file, line and remedy where one is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from negatives.tables.files import (
    InputError,
    StrPath,
    load_table,
    read_jsonl,
    show,
    write_json,
    write_table,
    write_text,
)

__all__ = [
    "CAPTION_COLUMNS",
    "NEGATIVE_COLUMNS",
    "NEGATIVE_TYPES",
    "PAIR_VERDICTS_FILE",
    "PAIR_VERDICT_SCHEMA",
    "VERDICT_SCHEMA",
    "InputError",
    "StrPath",
    "check_negative_type",
    "is_harmonised",
    "judged_unit",
    "pair_table",
    "pair_verdicts_beside",
    "read_captions",
    "read_jsonl",
    "read_negatives",
    "read_pair_verdicts",
    "read_verdicts",
    "show",
    "strings",
    "text_table",
    "valid_rows",
    "with_paraphrases",
    "write_json",
    "write_table",
    "write_text",
]

NEGATIVE_TYPES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
CAPTION_COLUMNS = ("image_id", "image", "caption_id", "caption")
PROVENANCE_COLUMNS = ("generator", "model", "prompt_version")
NEGATIVE_COLUMNS = ("caption_id", "negative_id", "caption", "negative_type", *PROVENANCE_COLUMNS)
ID_COLUMNS = ("image_id", "caption_id", "negative_id", "text_id")
PAIR_VERDICTS_FILE = "pair_verdicts.parquet"  # beside the verdicts, where pairs were judged
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


def read_captions(path: StrPath) -> pa.Table:
    """Reads a captions table from Parquet or JSONL.

    A JSONL line may also hold an image with a list of `captions`; it becomes one row for each, with the image id taken
    from `image_id`, `coco_id` or the image's file stem, and `caption_id` = `<image_id>_<position>`.

    Returns:
        String columns `image_id, image, caption_id, caption`; other columns are kept as they are. Rows with a reason
        in `rejected` are left out.

    Raises:
        InputError: if the file is unreadable or empty, a column or value is missing or blank, a `caption_id` repeats,
            or one `image_id` has two images.
    """
    table, places = load_table(path, ID_COLUMNS)
    table = _with_strings(table, places, path, filled=CAPTION_COLUMNS)
    _check_unique(table, "caption_id", places, path)
    images: dict[str, str] = {}
    for row, (image_id, image) in enumerate(zip(strings(table, "image_id"), strings(table, "image"), strict=True)):
        if images.setdefault(image_id, image) != image:
            raise InputError(
                f"image_id {show(image_id)} must name one image, got {show(images[image_id])} and {show(image)} "
                f"({path}, {places(row)}). Give each image an id of its own."
            )
    return _without_rejected(table, path)


def read_negatives(path: StrPath, captions: pa.Table) -> pa.Table:
    """Reads a negatives table from Parquet or JSONL and checks that it belongs to `captions`.

    Returns:
        String columns `caption_id, negative_id, caption, negative_type, generator, model, prompt_version`; other
        columns are kept as they are. Rows with a reason in `rejected` are left out.

    Raises:
        InputError: if the file is unreadable or empty, a column or value is missing or blank, a `negative_id` repeats,
            a `negative_type` is unknown, or a `caption_id` is not in `captions`.
    """
    table, places = load_table(path, ID_COLUMNS)
    table = _with_strings(table, places, path, filled=NEGATIVE_COLUMNS[:4], optional=PROVENANCE_COLUMNS)
    _check_unique(table, "negative_id", places, path)
    for row, negative_type in enumerate(strings(table, "negative_type")):
        check_negative_type(negative_type, f"{path}, {places(row)}")
    known = set(strings(captions, "caption_id"))
    rows = zip(strings(table, "caption_id"), _valid(table), strict=True)
    foreign = [row for row, (caption_id, valid) in enumerate(rows) if valid and caption_id not in known]
    if foreign:
        example = table["caption_id"][foreign[0]].as_py()
        raise InputError(
            f"A negatives file for other captions: {len(foreign)} of its {len(table)} rows name a caption_id that the "
            f"captions table does not have, such as {show(example)} ({path}, {places(foreign[0])}). "
            "Give the captions table that these negatives were written for, or generate them again."
        )
    return _without_rejected(table, path)


def check_negative_type(negative_type: str, place: str) -> None:
    """Raises `InputError` if `negative_type` is none of `NEGATIVE_TYPES`."""
    if negative_type not in NEGATIVE_TYPES:
        raise InputError(
            f"negative_type must be one of {' '.join(NEGATIVE_TYPES)}, got {show(negative_type)} ({place}). "
            "Rename it, or leave the row out."
        )


def text_table(captions: pa.Table, negatives: pa.Table) -> pa.Table:
    """One row for every positive and negative text: positives first, each in its table's order.

    Returns:
        Columns `text_id, image_id, caption, label, negative_type`; `text_id` is `caption:<caption_id>` or
        `negative:<negative_id>`, `label` is 1 or 0, `negative_type` is "" for positives.
    """
    image_of = dict(zip(strings(captions, "caption_id"), strings(captions, "image_id"), strict=True))
    text_ids = [f"caption:{name}" for name in strings(captions, "caption_id")]
    text_ids += [f"negative:{name}" for name in strings(negatives, "negative_id")]
    return pa.table(
        {
            "text_id": pa.array(text_ids, pa.string()),
            "image_id": pa.array(
                strings(captions, "image_id") + [image_of[name] for name in strings(negatives, "caption_id")],
                pa.string(),
            ),
            "caption": pa.array(strings(captions, "caption") + strings(negatives, "caption"), pa.string()),
            "label": pa.array([1] * len(captions) + [0] * len(negatives), pa.int64()),
            "negative_type": pa.array([""] * len(captions) + strings(negatives, "negative_type"), pa.string()),
        }
    )


def pair_table(captions: pa.Table, negatives: pa.Table) -> pa.Table:
    """One row for every positive with every negative made from it, or from the caption that it paraphrases.

    Returns:
        Columns `caption_id, negative_id, negative_type`, in the order of the negatives; a negative's own caption first.
    """
    positives: dict[str, list[str]] = {caption_id: [caption_id] for caption_id in strings(captions, "caption_id")}
    if "source_caption_id" in captions.column_names:
        for caption_id, source in zip(
            strings(captions, "caption_id"), strings(captions, "source_caption_id"), strict=True
        ):
            if source is not None and source in positives and source != caption_id:
                positives[source].append(caption_id)
    names = (strings(negatives, name) for name in ("caption_id", "negative_id", "negative_type"))
    rows = [
        (own, negative, kind)
        for caption_id, negative, kind in zip(*names, strict=True)
        for own in positives[caption_id]
    ]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    names_out = ("caption_id", "negative_id", "negative_type")
    return pa.table(
        {name: pa.array(list(column), pa.string()) for name, column in zip(names_out, columns, strict=True)}
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
    table = _with_strings(table, places, path, filled=("text_id",), present=VERDICT_SCHEMA.names)
    _check_unique(table, "text_id", places, path)
    table = _as_schema(table, VERDICT_SCHEMA, places, path)
    remedy = "Run `itm filter` again on these captions and negatives."
    rows = {text_id: row for row, text_id in enumerate(strings(table, "text_id"))}
    wanted = strings(texts, "text_id")
    _check_none([name for name in wanted if name not in rows], len(wanted), "texts have no verdict", path, remedy)
    extra = set(rows) - set(wanted)
    _check_none(sorted(extra), len(rows), "verdicts judge a text that is not there", path, remedy)
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
    table = _with_strings(table, places, path, filled=("caption_id", "negative_id"), present=PAIR_VERDICT_SCHEMA.names)
    table = _as_schema(table, PAIR_VERDICT_SCHEMA, places, path)
    remedy = "Run `itm filter` again on these captions and negatives."
    rows: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(zip(strings(table, "caption_id"), strings(table, "negative_id"), strict=True)):
        if rows.setdefault(pair, row) != row:
            raise InputError(f"A pair must not repeat, got {show(pair)} twice ({path}, {places(row)}). {remedy}")
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
    beside = Path(path).with_name(PAIR_VERDICTS_FILE)
    if beside.is_file():
        return beside
    if judged_unit(path) != "text":
        raise InputError(f"{path} judges pairs, and needs {PAIR_VERDICTS_FILE} beside it. Copy that file too.")
    return None


def with_paraphrases(captions: pa.Table, path: StrPath) -> pa.Table:
    """The captions with the hard positives of a paraphrases table after them.

    Args:
        captions: captions table.
        path: a captions table with `source_caption_id`, the caption that each paraphrases.

    Returns:
        Columns `image_id, image, caption_id, caption, source_caption_id`; the last is null for captions.

    Raises:
        InputError: if the file cannot be read, a source is unknown, or a `caption_id` is one of the captions'.
    """
    table, places = load_table(path, ID_COLUMNS)
    filled = (*CAPTION_COLUMNS, "source_caption_id")
    table = _with_strings(table, places, path, filled=filled)
    known = dict(zip(strings(captions, "caption_id"), strings(captions, "image_id"), strict=True))
    images = dict(zip(strings(captions, "image_id"), strings(captions, "image"), strict=True))
    columns = (strings(table, name) for name in ("caption_id", "source_caption_id", "image_id", "image"))
    for row, (caption_id, source, image_id, image) in enumerate(zip(*columns, strict=True)):
        if known.get(source) != image_id:
            raise InputError(
                f"`source_caption_id` must name a caption of the same image, got {show(source)} "
                f"({path}, {places(row)}). Give the captions that these were written for."
            )
        if images[image_id] != image:
            raise InputError(
                f"image_id {show(image_id)} must name one image, got {show(images[image_id])} and {show(image)} "
                f"({path}, {places(row)}). Give each image an id of its own."
            )
        if caption_id in known:
            raise InputError(
                f"`caption_id` {show(caption_id)} is a caption's already ({path}, {places(row)}). Rename it."
            )
    _check_unique(table, "caption_id", places, path)
    plain = captions.select(CAPTION_COLUMNS)
    none = pa.nulls(len(plain), pa.string())
    kept = _without_rejected(table, path).select(filled)
    return pa.concat_tables([plain.append_column("source_caption_id", none), kept])


def valid_rows(table: pa.Table) -> pa.Table:
    """The rows that validation passed: all of a table that does not say."""
    return table.filter(pa.array(_valid(table), pa.bool_()))


def _valid(table: pa.Table) -> list[bool]:
    if "rejected" not in table.column_names:
        return [True] * len(table)
    return [not reason for reason in table["rejected"].to_pylist()]


def _without_rejected(table: pa.Table, path: StrPath) -> pa.Table:
    kept = valid_rows(table)
    if not len(kept):
        reasons = ", ".join(sorted({str(reason) for reason in table["rejected"].to_pylist()}))
        raise InputError(
            f"Validation must pass some row, and rejected all {len(table)}: {reasons} ({path}). Make others."
        )
    return kept


def strings(table: pa.Table, column: str) -> list[str]:
    """A string column as a list."""
    values: list[str] = table[column].to_pylist()
    return values


def _with_strings(
    table: pa.Table,
    places: Callable[[int], str],
    path: StrPath,
    filled: Sequence[str],
    optional: Sequence[str] = (),
    present: Sequence[str] = (),
) -> pa.Table:
    """The table with `filled` and `optional` as string columns, none of `filled` blank, and `present` there."""
    missing = [name for name in (*filled, *optional, *present) if name not in table.column_names]
    if missing:
        raise InputError(
            f"The table needs column `{missing[0]}`, got {', '.join(table.column_names)} ({path}, {places(0)}). "
            "Add or rename the column."
        )
    for name in (*filled, *optional):
        values = [str(value) if type(value) is int else value for value in table[name].to_pylist()]
        if name in optional:
            values = ["" if value is None else value for value in values]
        for row, value in enumerate(values):
            if not isinstance(value, str) or (name in filled and not value.strip()):
                raise InputError(
                    f"`{name}` must be a text{' that is not blank' if name in filled else ''}, got {show(value)} "
                    f"({path}, {places(row)}). Fill it in, or remove the row."
                )
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def _check_unique(table: pa.Table, column: str, places: Callable[[int], str], path: StrPath) -> None:
    first: dict[str, int] = {}
    for row, value in enumerate(strings(table, column)):
        if first.setdefault(value, row) != row:
            raise InputError(
                f"`{column}` must not repeat, got {show(value)} twice ({path}, {places(first[value])} and "
                f"{places(row)}). Remove one row, or rename its id."
            )


def _check_none(offenders: Sequence[str], total: int, what: str, path: StrPath, remedy: str) -> None:
    if offenders:
        raise InputError(f"{len(offenders)} of {total} {what}, such as {show(offenders[0])} ({path}). {remedy}")


def _as_schema(table: pa.Table, schema: pa.Schema, places: Callable[[int], str], path: StrPath) -> pa.Table:
    for field in schema:
        try:
            column = table[field.name].cast(field.type)
        except pa.ArrowException as error:
            raise InputError(f"`{field.name}` must be {field.type} ({path}). Run `itm filter` again.") from error
        if column.null_count:
            row = column.to_pylist().index(None)
            raise InputError(f"`{field.name}` must be given, got null ({path}, {places(row)}). Run `itm filter` again.")
        table = table.set_column(table.column_names.index(field.name), field, column)
    return table.select(schema.names)
