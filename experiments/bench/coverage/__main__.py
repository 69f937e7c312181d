"""How often 95 % intervals hold the truth: `python -m experiments.bench.coverage --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from datamodules.benchmarks import ALL, MEAN, intervals
from experiments.bench.coverage.simulate import SIMULATED, measure
from negatives.tables import write_json

EXAMPLES = """\
Benchmarks are drawn from a population in which images differ, and items of an image are alike. The truth is what very
large draws give; for retrieval, where it depends on the number of images, the mean over all draws.

example:
  python -m experiments.bench.coverage --protocols pairs ratings --draws 1000
"""


class Coverage(NamedTuple):
    """Of one metric: how many intervals of how many draws hold the truth, and how wide they are on average.

    `spread` is the standard deviation of the metric over the draws: an interval should be 3.92 times as wide.
    """

    protocol: str
    clusters: int
    metric: str
    group: str
    truth: float
    held: int
    draws: int
    width: float
    spread: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.coverage",
        description="Measures how often 95 % intervals hold the truth.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--protocols", nargs="+", choices=SIMULATED, default=list(SIMULATED), help="what to draw (default: all)")
    add("--clusters", nargs="+", type=int, default=[60, 300], help="images, or prompts, of a draw (default: 60 300)")
    add("--draws", type=int, default=1000, help="of each protocol and size (default: 1000)")
    add("--resamples", type=int, default=1000, help="of each interval (default: 1000)")
    add("--seed", type=int, default=0, help="of all draws (default: 0)")
    add("--json", help="file for all numbers")
    return made


def coverage(
    protocol: str, clusters: int, *, draws: int, resamples: int, seed: int, population: int = 40_000
) -> Iterator[Coverage]:
    """The coverage of each metric over all items, and of the means over groups.

    Args:
        protocol: a name of `SIMULATED`.
        clusters: images, or prompts, of a draw.
        draws: how many intervals of each metric; at least 1.
        resamples: of each interval.
        seed: of all draws.
        population: clusters that the truth is taken over, in draws that are as large as time allows.
    """
    generator = np.random.default_rng([seed, clusters, list(SIMULATED).index(protocol)])
    found = []
    for draw in range(draws):
        measured = measure(protocol, generator, clusters)
        found.append(np.stack(intervals(measured, resamples=resamples, seed=seed + draw)))
    values, lows, highs = np.stack(found, axis=1)
    truth = values.mean(0)
    if largest := SIMULATED[protocol].largest:
        sizes = [min(population, largest)] * max(1, population // largest)
        truth = np.mean([measure(protocol, generator, size).value() for size in sizes], axis=0)
    for row, name in enumerate(measured.rows):
        if name.group in (ALL, MEAN):  # each group has half of the items, and would say nothing new
            held = (lows[:, row] <= truth[row]) & (truth[row] <= highs[:, row])
            width = float((highs - lows)[:, row].mean())
            spread = float(values[:, row].std())
            yield Coverage(protocol, clusters, *name, float(truth[row]), int(held.sum()), draws, width, spread)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row for each metric; returns the exit code."""
    arguments = parser().parse_args(argv)
    rows = []
    for protocol in arguments.protocols:
        for clusters in arguments.clusters:
            settings = {"draws": arguments.draws, "resamples": arguments.resamples, "seed": arguments.seed}
            for row in coverage(protocol, clusters, **settings):
                rows.append(row)
                name = f"{row.metric} {row.group}".strip()
                shown = f"{100 * row.held / row.draws:5.1f} %  truth {row.truth:7.4f}  width {row.width:.4f}"
                print(f"{protocol:10} {clusters:4} clusters  {name:24} {shown}", flush=True)
    if arguments.json:
        write_json({"coverage": [row._asdict() for row in rows]}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
