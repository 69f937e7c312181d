"""Scores that were made elsewhere, as a table: Parquet, CSV or JSONL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from datamodules.benchmarks import Benchmark, Logits
from experiments.runs.fingerprint import file_hash
from experiments.scoring.ranks import World
from experiments.scoring.scorer import Options
from experiments.scoring.sets import SetScores, of_matrix, of_pairs, text_ids
from negatives.tables import DAMAGED, InputError, load_table, quoted, read_parquet

IDS = ("image_id", "text_id", "text", "set")
LOGITS = ("logit", "score")
NUMBERS = (*LOGITS, "blind_logit")


def open_table(word: str, options: Options) -> ScoresTable:
    """A table with `image_id`, `text_id` or `text`, and `logit` or `score`.

    It may have `blind_logit`, the logit without the image, and `set`, where it holds several sets.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    path = Path(word)
    table = _read(path)
    if not {"text_id", "text"} & {*table.column_names}:
        raise InputError(f"{path}: a scores table must have a column text_id or text, got {_listed(table)}; add it.")
    for names in (("image_id",), LOGITS):
        if not {*names} & {*table.column_names}:
            raise InputError(f"{path}: a scores table must have a column {' or '.join(names)}, got {_listed(table)}.")
    numbers = [name for name in NUMBERS if name in table.column_names]
    try:
        table = pa.table(
            {
                **{name: table[name].cast(pa.string()) for name in IDS if name in table.column_names},
                **{name: table[name].cast(pa.float64()) for name in numbers},
            }
        )
    except pa.ArrowException as error:
        raise InputError(f"{path}: ids must be texts, and logits numbers ({quoted(error, 120)}).") from None
    return ScoresTable(path.stem, path, table)


@dataclass(frozen=True)
class ScoresTable:
    """Scores by image and text; nothing is computed.

    Nobody says what a logit of 0 means in it, so metrics that have a threshold are left out.
    """

    name: str
    path: Path
    table: pa.Table
    calibrated: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    trained: None = None

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The table's content."""
        return {"scores": file_hash([self.path])}

    def scores_of(
        self, benchmarks: Mapping[str, Benchmark], options: Options, world: World
    ) -> Mapping[str, SetScores] | None:
        """See `Scorer`."""
        if world.rank:
            return None
        return {name: self._scores(name, benchmark) for name, benchmark in benchmarks.items()}

    def _scores(self, name: str, benchmark: Benchmark) -> SetScores:
        source, table = f"{self.path}, set {name}", self.table
        if "set" in table.column_names:
            table = _met(table, pc.equal(table["set"], name), "set", name, source)
        # what is asked of others, or of nobody, is no fault
        ids = benchmark.images["image_id"].combine_chunks()
        table = _met(table, pc.is_in(table["image_id"], value_set=ids), "image_id", ids[0].as_py(), source)
        table = _with_text_ids(table, benchmark, source)
        found = {column: Logits.from_table(table, source, column=column) for column in _filled(table)}
        logits = found.get("logit", found.get("score"))
        assert logits is not None
        names, _ = text_ids(benchmark)
        images = benchmark.images["image_id"]
        try:
            if benchmark.pairs is None:
                blind = found["blind_logit"].matrix(images, names) if "blind_logit" in found else None
                # as exact as they were given: in float32 two saturated probabilities would be tied
                return of_matrix(benchmark, names, logits.matrix(images, names), blind)
            asked = benchmark.pairs["image_id"], benchmark.pairs["text_id"]
            blind_values = found["blind_logit"].of(*asked) if "blind_logit" in found else None
            values = logits.of(*asked)
            scores = found["score"].of(*asked) if "score" in found else values
            return of_pairs(benchmark, values, scores, blind_values)
        except InputError as error:
            raise InputError(f"{error} Add them, or leave the set out.") from None


def _filled(table: pa.Table) -> list[str]:
    """The columns of numbers; one that is empty in all rows is absent, as blind logits are that nobody knows."""
    there = [name for name in NUMBERS if name in table.column_names]
    filled = [name for name in there if not pc.all(pc.is_null(table[name], nan_is_null=True)).as_py()]
    # without any logit the first column is read, which says what is wrong with it
    return filled if {*LOGITS} & {*filled} else [there[0], *filled]


def _met(table: pa.Table, wanted: pa.ChunkedArray, column: str, asked: str, source: str) -> pa.Table:
    """The wanted rows, at least one, unless there is none at all.

    Raises:
        InputError: none is wanted; shows the ids of both sides, which may be written in different ways.
    """
    found = table.filter(wanted)
    if len(table) and not len(found):
        remedy = "; name texts by a column text" if column == "text_id" else ""
        raise InputError(
            f"{source}: no {column} of the table is asked for; asked for is {quoted(asked)}, for one, and "
            f"the table has {quoted(table[column][0].as_py())}. Write them alike{remedy}, or leave the set out."
        )
    return found


def _with_text_ids(table: pa.Table, benchmark: Benchmark, source: str) -> pa.Table:
    """The rows of the benchmark's texts; where no `text_id` is one of its own, texts are found by their wording.

    A text in several wordings has the mean over them; it has no row where one of them has none.

    Raises:
        InputError: an image with a wording twice, where there are several.
    """
    texts = benchmark.texts
    if "text_id" in table.column_names:
        wanted = pc.is_in(table["text_id"], value_set=pc.unique(texts["text_id"]))
        if "text" not in table.column_names or pc.any(wanted).as_py():
            return _met(table, wanted, "text_id", texts["text_id"][0].as_py(), source)
        table = table.drop_columns(["text_id"])
        # a caption that an image has twice has two ids in a captions table, and one score
        table = table.group_by(table.column_names, use_threads=False).aggregate([])
    asked = _met(
        table, pc.is_in(table["text"], value_set=pc.unique(texts["text"])), "text", texts["text"][0].as_py(), source
    )
    # a wording may be that of several texts, such as two classes that are called alike
    named = asked.join(texts.select(["text_id", "text"]), "text", join_type="inner")
    wordings = texts.group_by("text_id").aggregate([("text", "count")])
    if wordings.num_rows == texts.num_rows:
        return named
    pairs = asked.group_by(["image_id", "text"]).aggregate([([], "count_all")])
    if len(twice := pairs.filter(pc.greater(pairs["count_all"], 1))):
        image, text = (quoted(twice[column][0].as_py()) for column in ("image_id", "text"))
        raise InputError(f"{source}: a pair must be there once, got image {image} with {text} more often.")
    whole = pc.ScalarAggregateOptions(skip_nulls=False)
    numbers = [name for name in NUMBERS if name in named.column_names]
    found = named.group_by(["image_id", "text_id"]).aggregate(
        [([], "count_all"), *((name, "mean", whole) for name in numbers)]
    )
    found = found.join(wordings, "text_id").filter(pc.field("count_all") == pc.field("text_count"))
    return found.select(["image_id", "text_id", *(f"{name}_mean" for name in numbers)]).rename_columns(
        ["image_id", "text_id", *numbers]
    )


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"there is no scores table {quoted(str(path), 200)}; give the path of one.")
    try:
        if path.suffix == ".csv":
            # ids may look like numbers, and must not lose their zeros
            ids = csv.ConvertOptions(column_types=dict.fromkeys(IDS, pa.string()))
            return csv.read_csv(path, convert_options=ids)
        return read_parquet(path) if path.suffix == ".parquet" else load_table(path, IDS)[0]
    except (*DAMAGED, pa.ArrowException) as error:
        raise InputError(f"{path} must be a scores table, and cannot be read as one ({quoted(error, 120)}).") from None


def _listed(table: pa.Table) -> str:
    return ", ".join(table.column_names)
