"""What a scorer said of a benchmark, whatever its protocol, and what that is worth in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from datamodules.benchmarks import Logits, Measured, MetricName, items_of, main_metric, measure_benchmark

SUMMARY_FILE = "summary.json"
"""In the folder of an evaluation: which run and weights it is of, and its sets."""
SCORES_FILE, PAIRS_FILE, KEY_FILE = "scores.parquet", "pairs.parquet", "key.parquet"
IMAGES_FILE, TEXTS_FILE = "images.parquet", "texts.parquet"
MATRIX_FILE, BLIND_MATRIX_FILE = "matrix.npy", "blind_matrix.npy"
METRIC_COLUMNS = (
    *("run", "set", "metric", "group", "value", "low", "high"),
    *("blind_value", "blind_low", "blind_high", "count", "images"),
)
"""Of `metrics.csv`, and of a comparison, which has more."""


@dataclass(frozen=True)
class EvaluatedSet:
    """One set as one scorer answered it.

    Attributes:
        protocol: a name of `PROTOCOLS`.
        image_root: where its images lie.
        key, images, texts: of the benchmark, see `Benchmark`.
        logits: of the scorer.
        blind: on noise images; None where that is not known.
        calibrated: whether a logit of 0 means one half.
        aggregates: name -> groups whose unweighted mean it is.
        main: the number that is published of the benchmark; None where there is none, and in older versions.
        training_pairs: group -> how many items have an image that the scorer was trained on, "" for all; None where
            that is not known. Older versions have "mean" for all.
        left_out, notes: of the benchmark; empty in older versions.
    """

    protocol: str
    image_root: Path
    key: pa.Table
    images: pa.Table
    texts: pa.Table
    logits: Logits
    blind: Logits | None = None
    calibrated: bool = False
    aggregates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    main: MetricName | None = None
    training_pairs: dict[str, int] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def measured(self) -> Measured:
        """What the protocol finds."""
        return measure_benchmark(self, self.logits, calibrated=self.calibrated)

    @cached_property
    def blind_measured(self) -> Measured | None:
        """What the protocol finds on noise."""
        return None if self.blind is None else measure_benchmark(self, self.blind, calibrated=self.calibrated)

    @property
    def told(self) -> list[str]:
        """What belongs beside the numbers: how many items were left out and why, and the benchmark's notes."""
        reasons = [f"{count:,} {reason}" for reason, count in self.left_out.items() if count]
        asked = len(items_of(self.key))
        whole = f"{asked:,} of {asked + sum(self.left_out.values()):,} items"
        if self.protocol == "ratings" and asked < len(self.key):
            # of several ratings of an item, those that are missing are counted one by one
            whole = f"{asked:,} items, without"
        return [f"{whole}: {', '.join(reasons)}"] * bool(reasons) + [*self.notes]


@dataclass(frozen=True)
class EvaluatedRun:
    """A scorer: its sets, and the log of its training as metric -> step -> value."""

    name: str
    folder: Path
    sets: dict[str, EvaluatedSet]
    curves: dict[str, dict[int, float]]


def shared_main(sets: Sequence[EvaluatedSet]) -> MetricName:
    """The row that stands for one set of several scorers: all of them have it.

    Args:
        sets: the set as each scorer answered it; an older version that names no published number goes by another.
    """
    rows = set(sets[0].measured.rows).intersection(*(one.measured.rows for one in sets[1:]))
    return main_metric(next((one for one in sets if one.main is not None), sets[0]), rows)
