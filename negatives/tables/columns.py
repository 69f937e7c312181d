"""What the readers of all tables ask of a column: that it is there, of texts, not blank, and that ids do not repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from negatives.tables.files import InputError, StrPath, quoted

ID_COLUMNS = ("image_id", "caption_id", "negative_id", "text_id")
"""Columns whose whole numbers become strings before one kind of value is asked of them."""


def strings(table: pa.Table, column: str) -> list[str]:
    """A string column as a list."""
    values: list[str] = table[column].to_pylist()
    return values


def with_strings(
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
    # Parquet and JSONL may hold ids as whole numbers; the tables have strings alone
    for name in (*filled, *optional):
        # not `isinstance`: a bool is an int too
        values = [str(value) if type(value) is int else value for value in table[name].to_pylist()]
        if name in optional:
            values = ["" if value is None else value for value in values]
        for row, value in enumerate(values):
            if rule := text_fault(value, filled=name in filled):
                raise InputError(f"`{name}` {rule} ({path}, {places(row)}). Fill it in, or remove the row.")
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def text_fault(value: object, *, filled: bool) -> str:
    """What is wrong with a value that should be a text, in words that follow its column; "" where nothing is.

    >>> text_fault("a dog", filled=True), text_fault("", filled=False)
    ('', '')
    >>> text_fault("a\\0b", filled=True)
    "must be a text without NUL characters, got 'a\\\\x00b'"
    """
    if not isinstance(value, str) or (filled and not value.strip()):
        return f"must be a text{' that is not blank' if filled else ''}, got {quoted(value)}"
    # C libraries end a text there: a path would be another one, and a caption shorter than it seems
    return f"must be a text without NUL characters, got {quoted(value)}" if "\0" in value else ""


def check_unique(table: pa.Table, column: str, places: Callable[[int], str], path: StrPath) -> None:
    """Refuses a value that is there twice, with both places."""
    first: dict[str, int] = {}
    for row, value in enumerate(strings(table, column)):
        if first.setdefault(value, row) != row:
            raise InputError(
                f"`{column}` must not repeat, got {quoted(value)} twice ({path}, {places(first[value])} and "
                f"{places(row)}). Remove one row, or rename its id."
            )


def check_images(table: pa.Table, places: Callable[[int], str], path: StrPath) -> None:
    """Refuses an `image_id` with two images: which of them a caption is of could not be known."""
    images: dict[str, str] = {}
    for row, (image_id, image) in enumerate(zip(strings(table, "image_id"), strings(table, "image"), strict=True)):
        if images.setdefault(image_id, image) != image:
            raise second_image(image_id, images[image_id], image, f"{path}, {places(row)}")


def second_image(image_id: str, image: str, other: str, place: str) -> InputError:
    """The refusal of an `image_id` that names `image` and `other`."""
    return InputError(
        f"image_id {quoted(image_id)} must name one image, got {quoted(image)} and {quoted(other)} ({place}). "
        "Give each image an id of its own."
    )
