"""Caption files as they are found, COCO, Karpathy, CSV, TSV and JSONL, read as captions tables.

The rules are those of `captions.read_captions`: no blank value, no `caption_id` twice, one image for an
`image_id`. Image paths are taken as they stand; whether they stay in their folder is asked where images are opened.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from negatives.tables.captions import CAPTION_COLUMNS
from negatives.tables.columns import check_images, check_unique, second_image, text_fault
from negatives.tables.files import InputError, StrPath, half_a_character, load_table, nearest_name, quoted

FORMATS = ("auto", "table", "jsonl", "coco", "karpathy", "csv", "tsv")
SUFFIXES = {".parquet": "table", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv"}

COLUMN_NAMES = {
    "image_id": ("image_id", "coco_id", "cocoid", "imgid"),
    "image": ("image", "image_path", "filepath", "file_path", "file_name", "filename", "path"),
    "caption_id": ("caption_id", "sentid"),
    "caption": ("caption", "text", "title", "sentence"),
}
"""Column of the captions table -> what files call it, tried in this order; `filepath` and `title` are OpenCLIP's."""

Columns = dict[str, Any]  # name -> list of values, or an Arrow column that nobody looks into
At = tuple[str, int]  # a list in a file and a position in it; written out only for an error
Places = Callable[[int], str]  # row -> its name in an error


def read_caption_source(
    path: StrPath, format: str = "auto", *, columns: Mapping[str, str] | None = None, splits: Collection[str] = ()
) -> pa.Table:
    """Reads captions from any of `FORMATS`.

    - `coco`: `captions_*.json` with `images` and `annotations`; `image` is the `file_name`.
    - `karpathy`: `dataset_*.json`; `image` is `filepath/filename`, and the column `split` is kept.
    - `csv`, `tsv`: UTF-8 with a header; other columns are kept as strings.
    - `table`, `jsonl`: what `negatives.tables.captions.read_captions` takes, or other names of columns.

    Where a CSV, TSV, Parquet or JSONL file has no `image_id`, it is the image's file stem; where it has no
    `caption_id`, it is `<image_id>_<k>`, k counting the image's captions in the file's order.

    Args:
        path: file to read.
        format: one of `FORMATS`; `auto` goes by the suffix, and for JSON by its keys.
        columns: column of the captions table -> its name in the file; the others are sought under `COLUMN_NAMES`.
        splits: values of the column `split` whose rows are kept; all where empty.

    Returns:
        String columns `image_id, image, caption_id, caption`, then the file's others.

    Raises:
        InputError: if the file is unreadable, empty, broken or of another format, a column or value is missing or
            blank, an annotation's image is unknown, a `caption_id` repeats, one `image_id` has two images, or no row
            is of `splits`.
    """
    if format not in FORMATS:
        raise InputError(f"The format of captions must be one of {' '.join(FORMATS)}, got {quoted(format)} ({path}).")
    suffix = Path(path).suffix.lower()
    if format in ("coco", "karpathy") or (format, suffix) == ("auto", ".json"):
        if columns:
            raise InputError(
                f"`columns` name those of a table, and {path} is JSON of COCO or Karpathy. Leave them out."
            )
        found, places = _from_json(_load_json(path), format, path)
    else:
        kind = SUFFIXES.get(suffix) if format == "auto" else format
        if kind is None:
            raise InputError(
                f"Captions must end in .json {' '.join(SUFFIXES)}, got {quoted(suffix)} ({path}). Rename or convert "
                f"the file, or name its format: {' '.join(FORMATS[1:])}."
            )
        raw, places = _table(path) if kind in ("table", "jsonl") else _delimited(path, "\t" if kind == "tsv" else ",")
        found = _named(raw, columns or {}, f"{path}, {places(0)}")
    return _of_splits(_checked(found, places, path), splits, path)


def _from_json(data: Any, format: str, path: StrPath) -> tuple[Columns, Places]:
    if format == "auto":
        keys = list(data) if isinstance(data, dict) else []
        if "images" not in keys:
            raise InputError(
                f"JSON captions must have `images` (COCO with `annotations`, Karpathy with `sentences`), got "
                f"{quoted(keys or data)} ({path}). Convert it to JSONL, one object a line."
            )
        # both have `images`; `annotations` are COCO's alone
        format = "coco" if "annotations" in keys else "karpathy"
    return _coco(data, path) if format == "coco" else _karpathy(data, path)


def _load_json(path: StrPath) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"A JSON file must be UTF-8, {path} is not. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"A JSON file must be whole: {quoted(str(error), 120)} ({path}). Copy it again.") from error


def _coco(data: Any, path: StrPath) -> tuple[Columns, Places]:
    images: dict[str, str] = {}
    for at, image in _objects(data, "images", str(path)):
        image_id, name = _text_of(image, "id", at), _text_of(image, "file_name", at)
        if images.setdefault(image_id, name) != name:
            raise second_image(image_id, images[image_id], name, _place(at))
    rows = []
    for at, annotation in _objects(data, "annotations", str(path)):
        image_id = _text_of(annotation, "image_id", at)
        if image_id not in images:
            raise InputError(
                f"`image_id` must be the `id` of one of `images`, got {quoted(image_id)} ({_place(at)}). "
                "Add the image, or remove the annotation."
            )
        rows.append((image_id, images[image_id], _text_of(annotation, "id", at), _text_of(annotation, "caption", at)))
    return _columns(CAPTION_COLUMNS, rows, path), lambda row: f"annotations[{row}]"


def _karpathy(data: Any, path: StrPath) -> tuple[Columns, Places]:
    rows, names = [], []
    for at, image in _objects(data, "images", str(path)):
        # COCO has both: `cocoid` is its own id, `imgid` counts the images of the file. Flickr30k has `imgid` alone.
        image_id = _text_of(image, "imgid" if "cocoid" not in image and "imgid" in image else "cocoid", at)
        name = _text_of(image, "filename", at)
        if "filepath" in image:  # Flickr30k has none
            name = f"{_text_of(image, 'filepath', at)}/{name}"
        split = _text_of(image, "split", at)
        for within, sentence in _objects(image, "sentences", _place(at)):
            rows.append(
                # `raw` is the caption as it was written; `tokens` has neither capitals nor marks
                (image_id, name, _text_of(sentence, "sentid", within), _text_of(sentence, "raw", within), split)
            )
            names.append((at[1], within[1]))
    return _columns((*CAPTION_COLUMNS, "split"), rows, path), lambda row: "images[{}].sentences[{}]".format(*names[row])


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]], path: StrPath) -> Columns:
    if not rows:
        raise InputError(f"Captions must have rows, got none ({path}). Check what wrote it.")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _objects(data: Any, key: str, place: str) -> Iterator[tuple[At, dict[str, Any]]]:
    """The objects of the list `key`, each with its place."""
    items = data.get(key) if isinstance(data, dict) else None
    if not isinstance(items, list):
        raise InputError(f"`{key}` must be a list, got {quoted(items)} ({place}). Check the file and its format.")
    within = f"{place}, {key}"
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            where = _place((within, position))
            raise InputError(f"`{key}` must hold objects, got {quoted(item)} ({where}). Check the file and its format.")
        yield (within, position), item


def _place(at: At) -> str:
    return f"{at[0]}[{at[1]}]"


def _text_of(item: dict[str, Any], key: str, at: At) -> str:
    value = item.get(key)
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"`{key}` must be a text that is not blank, got {quoted(value)} ({_place(at)}). Fill it in.")
    return value


def _table(path: StrPath) -> tuple[Columns, Places]:
    table, places = load_table(path, ("image_id", "caption_id"))
    return dict(zip(table.column_names, table.columns, strict=True)), places


def _delimited(path: StrPath, delimiter: str) -> tuple[Columns, Places]:
    records = _records(path, delimiter)
    _, header = next(records, (1, []))
    header = [name.strip() for name in header]
    if len(set(header)) < len(header):
        raise InputError(f"A header must not name a column twice, got {quoted(header, 200)} ({path}). Rename one.")
    lines, rows = [], []
    for line, record in records:
        # csv itself takes rows of any length
        if len(record) != len(header):
            raise InputError(
                f"A row must have the header's {len(header)} fields, got {len(record)}: {quoted(record)} ({path}, line "
                f"{line}). Quote fields that hold {delimiter!r}, or remove the row."
            )
        lines.append(line)
        rows.append(record)
    return _columns(header, rows, path), lambda row: f"line {lines[row]}"


def _records(path: StrPath, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file that are not blank, each with the line where it begins."""
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # Excel puts a byte order mark first
            # strict, or a quote that is never closed makes one field of the rest of the file
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for record in reader:
                # since Python 3.11, csv reads a NUL as text
                if any("\0" in field for field in record):
                    raise csv.Error("a NUL character")
                if record:
                    yield line + 1, record
                line = reader.line_num
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        place = f"{path}, line {_first_undecodable(path)}"
        raise InputError(f"A CSV or TSV file must be UTF-8 ({place}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise InputError(
            f"A row must be CSV with closed quotes, got: {error} ({path}, line {line + 1}). Mend it: inside quotes, a "
            "quote is written twice."
        ) from error


def _first_undecodable(path: StrPath) -> int:
    with open(path, "rb") as file:
        return next(number for number, line in enumerate(file, start=1) if "\ufffd" in line.decode(errors="replace"))


def _named(raw: Columns, columns: Mapping[str, str], place: str) -> Columns:
    """The columns under the names of the captions table, with ids where the file has none."""
    unknown = [name for name in columns if name not in CAPTION_COLUMNS]
    if unknown:
        offer = nearest_name(unknown[0], CAPTION_COLUMNS) or " Rename the key."
        raise InputError(f"`columns` must name {', '.join(CAPTION_COLUMNS)}, got {quoted(unknown[0])}.{offer}")
    sources = {}
    for name in CAPTION_COLUMNS:
        tried = [columns[name]] if name in columns else COLUMN_NAMES[name]
        found = next((source for source in tried if source in raw), None)
        if found is not None:
            sources[name] = found
        elif name in columns or name in ("image", "caption"):
            raise InputError(
                f"The file needs a column for `{name}` ({' or '.join(tried)}), got {quoted(list(raw), 200)} ({place}). "
                "Name it in `columns`, or give the file a header."
            )
    named = {name: list(_values(raw[source])) for name, source in sources.items()}
    if "image_id" not in named:
        named["image_id"] = [Path(image).stem if isinstance(image, str) else image for image in named["image"]]
    if "caption_id" not in named:
        named["caption_id"] = _counted(named["image_id"])
    # the file's other columns stay, but for those that were renamed, or that would be there twice
    taken = {*CAPTION_COLUMNS, *sources.values()}
    return {name: named[name] for name in CAPTION_COLUMNS} | {n: v for n, v in raw.items() if n not in taken}


def _values(column: Any) -> list[Any]:
    values: list[Any] = column if isinstance(column, list) else column.to_pylist()
    return values


def _counted(image_ids: Sequence[Any]) -> list[str]:
    counts: Counter[Any] = Counter()
    caption_ids = []
    for image_id in image_ids:
        caption_ids.append(f"{image_id}_{counts[image_id]}")
        counts[image_id] += 1
    return caption_ids


def _checked(found: Columns, places: Places, path: StrPath) -> pa.Table:
    """The captions table of columns that keep its rules."""
    # not `columns.with_strings`, which takes a table: a column of several kinds of values makes none
    for name in CAPTION_COLUMNS:
        found[name] = [str(value) if type(value) is int else value for value in found[name]]
        for row, value in enumerate(found[name]):
            if rule := text_fault(value, filled=True):
                raise InputError(f"`{name}` {rule} ({path}, {places(row)}). Fill it in, or remove the row.")
    try:
        table = pa.table(found)
    except UnicodeEncodeError as error:
        rows = zip(*map(_values, found.values()), strict=True)
        row = next(number for number, cells in enumerate(rows) if error.object in cells)
        raise half_a_character(error, f"{path}, {places(row)}") from error
    check_unique(table, "caption_id", places, path)
    check_images(table, places, path)
    return table


def _of_splits(table: pa.Table, splits: Collection[str], path: StrPath) -> pa.Table:
    if not splits:
        return table
    if "split" not in table.column_names:
        raise InputError(f"`splits` needs a column `split`, got {', '.join(table.column_names)} ({path}).")
    there = pc.unique(table["split"]).to_pylist()
    # a misspelt split would pass as one without rows
    missing = [split for split in splits if split not in there]
    if missing:
        raise InputError(f"`splits` must be of {quoted(there, 200)}, got {quoted(missing[0])} ({path}). Rename it.")
    return table.filter(pc.is_in(table["split"], value_set=pa.array(list(splits), table["split"].type)))
