"""What a judge that sees no photo gets on benchmarks: `python -m experiments.bench.blind --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.bench.benchmark_texts.read import READERS
from experiments.bench.benchmark_texts.transfer import ARMS, transfer
from experiments.bench.benchmark_texts.transfer import table as transfer_table
from negatives import JudgeSettings
from negatives.judging import STACKED, build_judges
from negatives.tables import write_json

if TYPE_CHECKING:
    from negatives.judging import Estimate

JUDGES = ("word", "char")
EXAMPLES = """\
examples:
  python -m experiments.bench.blind shared/data
  python -m experiments.bench.blind shared/data --benchmarks sugarcrepe cola
  python -m experiments.bench.blind shared/data --transfer
  python -m experiments.bench.blind shared/data --transfer --arms everything "margins pair" --seeds 0
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m experiments.bench.blind",
        description="What judges of texts alone get on each type of benchmarks, from other photos. With --transfer: "
        "what learners of filtered negatives get on SugarCrepe's items of photos that were not filtered.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("data", type=Path, help="folder with sugarcrepe/data, valse, cola, seetrue and llm_negatives")
    add("--benchmarks", nargs="+", choices=READERS, default=list(READERS), help="to judge (default: all)")
    add("--transfer", action="store_true", help="filter written negatives, and ask about SugarCrepe instead")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="--transfer: everything, or a rule and a unit")
    add("--judges", nargs="+", default=["word", "char", "surface"], help="--transfer: of the filter")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="--transfer: of folds and draws (default: 0 1 2)")
    add("--folds", type=int, default=5, help="of the judges (default: 5)")
    add("--bootstrap", type=int, default=1000, help="resamples of photos behind each interval (default: 1000)")
    add("--workers", type=int, default=2, help="threads")
    add("--json", type=Path, help="file for all numbers")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    given = parser().parse_args(argv)
    if given.transfer:
        taught = list(transfer(given))
        content, said = [vars(row) for row in taught], transfer_table(taught)
    else:
        found = [row for name in given.benchmarks for row in judged(name, given)]
        content, said = [vars(row) for row in found], table(found)
    print(said)
    if given.json:
        write_json(content, given.json)
    return 0


@dataclass(frozen=True)
class Row:
    """What the judges get on one type of a benchmark.

    Attributes:
        benchmark, type: of what; "all" for all types together.
        metric: "paired_accuracy", or "auc" where there are no pairs.
        count: pairs, or texts.
        groups, by: of how many photos, or what else `by` says.
        values: judge -> value with the ends of its 95 % interval over these.
    """

    benchmark: str
    type: str
    metric: str
    count: int
    groups: int
    by: str
    values: dict[str, tuple[float, float | None, float | None]]


def judged(name: str, given: argparse.Namespace) -> Iterator[Row]:
    """A row for all types of a benchmark, and one for each."""
    from negatives.judging import estimates, probe, seat

    for part in READERS[name](given.data):
        text_pairs = part.text_pairs
        metric = "paired_accuracy" if len(text_pairs.pairs) else "auc"
        panel = seat(build_judges(JUDGES, JudgeSettings()), text_pairs, folds=given.folds, workers=given.workers)
        probed = probe(panel, seed=f"blind {name}", stacked=JUDGES, metrics=[metric])
        found: dict[str, list[Estimate]] = {}
        for one in estimates(text_pairs, probed, bootstrap=given.bootstrap, seed=f"blind {name}"):
            found.setdefault(one.negative_type, []).append(one)
        # a part without types of its own is one type
        for kind, own in found.items() if len(found) > 2 else [(part.name or "all", found["all"])]:
            pairs = (text_pairs.pair_types == kind) | (kind not in text_pairs.pair_types)
            groups = text_pairs.pair_images[pairs] if metric == "paired_accuracy" else text_pairs.images
            values = {one.judge: (one.value, one.low, one.high) for one in own}
            yield Row(name, kind, metric, own[0].count, len(np.unique(groups)), part.by, values)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each row."""
    headings = ["benchmark", "type", "pairs, or texts", "photos", *JUDGES, "both"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for row in rows:
        count = f"{row.count:,}" + " texts" * (row.metric == "auc")
        groups = f"{row.groups:,}" + f" {row.by}s" * (row.by != "photo")
        cells = [row.benchmark, row.type, count, groups, *(_cell(*row.values[name]) for name in (*JUDGES, STACKED))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
