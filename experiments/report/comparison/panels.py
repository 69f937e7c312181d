"""One set of a comparison as rows: every metric of every run and method, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmarks import (
    ALL,
    MEAN,
    Differences,
    MetricName,
    Resampled,
    counted_rows,
    difference,
    ends,
    find_protocol,
    holm,
    tied,
)
from experiments.report.comparison.entries import Entry
from experiments.report.comparison.reading.evaluated import METRIC_COLUMNS, EvaluatedSet, shared_main
from experiments.report.comparison.results import Halved, Result, method_result, run_result
from experiments.report.negative_types import types_in_order
from experiments.report.page import share

Row = dict[str, Any]
DEBIASED = ("alpha", "half_value", "debiased_value", "debiased_low", "debiased_high")
COMPARISON_COLUMNS = (*METRIC_COLUMNS, "training_pairs", *DEBIASED)
SEED_COLUMNS = (
    *("method", "set", "metric", "group", "seeds", "value", "low", "high", "lowest_seed", "highest_seed"),
    *("blind_value", "blind_low", "blind_high", *DEBIASED),
)
DIFFERENCE_COLUMNS = (
    *("run", "against", "other", "set", "metric", "group"),
    *("difference", "low", "high", "p", "p_holm", "tied"),
)
REFERENCE, BEST = "reference", "best"


@dataclass(frozen=True)
class Draws:
    """How often images are drawn again, by which seed, and whether metrics without the blind score are computed."""

    resamples: int
    seed: int
    debias: bool = True


class Main(NamedTuple):
    """The main metric of an entry: with its resamples, on noise and debiased (None where not known), of each seed."""

    seen: Resampled
    blind: Resampled | None
    debiased: Resampled | None
    seeds: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """All that is said of one set.

    Attributes:
        name: of the set.
        protocol: of its benchmark.
        main: the metric that stands for it.
        chance: value of `main` by chance; None where it is no single number.
        items: how many there are, as `training_pairs` counts them: images in retrieval.
        columns: all metrics: the main one by group first.
        notes: what belongs beside the numbers, such as items that were left out.
        runs: a row of `COMPARISON_COLUMNS` for each run and metric.
        entries: entry -> metric -> the same, with `seeds`, `lowest_seed` and `highest_seed`.
        differences: rows of `DIFFERENCE_COLUMNS`.
        mains: entry -> the main metric.
    """

    name: str
    protocol: str
    main: MetricName
    chance: float | None
    items: int
    columns: tuple[MetricName, ...]
    notes: tuple[str, ...]
    runs: Sequence[Row]
    entries: Mapping[str, Mapping[MetricName, Row]]
    differences: Sequence[Row]
    mains: Mapping[str, Main] = field(repr=False)

    @property
    def seeds(self) -> list[Row]:
        """Rows of `SEED_COLUMNS`."""
        pooled = [row for rows in self.entries.values() for row in rows.values() if row["seeds"] > 1]
        return [{name: row["run" if name == "method" else name] for name in SEED_COLUMNS} for row in pooled]

    @property
    def overlaps(self) -> list[str]:
        """A sentence for each run that was trained on images of the set."""
        return [
            f"{row['run']} was trained on the images of {share(row['training_pairs'], self.items)} of the items."
            for row in self._whole()
            if row["training_pairs"]
        ]

    @property
    def unknown(self) -> list[str]:
        """The runs of which it is not known what they were trained on."""
        return [row["run"] for row in self._whole() if row["training_pairs"] is None]

    def _whole(self) -> list[Row]:
        return [row for row in self.runs if (row["metric"], row["group"]) == (self.main.metric, "")]


def panel_of(name: str, entries: Sequence[Entry], reference: str, draws: Draws) -> Panel:
    """The numbers of one set, of the entries that have it.

    Raises:
        InputError: nothing can be measured.
    """
    results: dict[str, Result] = {}
    runs: list[Row] = []
    every = [run.sets[name] for entry in entries for run in entry.runs if name in run.sets]
    first, main = every[0], shared_main(every)
    for entry in entries:
        sets = [run.sets[name] for run in entry.runs if name in run.sets]
        own = [
            run_result(found, main, resamples=draws.resamples, seed=draws.seed, debias=draws.debias) for found in sets
        ]
        names = [run.name for run in entry.runs if name in run.sets]
        runs += [row for run, found in zip(names, own, strict=True) for row in _rows(run, name, found).values()]
        # a method is the mean over all its seeds, or it is not there
        if name in entry.sets:
            results[entry.name] = (
                own[0] if len(own) == 1 else method_result(sets, own, resamples=draws.resamples, seed=draws.seed)
            )
    return Panel(
        name=name,
        protocol=first.protocol,
        main=main,
        chance=find_protocol(first.protocol).chance(first.key, main.metric),
        items=len(counted_rows(first.key)),
        columns=_columns(main, results.values(), first),
        # the items are the same for all; what the files lacked is told by each, and by no older version
        notes=tuple(dict.fromkeys(line for one in every for line in one.told)),
        runs=runs,
        entries={entry: _rows(entry, name, found) for entry, found in results.items()},
        differences=_differences(name, results, reference, main),
        mains={entry: _main(found, main) for entry, found in results.items()},
    )


def _rows(run: str, name: str, found: Result) -> dict[MetricName, Row]:
    seen = ends(found.seen)
    blind = None if found.blind is None else ends(found.blind)
    halves = _halves(found.halved)
    rows = {}
    for place, column in enumerate(found.rows):
        numbers = [_number(part[place]) for part in seen]
        numbers += [None] * 3 if blind is None else [_number(part[place]) for part in blind]
        counts = int(found.counts[place]), int(found.images[place])
        values = (run, name, *column, *numbers, *counts, _trained(found, column), *halves.get(column, (None,) * 5))
        rows[column] = dict(zip(COMPARISON_COLUMNS, values, strict=True)) | {
            "seeds": len(found.seeds),
            "lowest_seed": _number(found.seeds[:, place].min()),
            "highest_seed": _number(found.seeds[:, place].max()),
        }
    return rows


def _halves(halved: Halved | None) -> dict[MetricName, tuple[float, ...]]:
    """Metric -> the columns of `DEBIASED`, of the metrics that the half defines."""
    if halved is None:
        return {}
    numbers = np.stack([halved.before, *ends(halved.after)], axis=1)
    return {
        row: (halved.alpha, *map(float, own))
        for row, own in zip(halved.rows, numbers, strict=True)
        if not np.isnan(own).any()
    }


def _trained(found: Result, column: MetricName) -> int | None:
    if found.training_pairs is None:
        return None
    counts = found.training_pairs
    # older versions say "mean" for all items, and count no aggregates
    return counts.get(column.group, counts.get(MEAN) if column.group == ALL else None)


def _columns(main: MetricName, results: Any, first: EvaluatedSet) -> tuple[MetricName, ...]:
    every = list(dict.fromkeys(row for found in results for row in found.rows)) or list(first.measured.rows)
    groups = types_in_order([row.group for row in every if row.metric == main.metric and row.group not in ("", MEAN)])
    aggregates = [name for name in groups if name in first.aggregates]
    groups = [name for name in groups if name not in aggregates]
    ordered = [main, *(MetricName(main.metric, group) for group in (MEAN, *aggregates, *groups, ""))]
    return tuple(dict.fromkeys([*(row for row in ordered if row in every), *every]))


def _main(found: Result, main: MetricName) -> Main:
    place = found.rows.index(main)
    blind = None if found.blind is None else found.blind.row(place)
    debiased = None if found.halved is None else found.halved.row(main)
    return Main(found.row(main), blind, debiased, found.seeds[:, place])


def _differences(name: str, results: Mapping[str, Result], reference: str, main: MetricName) -> list[Row]:
    rows = []
    every = dict.fromkeys(column for found in results.values() for column in found.rows)
    for column in every:
        there = {entry: found.row(column) for entry, found in results.items() if column in found.rows}
        about = {"set": name, "metric": column.metric, "group": column.group}
        if reference in there:
            rows += [{**row, **about} for row in compared(there, reference, REFERENCE)]
        # of a rank the lowest is best, of a share of errors none: the main metric alone is known to have a best
        if column.metric == main.metric:
            rows += [{**row, **about} for row in compared(there, best_of(there), BEST)]
    return rows


def best_of(values: Mapping[str, Resampled]) -> str:
    """The entry of the highest value; the first of equal ones."""
    return max(values, key=lambda entry: -np.inf if np.isnan(values[entry].value[0]) else values[entry].value[0])


def compared(values: Mapping[str, Resampled], other: str, against: str) -> list[Row]:
    """All but one against this one, with Holm's correction over these comparisons.

    Args:
        values: entry -> one metric.
        other: the one.
        against: what it is: "reference" or "best".
    """
    found: dict[str, Differences] = {
        entry: difference(value, values[other]) for entry, value in values.items() if entry != other
    }
    if not found:
        return []
    ps = np.array([one.p[0] for one in found.values()])
    return [
        {
            **{"run": entry, "against": against, "other": other},
            **dict(zip(("difference", "low", "high", "p"), (_number(part[0]) for part in one), strict=True)),
            **{"p_holm": _number(adjusted), "tied": bool(undecided)},
        }
        for (entry, one), adjusted, undecided in zip(found.items(), holm(ps), tied(ps), strict=True)
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
