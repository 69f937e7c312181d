"""What can be configured of training data and of pairs to evaluate on; see `experiments.config.schemas`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from datamodules import MAX_PIXELS, Mixing
from datamodules.benchmarks import BENCHMARKS

SUBSETS = ("all", "kept", "random")
DEBIAS = ("none", "offset")
BENCHMARK_RULE = {"choices": BENCHMARKS, "listed": "`itm evaluate --list`"}
"""Of a key `format`."""


@dataclass
class PairsConfig:
    """Positives and negatives to evaluate on: our tables, or a benchmark in its official files."""

    format: str = field(default="tables", metadata=BENCHMARK_RULE)
    """tables: `captions` and `negatives`. sugarcrepe, valse ...: the official files, a folder in `annotations`."""
    captions: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table (Parquet or JSONL)."""
    negatives: str | None = field(default=None, metadata={"exists": "file"})
    """Negatives table of these captions (Parquet or JSONL)."""
    annotations: str | None = field(default=None, metadata={"exists": "file or folder"})
    """The benchmark's official annotations: a folder of files, or a file."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the table's own folder where not given."""
    image_ids: str | None = field(default=None, metadata={"exists": "file"})
    """Captions table whose images are the only ones used (how a benchmark is restricted to a fold)."""

    def faults(self, place: str) -> Iterator[str]:
        """A benchmark of no pairs, and keys that the format needs and that are not given."""
        benchmark = BENCHMARKS[self.format]
        if benchmark.protocol not in ("pairs", "any"):
            yield f"`{place}format` must be a benchmark of the protocol pairs, {self.format} is of {benchmark.protocol}"
        for key in benchmark.needs(images=True):
            if getattr(self, key) is None:
                yield f"`{place}{key}` must be given where `{place}format` is {self.format}"


@dataclass
class DataConfig:
    """Training data and how it is drawn."""

    captions: Any = field(default=MISSING, metadata={"exists": "file"})
    """Captions table (Parquet or JSONL), or a list of tables."""
    negatives: Any = field(default=MISSING, metadata={"exists": "file"})
    """Negatives table of these captions, or a list of tables."""
    verdicts: str | None = field(default=None, metadata={"exists": "file"})
    """Verdicts of `itm filter`; needed for `subset` kept and random, and for `debias`."""
    subset: str = field(default="all", metadata={"choices": SUBSETS})
    """all: every text. kept: what the filter kept. random: as many texts of each class as it kept, drawn at random."""
    debias: str = field(default="none", metadata={"choices": DEBIAS})
    """offset: no text is dropped. What the filter's judges say of each text (`verdicts`) joins the scorer's logit
    inside the loss, in training alone, so that the scorer need not learn it (a product of experts)."""
    debias_strength: Any = 1.0
    """What the judges' logits are multiplied by: one number, or a mapping from negative type to number, with `default`
    for other types and for positives."""
    harmonise: bool = True
    """Each negative takes its positive's casing, final punctuation and white space, as `itm filter` judged them."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; the captions table's own folder where not given."""
    neighbours: str | None = field(default=None, metadata={"exists": "file"})
    """Table of `itm neighbours`: beside each row of a batch, one of a neighbour of its image (NegCLIP's hard images),
    drawn anew in every epoch; a batch then has up to twice `batch_size` rows."""
    mixing: Mixing = field(default_factory=Mixing)
    """How negatives join positives."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Rows, each of one image, in a batch on each device."""
    num_workers: int = field(default=0, metadata={"min": 0, "max": 1024})
    """Loader processes on each device."""
    validation: PairsConfig | None = None
    """Pairs scored during training for the learning curves; none where not given."""
    max_pixels: int = field(default=MAX_PIXELS, metadata={"min": 1})
    """Most pixels that an image may grow to, padded to a square or enlarged for a model; larger ones are refused."""

    def faults(self, place: str) -> Iterator[str]:
        """What is no table, a subset without verdicts, and several tables without a folder for their images."""
        for key, tables in (("captions", self.captions), ("negatives", self.negatives)):
            listed = tables if isinstance(tables, list) else [tables]
            if not listed or not all(isinstance(table, str) for table in listed):
                yield f"`{place}{key}` must be a table or a list of tables, got {tables!r}"
        if self.subset != "all" and self.verdicts is None:
            yield f"`{place}verdicts` must be given where `{place}subset` is {self.subset}: run `itm filter`"
        yield from self._debias_faults(place)
        if isinstance(self.captions, list) and self.captions and self.image_root is None:
            yield f"`{place}image_root` must be given where `{place}captions` lists several tables"

    def _debias_faults(self, place: str) -> Iterator[str]:
        strength = self.debias_strength
        numbers = strength.values() if isinstance(strength, Mapping) else [strength]
        if not all(type(number) in (int, float) and 0 <= number < math.inf for number in numbers):
            yield f"`{place}debias_strength` must be a number >= 0, or one for each negative type, got {strength!r}"
        if self.debias == "none":
            return
        chosen = f"where `{place}debias` is {self.debias}"
        if self.verdicts is None:
            yield f"`{place}verdicts` must be given {chosen}: run `itm filter`"
        if self.subset == "kept":
            yield f"`{place}subset` must be all (or random) {chosen}, got kept: it drops no text"
