"""Files of tables: raw reading with named places, and writing that never leaves half a file."""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

StrPath = str | os.PathLike[str]
MOST_ROWS = 100_000_000
"""Of a table: a Parquet file of some bytes can stand for any number of equal rows."""
DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    csv.Error,
    pa.ArrowException,
)
"""What reading a file raises whose content is not as it was written: no JSON or Parquet, or other values in it."""


class InputError(ValueError):
    """Bad input, in one line: subject, rule, value, place, remedy."""


def quoted(value: object, length: int = 60) -> str:
    """A value as an error shows it: on one line, shortened.

    >>> quoted("two\\nlines")
    "'two\\\\nlines'"
    """
    # `lightning_modules.settings` has its own, as of `nearest_name`: it may import nothing of this top folder
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def unknown_name(subject: str, got: object, names: Iterable[str], place: str = "") -> str:
    """The refusal of a name that is none of `names`: it lists them, and offers the nearest.

    >>> unknown_name("fruit", "aple", ("apple", "pear"), "basket.yaml")
    "fruit must be one of apple, pear, got 'aple' (basket.yaml). Did you mean apple?"
    """
    known, where = list(names), f" ({place})" if place else ""
    return f"{subject} must be one of {', '.join(known)}, got {quoted(got)}{where}.{nearest_name(got, known)}"


def nearest_name(got: object, names: Iterable[str]) -> str:
    """An offer of the name that is spelt most like `got`, to add to an error; "" where none is like it.

    >>> nearest_name("APLE", ("apple", "pear")), nearest_name("kiwi", ("apple", "pear"))
    (' Did you mean apple?', '')
    """
    known = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(got).lower(), known, n=1)
    return f" Did you mean {known[near[0]]}?" if near else ""


def write_table(table: pa.Table, path: StrPath) -> None:
    """Writes a table as Parquet or JSONL, by suffix; a reader sees the old file or the whole new one.

    Raises:
        InputError: if the suffix is neither `.parquet` nor `.jsonl`.
    """
    suffix = _suffix(path)
    with replaced(path) as temporary:
        if suffix == ".parquet":
            # without checksums a number that was changed would be read as it is
            pq.write_table(table, temporary, write_page_checksum=True)
            return
        # newline here and below: the same bytes on every system
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def table_writer(path: StrPath, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Writes a Parquet file batch by batch; a reader sees the old file or, once all are written, the whole new one."""
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        yield writer.write_batch


def read_parquet(path: StrPath) -> pa.Table:
    """A Parquet file that anyone may have written, whole; every page is checked against its checksum, where it has one.

    Raises:
        OSError, pa.ArrowException: it cannot be read, or holds what no table is, such as texts that are no UTF-8.
        InputError: more than `MOST_ROWS`.
    """
    # `read_table` would take columns from folders called name=value
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise InputError(f"A table must have at most {MOST_ROWS:,} rows, {path} has {file.metadata.num_rows:,}.")
        table = file.read()
    table.validate(full=True)
    return table


def damage(path: Path) -> str:
    """What is wrong with a file that was whole once, by what its kind says of itself; "" where nothing shows.

    Parquet has checksums, JSON an end, safetensors the size of every tensor; of other kinds nothing is known.
    """
    try:
        if path.suffix == ".parquet":
            read_parquet(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
                # or a damaged length would be read into memory
                tensors = json.loads(file.read(min(header, path.stat().st_size)))
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
            if path.stat().st_size != 8 + header + max(ends, default=0):
                return "its size is not that of its tensors"
    except DAMAGED as error:
        return quoted(" ".join(str(error).split()), 120)
    return ""


def write_text(text: str, path: StrPath) -> None:
    """Writes a UTF-8 text file; a reader sees the old file or the whole new one."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(value: object, path: StrPath) -> None:
    """Writes plain values as indented JSON; a reader sees the old file or the whole new one.

    Raises:
        ValueError: if a number is not finite: JSON has no word for it.
    """
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def finite(value: Any) -> Any:
    """Plain values with None for numbers that are not finite: what `write_json` takes.

    >>> finite({"a": [0.5, float("nan")], "b": float("inf")})
    {'a': [0.5, None], 'b': None}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def read_jsonl(path: StrPath) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their 1-based line numbers; blank lines are skipped.

    Raises:
        InputError: if the file is missing, holds no object, or a line is not UTF-8 or not a JSON object.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    number = 0
    try:
        # -sig: some editors put a byte order mark first
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append((number, json.loads(line)))
                    if not isinstance(rows[-1][1], dict):
                        raise ValueError(f"got {quoted(rows[-1][1])}")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"A JSONL file must be UTF-8, {path} is not. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"A JSONL line must be one JSON object: {error} ({path}, line {number}). Mend it.") from error
    if not rows:
        raise InputError(f"A table must have rows, got none ({path}). Check what wrote it.")
    return rows


def load_table(path: StrPath, id_columns: Collection[str]) -> tuple[pa.Table, Callable[[int], str]]:
    """Reads a table from Parquet or JSONL as it is, unchecked but for having rows.

    A JSONL line that holds a list of `captions` becomes one row for each.

    Args:
        path: file to read.
        id_columns: columns whose integers become strings before their kinds are compared.

    Returns:
        The table, and a function from a row's position to its name in an error ("line 3").

    Raises:
        InputError: if the file is missing, of another format, damaged or empty.
    """
    if _suffix(path) == ".jsonl":
        rows = [(line, row) for line, record in read_jsonl(path) for row in _expanded(record, f"{path}, line {line}")]
        return _columns([row for _, row in rows], path, id_columns), lambda row: f"line {rows[row][0]}"
    try:
        table = read_parquet(path)
    except FileNotFoundError as error:
        raise InputError(f"Cannot read {path}: no such file. Check the path.") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} must be a Parquet file, and cannot be read as one. Write it again.") from error
    if not len(table):
        raise InputError(f"A table must have rows, got none ({path}). Check what wrote it.")
    return table, lambda row: f"row {row + 1}"


def _expanded(record: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    # with `caption` the line is a row already, whatever else it holds
    if "captions" not in record or "caption" in record:
        yield record
        return
    captions, image = record["captions"], record.get("image")
    if not isinstance(captions, list) or not captions or not isinstance(image, str):
        raise InputError(
            f"A line with `captions` needs a list of strings and an `image` path, got {quoted(captions)} and "
            f"{quoted(image)} ({place}). Mend the line, or give one `caption` a line."
        )
    image_id = record.get("image_id", record.get("coco_id", Path(image).stem))
    rest = {
        name: value for name, value in record.items() if name not in ("captions", "caption_id", "image_id", "image")
    }
    for position, caption in enumerate(captions):
        own = {"image_id": image_id, "image": image, "caption_id": f"{image_id}_{position}", "caption": caption}
        yield own | rest


def _columns(rows: Sequence[dict[str, Any]], path: StrPath, id_columns: Collection[str]) -> pa.Table:
    # `Table.from_pylist` takes its columns from the first row only
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        # a key that a line lacks is null there
        values = [row.get(name) for row in rows]
        if name in id_columns:
            values = [str(value) if type(value) is int else value for value in values]
        try:
            name.encode()
            columns[name] = pa.array(values)
        except UnicodeEncodeError as error:  # JSON's \ud800 without its other half, which no table can hold
            raise half_a_character(error, str(path)) from error
        except (ValueError, TypeError, OverflowError) as error:
            # one value of each type, since Arrow's own words name neither; of one type, such as lists, they have to do
            found = {type(value): quoted(value) for value in values if value is not None}.values()
            got = " and ".join(found) if len(found) > 1 else quoted(error, 120)
            raise InputError(f"`{name}` must hold one kind of value, got {got} ({path}). Mend it.") from error
    return pa.table(columns)


def half_a_character(error: UnicodeEncodeError, place: str) -> InputError:
    """The refusal of a text with half of a surrogate pair."""
    got = quoted(error.object)
    return InputError(f"A text must be Unicode, got half of a surrogate pair in {got} ({place}). Mend it.")


def _suffix(path: StrPath) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".parquet", ".jsonl"):
        raise InputError(
            f"A table must end in .parquet or .jsonl, got {quoted(suffix)} ({path}). Rename or convert it."
        )
    return suffix


@contextmanager
def replaced(path: StrPath) -> Iterator[Path]:
    """A temporary path next to `path`, moved onto it on success and removed on any failure."""
    target = Path(path)
    # in the same folder, since a move is atomic within one file system only; a name of its own for each process
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:  # KeyboardInterrupt too
        temporary.unlink(missing_ok=True)
        # a write that fails does not say where, as one on a full disk
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(target)
        raise
