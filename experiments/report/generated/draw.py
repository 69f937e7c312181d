"""Counts of the rows of large tables, and some rows of each kind: the tables are read batch by batch, never held."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from negatives.tables import hash_of

BATCH = 16_384  # rows that are in memory at a time


class Columns(NamedTuple):
    """What a table calls its columns.

    Attributes:
        row_id: what tells a row of a type from the others.
        caption_id: of the caption that the text was written for.
        negative_type: the column, or the type of all rows where the table has no such column.
        reason: why the row is no valid text; "" where it is one.
        text: what is shown of the row.
    """

    row_id: tuple[str, ...]
    caption_id: str
    negative_type: str
    reason: str
    text: str


NEGATIVES = Columns(("negative_id",), "caption_id", "negative_type", "rejected", "caption")
PARAPHRASES = Columns(("caption_id",), "source_caption_id", "paraphrase", "rejected", "caption")
# a writer may have tried a type in several ways, and each has its detail
UNWRITTEN = Columns(("caption_id", "detail"), "caption_id", "negative_type", "outcome", "detail")


class DrawnRow(NamedTuple):
    """One row that is shown."""

    caption_id: str
    negative_type: str
    reason: str
    text: str


class Draw:
    """Counts rows by type and reason, and keeps some of each valid type and of each reason.

    Which ones depends on the seed, the type and the row's id alone: the rows whose hash is smallest are kept, so that
    neither their order nor an interruption matters. Memory grows with the number of types and reasons only.

    Args:
        seed: of the hash.
        most: rows to keep of each type and of each reason.

    Attributes:
        counts: (negative_type, reason) -> rows; the reason is "" for valid texts.
    """

    def __init__(self, seed: int, most: int) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._seed, self._most = seed, most
        # heaps of (minus the hash, row): the first is the one to go
        self._held: defaultdict[tuple[str, str], list[tuple[int, DrawnRow]]] = defaultdict(list)

    def add(self, path: Path, columns: Columns) -> None:
        """Reads a Parquet file; one that is not there has no rows."""
        wanted = dict.fromkeys((*columns.row_id, *columns[1:]))
        for batch in _batches(path, wanted):
            typed = columns.negative_type in batch.schema.names
            types = batch[columns.negative_type].to_pylist() if typed else [columns.negative_type] * len(batch)
            ids = zip(*(batch[name].to_pylist() for name in columns.row_id), strict=True)
            for place, (kind, reason, row_id) in enumerate(
                zip(types, batch[columns.reason].to_pylist(), ids, strict=True)
            ):
                self.counts[kind, reason] += 1
                held, key = self._held["" if reason else kind, reason], -hash_of(self._seed, kind, *row_id)
                if len(held) < self._most or key > held[0][0]:
                    caption_id, text = (batch[name][place].as_py() for name in (columns.caption_id, columns.text))
                    heapq.heappush(held, (key, DrawnRow(caption_id, kind, reason, text)))
                    if len(held) > self._most:
                        heapq.heappop(held)

    def rows_of(self, *, negative_type: str = "", reason: str = "") -> list[DrawnRow]:
        """The valid texts kept of a type, or the rows kept of a reason, whatever their type."""
        return [row for _, row in sorted(self._held[negative_type, reason], reverse=True)]


def valid_negatives(path: Path, *, valid: int, most: int, seed: int) -> pa.Table:
    """The valid rows of a negatives table, of some captions where there are more than `most`.

    Args:
        path: a negatives table, Parquet.
        valid: how many valid rows it has.
        most: about how many to return: captions are drawn by their ids, each with all its negatives.
        seed: of the draw.
    """
    names = ["caption_id", "negative_id", "caption", "negative_type"]
    parts = []
    for batch in _batches(path, [*names, "rejected"]):
        rows = batch.filter(pc.equal(batch["rejected"], "")).select(names)
        if valid > most:
            ids = pc.unique(rows["caption_id"]).to_pylist()
            drawn = [name for name in ids if hash_of(seed, "judged", name) * valid < most * 2**64]
            rows = rows.filter(pc.is_in(rows["caption_id"], value_set=pa.array(drawn, pa.string())))
        parts.append(rows)
    return pa.Table.from_batches(parts, pa.schema([(name, pa.string()) for name in names]))


def _batches(path: Path, names: dict[str, None] | list[str]) -> Iterator[pa.RecordBatch]:
    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        # a table without a column of types is of one type
        yield from file.iter_batches(BATCH, columns=[name for name in names if name in file.schema_arrow.names])
