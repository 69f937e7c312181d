"""The table of protocols: how answers become numbers, and what a key has.

A new protocol is more than its file here and its row: `select` says what it asks, `read` which columns hold ids, `own`
how a table of one's own gives its items, and the comparison's `outcomes` and `choose` what an example of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

import pyarrow as pa

from datamodules.benchmarks.logits import Logits
from datamodules.benchmarks.protocols import classes, groups, labels, pairs, ratings, retrieval
from datamodules.benchmarks.protocols.measured import ALL, MEAN, Measured, MetricName
from negatives.tables import InputError, nearest_name


class Measure(Protocol):
    """Key and logits to metrics."""

    def __call__(
        self,
        key: pa.Table,
        logits: Logits,
        *,
        calibrated: bool = False,
        aggregates: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Measured:
        """Metric rows; those that need a logit of 0 to mean one half are absent where it is not `calibrated`."""


class Keyed(Protocol):
    """What logits are measured by: a benchmark, or what was kept of one beside its scores."""

    @property
    def protocol(self) -> str:
        """A name of `PROTOCOLS`."""

    @property
    def key(self) -> pa.Table:
        """What logits are compared with; see `Benchmark`."""

    @property
    def aggregates(self) -> Mapping[str, tuple[str, ...]]:
        """Name -> the groups whose unweighted mean it is."""

    @property
    def main(self) -> MetricName | None:
        """The number that is published; None where there is none."""


class ProtocolRow(NamedTuple):
    """How answers become numbers.

    Attributes:
        measure: key and logits to metrics.
        columns: what a key must have, and of which type.
        main: the metric that stands for all where a benchmark publishes no other.
        chance: key and metric -> the metric of random logits; None where it is no single number.
    """

    measure: Measure
    columns: Mapping[str, pa.DataType]
    main: str
    chance: Callable[[pa.Table, str], float | None] = lambda key, metric: None


TEXT, TEXTS = pa.string(), pa.list_(pa.string())
OF_ITEM = {"item_id": TEXT, "image_id": TEXT, "text_id": TEXT, "group": TEXT}
PROTOCOLS = {
    "pairs": ProtocolRow(
        pairs.measure,
        {"item_id": TEXT, "image_id": TEXT, "group": TEXT, "true": TEXTS, "false": TEXTS},
        main="accuracy",
        chance=pairs.chance,
    ),
    "groups": ProtocolRow(
        groups.measure,
        {"item_id": TEXT, "group": TEXT, "image_ids": TEXTS, "text_ids": TEXTS},
        main="group",
        chance=groups.chance,
    ),
    "labels": ProtocolRow(labels.measure, {**OF_ITEM, "label": pa.int64()}, main="roc_auc", chance=labels.chance),
    "ratings": ProtocolRow(
        ratings.measure, {**OF_ITEM, "rating": pa.float64(), "prompt_id": TEXT}, main="tau_b", chance=ratings.chance
    ),
    "retrieval": ProtocolRow(retrieval.measure, {"image_id": TEXT, "text_id": TEXT}, main="recall_mean"),
    "classes": ProtocolRow(classes.measure, {"image_id": TEXT, "text_id": TEXT}, main="top1"),
}


def find_protocol(name: str) -> ProtocolRow:
    """The row of a protocol.

    Raises:
        InputError: there is no such protocol; names the nearest one and lists all.
    """
    if name not in PROTOCOLS:
        near = nearest_name(name, PROTOCOLS)
        raise InputError(f"the protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}.{near}")
    return PROTOCOLS[name]


def measure_benchmark(benchmark: Keyed, logits: Logits, *, calibrated: bool = False) -> Measured:
    """What a benchmark's protocol finds in any logits of its pairs.

    Args:
        benchmark: read, or evaluated.
        logits: of all pairs that its key compares.
        calibrated: whether a logit of 0 means one half.

    Raises:
        InputError: nothing can be measured, or a logit is missing.
    """
    measure = find_protocol(benchmark.protocol).measure
    return measure(benchmark.key, logits, calibrated=calibrated, aggregates=benchmark.aggregates)


def main_metric(benchmark: Keyed, rows: Collection[MetricName]) -> MetricName:
    """The row that stands for a benchmark wherever one number is shown.

    It is the published one. Where that is not among the rows, such as what needs a calibrated logit, or where none is
    published, it is the protocol's main metric: in the published group, else the mean over groups, else of all items.

    Args:
        benchmark: read, or evaluated.
        rows: what was measured.
    """
    if benchmark.main is not None and benchmark.main in rows:
        return benchmark.main
    main = find_protocol(benchmark.protocol).main
    groups = (MEAN, ALL) if benchmark.main is None else (benchmark.main.group, MEAN, ALL)
    return next((row for group in groups if (row := MetricName(main, group)) in rows), MetricName(main, ALL))
