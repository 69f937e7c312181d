"""The tables that training reads: captions and negatives, from several files each, and neighbours of images."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa

from negatives.tables import (
    CAPTION_COLUMNS,
    NEGATIVE_COLUMNS,
    InputError,
    StrPath,
    load_table,
    quoted,
    read_captions,
    read_negatives,
)

SOURCE = "source_caption_id"


def read_tables(captions: StrPath | list[StrPath], negatives: StrPath | list[StrPath]) -> tuple[pa.Table, pa.Table]:
    """Captions and their negatives from one table each, or from several.

    A table of paraphrases (hard positives) is one of captions that names the caption behind each, `source_caption_id`.

    Returns:
        The captions, with `source_caption_id` if a table has it, null where there is none; and the negatives.

    Raises:
        InputError: an unusable table, an id that two tables share (paraphrases may be of the others' images), an image
            id with two images, or a paraphrase of a caption that is not there or is of another image.
    """
    parts = [_caption_part(read_captions(path)) for path in _listed(captions)]
    # "default" gives tables without paraphrases a column of nulls
    true = pa.concat_tables(parts, promote_options="default")
    false = pa.concat_tables([read_negatives(path, true).select(NEGATIVE_COLUMNS) for path in _listed(negatives)])
    for table, column, paths in ((true, "caption_id", captions), (false, "negative_id", negatives)):
        values = table[column].to_pylist()
        if len(set(values)) < len(values):
            raise InputError(f"{column} must be unique over all tables of {paths}; give each table ids of its own.")
    # Two tables that number their images from 0 would silently share them. Paraphrases are of the others' images.
    images = [set(part["image_id"].to_pylist()) for part in parts if SOURCE not in part.column_names]
    pairs = set(columns_of(true, "image_id", "image"))
    if sum(map(len, images)) > len(set().union(*images)) or len(pairs) > len({image_id for image_id, _ in pairs}):
        raise InputError(f"image_id must be unique over all tables of {captions}; give each table ids of its own.")
    if SOURCE in true.column_names:
        _check_sources(true, captions)
    return true, false


def read_neighbours(path: StrPath, image_ids: Collection[str]) -> dict[str, list[str]]:
    """The neighbours of images from a table of `itm neighbours`, or one like it (Parquet or JSONL).

    Args:
        path: table with the columns `image_id` and `neighbour_image_id`.
        image_ids: the images that there are.

    Returns:
        image_id -> its neighbours, in the table's order.

    Raises:
        InputError: an unusable table, an image that is not there, or one that is its own neighbour.
    """
    columns = ("image_id", "neighbour_image_id")
    table, places = load_table(path, columns)
    if missing := [name for name in columns if name not in table.column_names]:
        raise InputError(f"The table needs column `{missing[0]}` ({path}); make it by `itm neighbours`.")
    known = set(image_ids)
    neighbours: dict[str, list[str]] = {}
    for row, ends in enumerate(columns_of(table, *columns)):
        # JSONL may have numbers as ids
        image_id, neighbour = (str(end) if type(end) is int else end for end in ends)
        for name, end in zip(columns, (image_id, neighbour), strict=True):
            if not isinstance(end, str) or end not in known:
                raise InputError(
                    f"{name} must be of an image in data.captions, got {quoted(end)} ({path}, {places(row)}); run "
                    "`itm neighbours` on the captions that you train on."
                )
        if image_id == neighbour:
            raise InputError(
                f"An image must not be its own neighbour, {quoted(image_id)} is ({path}, {places(row)}); drop the row."
            )
        neighbours.setdefault(image_id, []).append(neighbour)
    return neighbours


def _caption_part(table: pa.Table) -> pa.Table:
    if SOURCE not in table.column_names:
        return table.select(CAPTION_COLUMNS)
    # JSONL may have numbers as ids, and "" where there is no source
    sources = [None if value in (None, "") else str(value) for value in table[SOURCE].to_pylist()]
    return table.select(CAPTION_COLUMNS).append_column(SOURCE, pa.array(sources, pa.string()))


def _check_sources(captions: pa.Table, paths: StrPath | list[StrPath]) -> None:
    image_of = dict(zip(captions["caption_id"].to_pylist(), captions["image_id"].to_pylist(), strict=True))
    for caption_id, image_id, source in columns_of(captions, "caption_id", "image_id", SOURCE):
        if source is not None and image_of.get(source) != image_id:
            raise InputError(
                f"{SOURCE} must name a caption of the same image, got {quoted(source)} for caption "
                f"{quoted(caption_id)} of image {quoted(image_id)} ({paths}); list the table that has "
                "it, or drop the paraphrase."
            )


def _listed(paths: StrPath | list[StrPath]) -> list[StrPath]:
    return list(paths) if isinstance(paths, list | tuple) else [paths]


def columns_of(table: pa.Table, *names: str) -> Iterator[tuple[str, ...]]:
    """The rows of a table as tuples of the named columns."""
    return zip(*(table[name].to_pylist() for name in names), strict=True)
