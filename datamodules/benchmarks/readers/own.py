"""A benchmark of one's own: a YAML file that names a table, its columns and a protocol. No code is needed.

    table: foils.csv            # Parquet, JSONL, CSV or TSV; beside the YAML file where the path is relative
    protocol: pairs
    columns: {image: file, true: caption, false: [foil_1, foil_2], group: kind}

What can stand in `columns` for each protocol is in docs/evaluation.md, Benchmarks. A value is a column's
name, or a list of names where several are meant. A column may hold lists, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import group_name, load_csv, load_yaml, mapping_of, number_in, reading, text_in
from datamodules.benchmarks.readers.classes.templates import templates_of, wordings_of
from negatives.tables import DAMAGED, InputError, StrPath, load_table, nearest_name, quoted

KEYS = ("table", "protocol", "columns", "name", "templates")
OPTIONAL = ("group", "item", "prompt")
COLUMNS = {
    "pairs": ("image", "true", "false", "group", "item"),
    "groups": ("images", "texts", "group", "item"),
    "labels": ("image", "text", "label", "group", "item"),
    "ratings": ("image", "text", "rating", "prompt", "group", "item"),
    "retrieval": ("image", "text"),
    "classes": ("image", "class"),
}
"""Protocol -> the columns that can be named."""
# pandas writes a column of whole numbers as 1.0 where a cell of it is empty
LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
TABLES = (".parquet", ".jsonl", ".csv", ".tsv")


class Row:
    """A row of the table, by the columns' names in the YAML file."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, list[str]], at: str):
        self._row, self._columns, self.at = row, columns, at

    def values(self, key: str) -> list[Any]:
        """The values of the columns under a key; a column of lists gives its elements."""
        found: list[Any] = []
        for column in self._columns[key]:
            value = self._row[column]
            found += value if isinstance(value, list) else [value]
        return found

    def texts(self, key: str) -> list[str]:
        """The texts under a key, at least one."""
        values = self.values(key)
        if not values:
            raise TypeError(f"{self.at} has no {key}")
        return [text_in(values, place, self.at) for place in range(len(values))]

    def text(self, key: str) -> str:
        """The one text under a key; a whole number is one, too."""
        values = [str(value) if type(value) is int else value for value in self.values(key)]
        if len(values) != 1:
            raise TypeError(f"{self.at} has {len(values)} values for {key} instead of one")
        return text_in(values, 0, self.at)

    def optional(self, key: str, default: str) -> str:
        """The text under a key; `default` where no column is named for it, or the cell is empty."""
        if key not in self._columns or self.values(key) in ([None], [""]):
            return default
        return self.text(key)


def read(annotations: StrPath | Mapping[str, Any], *, image_root: StrPath | None = None) -> Benchmark:
    """The benchmark that a YAML file describes, see above.

    Args:
        annotations: the YAML file, or what it holds.
        image_root: folder that the paths of the images start from; the table's folder where None.

    Raises:
        InputError: a key, column or protocol that is none, a table that cannot be read, or a value that does not fit.
    """
    settings, place = _settings(annotations)
    protocol, columns = _checked(settings, place)
    table = Path(str(settings["table"]))
    if not isinstance(annotations, Mapping) and not table.is_absolute():
        table = Path(annotations).parent / table
    found = Collected(str(settings.get("name", table.stem)), protocol, table, image_root)
    rows = _rows(table)
    if missing := [name for names in columns.values() for name in names if name not in rows[0]]:
        raise InputError(
            f"`columns` must name columns of {table} ({', '.join(map(str, rows[0]))}), got {quoted(missing[0])} "
            f"({place}).{nearest_name(missing[0], rows[0])}"
        )
    try:
        for number, row in enumerate(rows, start=1):
            ADD[protocol](found, Row(row, columns, f"row {number}"), str(number))
        if protocol == "classes":
            sentences = templates_of(settings.get("templates", "plain"))
            for name in found.classes():
                found.wordings(name, wordings_of(name, sentences))
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{table} must hold what {place} says: {error}; mend the table or the columns.") from None
    return found.benchmark()


def _add_pairs(found: Collected, row: Row, number: str) -> None:
    found.add(
        item_id=row.optional("item", number),
        image_id=found.image(row.text("image")),
        group=group_name(row.optional("group", "")),
        true=[found.text(text) for text in row.texts("true")],
        false=[found.text(text) for text in row.texts("false")],
    )


def _add_groups(found: Collected, row: Row, number: str) -> None:
    images, texts = row.texts("images"), row.texts("texts")
    if len(images) != len(texts) or len(images) < 2:
        raise TypeError(f"{row.at} has {len(images)} images and {len(texts)} texts; there must be two of each, or more")
    found.add(
        item_id=row.optional("item", number),
        group=group_name(row.optional("group", "")),
        image_ids=[found.image(image) for image in images],
        text_ids=[found.text(text) for text in texts],
    )


def _add_labels(found: Collected, row: Row, number: str) -> None:
    labels = row.values("label")
    if len(labels) != 1:
        raise TypeError(f"{row.at} has {len(labels)} values for label instead of one")
    label = LABELS.get(str(labels[0]).strip().lower())
    if label is None:
        raise TypeError(f"{row.at} has {quoted(labels[0])} for a label, not 0 or 1")
    found.add(
        item_id=row.optional("item", number),
        image_id=found.image(row.text("image")),
        text_id=found.text(row.text("text")),
        group=group_name(row.optional("group", "")),
        label=label,
    )


def _add_ratings(found: Collected, row: Row, number: str) -> None:
    item_id, ratings = row.optional("item", number), row.values("rating")
    for place in range(len(ratings)):
        rating = number_in(ratings, place, row.at)
        if rating != rating:
            found.left_out["missing ratings"] += 1
            continue
        found.add(
            item_id=item_id,
            image_id=found.image(row.text("image")),
            text_id=found.text(row.text("text")),
            group=group_name(row.optional("group", "")),
            rating=rating,
            prompt_id=row.optional("prompt", item_id),
        )


def _add_retrieval(found: Collected, row: Row, number: str) -> None:
    for text in row.texts("text"):
        found.add_once(image_id=found.image(row.text("image")), text_id=found.text(text))


def _add_classes(found: Collected, row: Row, number: str) -> None:
    found.add(image_id=found.image(row.text("image")), text_id=row.text("class"))


ADD: Mapping[str, Callable[[Collected, Row, str], None]] = {
    "pairs": _add_pairs,
    "groups": _add_groups,
    "labels": _add_labels,
    "ratings": _add_ratings,
    "retrieval": _add_retrieval,
    "classes": _add_classes,
}


def _settings(annotations: StrPath | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(annotations, Mapping):
        return annotations, "the benchmark's mapping"
    try:
        settings = mapping_of(load_yaml(Path(annotations)))
    except DAMAGED as error:
        fault = quoted(" ".join(str(error).split()), 160)
        raise InputError(f"{annotations} must be YAML with {', '.join(KEYS[:3])} ({fault}); mend it.") from None
    return {str(key): value for key, value in settings.items()}, str(annotations)


def _checked(settings: Mapping[str, Any], place: str) -> tuple[str, dict[str, list[str]]]:
    """The protocol, and key -> names of columns."""
    for key in settings:
        if key not in KEYS:
            near = nearest_name(key, KEYS)
            raise InputError(f"a benchmark's keys must be {', '.join(KEYS)}, got {quoted(key)} ({place}).{near}")
    for key in KEYS[:3]:
        if not settings.get(key):
            raise InputError(f"`{key}` must be given ({place}).")
    protocol, columns = settings["protocol"], settings["columns"]
    if not isinstance(protocol, str) or protocol not in COLUMNS:
        near = nearest_name(protocol, COLUMNS)
        raise InputError(f"`protocol` must be one of {', '.join(COLUMNS)}, got {quoted(protocol)} ({place}).{near}")
    known = COLUMNS[protocol]
    wrong = [columns]
    if isinstance(columns, Mapping):
        # YAML has no other way to say true than the boolean
        columns = {str(key).lower() if isinstance(key, bool) else key: names for key, names in columns.items()}
        wrong = [key for key in columns if key not in known]
    if wrong:
        raise InputError(f"`columns` of {protocol} must name {', '.join(known)}, got {quoted(wrong[0])} ({place}).")
    if missing := [key for key in known if key not in columns and key not in OPTIONAL]:
        raise InputError(f"`columns` of {protocol} must name {missing[0]} ({place}).")
    if protocol != "classes" and "templates" in settings:
        raise InputError(f"`templates` must be those of classes, the protocol is {protocol} ({place}); take them out.")
    listed = {
        key: list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [names]
        for key, names in columns.items()
    }
    if wrong := [name for names in listed.values() for name in names if not isinstance(name, str)]:
        raise InputError(f"`columns` must hold names of columns, or lists of them, got {quoted(wrong[0])} ({place}).")
    return protocol, listed


def _rows(table: Path) -> list[Mapping[str, Any]]:
    if table.suffix.lower() not in TABLES or table.is_dir():
        raise InputError(f"`table` must be a file that ends in {', '.join(TABLES)}, got {table}; write it as one.")
    if table.suffix.lower() in (".csv", ".tsv"):
        with reading(table, "readable", "mend it"):
            rows: list[Mapping[str, Any]] = list(load_csv(table, (), "\t" if table.suffix.lower() == ".tsv" else ","))
        if not rows:
            raise InputError(f"A table must have rows, got none ({table}). Check what wrote it.")
        return rows
    return load_table(table, ())[0].to_pylist()
