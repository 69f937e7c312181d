"""Benchmarks of true and false captions: one row of `BENCHMARKS` for each, for evaluation, validation and audits.

A new benchmark is its file here, with a reader, and its row. A reader takes the inputs of its row and `image_root`, all
by keyword, and returns `Pairs`; it reads texts only. What holds for every benchmark is done in `read`: which images are
there, which of them are wanted, and whether ids and negative types are usable.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from negatives.tables import InputError, nearest_name

if TYPE_CHECKING:
    from datamodules.benchmarks.pairs import Pairs


class Benchmark(NamedTuple):
    """How a benchmark is read.

    Attributes:
        reader: Dotted place of its reader, imported on use.
        inputs: What the reader reads, among `captions`, `negatives` (files) and `annotations` (a folder).
        published: Whether it comes in official files, whose images lie elsewhere and may be there in part. Tables of
            one's own have to be whole, and their images lie beside them where no `image_root` is given.
    """

    reader: str
    inputs: tuple[str, ...] = ("annotations",)
    published: bool = True

    def needs(self, *, images: bool) -> tuple[str, ...]:
        """The keys that have to be given, to read texts alone or to score `images` too."""
        return (*self.inputs, "image_root") if images and self.published else self.inputs

    def load_reader(self) -> Callable[..., Pairs]:
        """The reader, imported now."""
        module, _, name = self.reader.rpartition(".")
        reader: Callable[..., Pairs] = getattr(importlib.import_module(module), name)
        return reader


BENCHMARKS = {
    "tables": Benchmark("datamodules.benchmarks.own_tables.read_pairs", ("captions", "negatives"), published=False),
    "sugarcrepe": Benchmark("datamodules.benchmarks.sugarcrepe.read_sugarcrepe"),
    "valse": Benchmark("datamodules.benchmarks.valse.read_valse"),
}


def find_benchmark(name: str) -> Benchmark:
    """The row of a benchmark.

    Raises:
        InputError: there is no such benchmark; names the nearest one and lists all.
    """
    if name not in BENCHMARKS:
        near = nearest_name(name, BENCHMARKS)
        raise InputError(f"the benchmark must be one of {', '.join(BENCHMARKS)}, got {name!r}.{near}")
    return BENCHMARKS[name]
