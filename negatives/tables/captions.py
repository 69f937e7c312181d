"""The tables of texts on disk: captions, negatives, paraphrases. In memory a table is a `pyarrow.Table`.

Reading checks every rule that later steps rely on, and names file, line and remedy where one is broken.
"""

from __future__ import annotations

import pyarrow as pa

from negatives.tables.columns import ID_COLUMNS, check_images, check_unique, second_image, strings, with_strings
from negatives.tables.files import (
    InputError,
    StrPath,
    load_table,
    quoted,
    read_jsonl,
    write_json,
    write_table,
    write_text,
)

__all__ = [
    "CAPTION_COLUMNS",
    "NEGATIVE_COLUMNS",
    "TYPE_NAME_RULE",
    "InputError",
    "is_type_name",
    "pair_table",
    "read_captions",
    "read_jsonl",
    "read_negatives",
    "strings",
    "text_table",
    "valid_rows",
    "with_paraphrases",
    "write_json",
    "write_table",
    "write_text",
]

CAPTION_COLUMNS = ("image_id", "image", "caption_id", "caption")
PROVENANCE_COLUMNS = ("generator", "model", "prompt_version")
NEGATIVE_COLUMNS = ("caption_id", "negative_id", "caption", "negative_type", *PROVENANCE_COLUMNS)
TOTALS = ("all", "mean")  # what reports call the numbers over all types
TYPE_NAME_RULE = "a name without white space and /, such as replace_obj, and not all or mean"


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
    table = with_strings(table, places, path, filled=CAPTION_COLUMNS)
    check_unique(table, "caption_id", places, path)
    check_images(table, places, path)
    return _without_rejected(table, path)


def read_negatives(path: StrPath, captions: pa.Table) -> pa.Table:
    """Reads a negatives table from Parquet or JSONL and checks that it belongs to `captions`.

    Returns:
        String columns `caption_id, negative_id, caption, negative_type, generator, model, prompt_version`; other
        columns are kept as they are. Rows with a reason in `rejected` are left out.

    Raises:
        InputError: if the file is unreadable or empty, a column or value is missing or blank, a `negative_id` repeats,
            a `negative_type` is no name (`is_type_name`; it needs no row in `negatives.types`), or a `caption_id` is
            not in `captions`.
    """
    table, places = load_table(path, ID_COLUMNS)
    # who wrote a negative may be unknown: provenance may be blank, the first four columns may not
    table = with_strings(table, places, path, filled=NEGATIVE_COLUMNS[:4], optional=PROVENANCE_COLUMNS)
    check_unique(table, "negative_id", places, path)
    for row, negative_type in enumerate(strings(table, "negative_type")):
        if not is_type_name(negative_type):
            raise InputError(
                f"`negative_type` must be {TYPE_NAME_RULE}, got {quoted(negative_type)} ({path}, {places(row)}). "
                "Rename it."
            )
    known = set(strings(captions, "caption_id"))
    rows = zip(strings(table, "caption_id"), _valid(table), strict=True)
    # a rejected row may name any caption: it is left out below
    foreign = [row for row, (caption_id, valid) in enumerate(rows) if valid and caption_id not in known]
    if foreign:
        example = table["caption_id"][foreign[0]].as_py()
        raise InputError(
            f"A negatives file for other captions: {len(foreign)} of its {len(table)} rows name a caption_id that the "
            f"captions table does not have, such as {quoted(example)} ({path}, {places(foreign[0])}). "
            "Give the captions table that these negatives were written for, or generate them again."
        )
    return _without_rejected(table, path)


def is_type_name(name: str) -> bool:
    """Whether a negative type may be called so (`TYPE_NAME_RULE`): reports call what is over all types all and mean.

    >>> is_type_name("counting-hard"), is_type_name("swap obj"), is_type_name("swap/obj"), is_type_name("all")
    (True, False, False, False)
    """
    # a type is a part of metric keys, `val/TYPE/accuracy`
    return name.split() == [name] and "/" not in name and name not in TOTALS


def text_table(captions: pa.Table, negatives: pa.Table) -> pa.Table:
    """One row for every positive and negative text: positives first, each in its table's order.

    Returns:
        Columns `text_id, image_id, caption, label, negative_type`; `text_id` is `caption:<caption_id>` or
        `negative:<negative_id>`, `label` is 1 or 0, `negative_type` is "" for positives.
    """
    image_of = dict(zip(strings(captions, "caption_id"), strings(captions, "image_id"), strict=True))
    # a caption and a negative may bear the same id: the prefix keeps them apart
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
    # a paraphrase says what its source says, so that what is false of the source is false of it
    if "source_caption_id" in captions.column_names:
        for caption_id, source in zip(
            strings(captions, "caption_id"), strings(captions, "source_caption_id"), strict=True
        ):
            if source is not None and source in positives and source != caption_id:
                positives[source].append(caption_id)
    names = (strings(negatives, name) for name in ("caption_id", "negative_id", "negative_type"))
    rows = [
        (own, negative, negative_type)
        for caption_id, negative, negative_type in zip(*names, strict=True)
        for own in positives[caption_id]
    ]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    names_out = ("caption_id", "negative_id", "negative_type")
    return pa.table(
        {name: pa.array(list(column), pa.string()) for name, column in zip(names_out, columns, strict=True)}
    )


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
    table = with_strings(table, places, path, filled=filled)
    known = dict(zip(strings(captions, "caption_id"), strings(captions, "image_id"), strict=True))
    images = dict(zip(strings(captions, "image_id"), strings(captions, "image"), strict=True))
    columns = (strings(table, name) for name in ("caption_id", "source_caption_id", "image_id", "image"))
    for row, (caption_id, source, image_id, image) in enumerate(zip(*columns, strict=True)):
        # a paraphrase is true of its source's image, and of no other
        if known.get(source) != image_id:
            raise InputError(
                f"`source_caption_id` must name a caption of the same image, got {quoted(source)} "
                f"({path}, {places(row)}). Give the captions that these were written for."
            )
        if images[image_id] != image:
            raise second_image(image_id, images[image_id], image, f"{path}, {places(row)}")
        if caption_id in known:
            raise InputError(
                f"`caption_id` {quoted(caption_id)} is a caption's already ({path}, {places(row)}). Rename it."
            )
    check_unique(table, "caption_id", places, path)
    plain = captions.select(CAPTION_COLUMNS)
    none = pa.nulls(len(plain), pa.string())
    kept = _without_rejected(table, path).select(filled)
    return pa.concat_tables([plain.append_column("source_caption_id", none), kept])


def valid_rows(table: pa.Table) -> pa.Table:
    """The rows that validation passed: all of a table that does not say."""
    return table.filter(pa.array(_valid(table), pa.bool_()))


def _valid(table: pa.Table) -> list[bool]:
    if "rejected" not in table.column_names:
        # a table that someone else wrote was not validated
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
