"""`itm compare`: evaluated runs side by side, in tables, plots and one self-contained page.

Writes `index.html`, `comparison.csv`, `seeds.csv`, `differences.csv`, `learning_curves.csv` and `audits.csv`. They are
built in a folder beside the output folder and moved when all are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.config.evaluation_schemas import CompareConfig
from experiments.report.audits import AUDIT_COLUMNS, read_audits
from experiments.report.csv_files import csv_text
from experiments.report.examples import choose_examples
from experiments.report.intervals import MEAN
from experiments.report.metric_rows import (
    COMPARISON_COLUMNS,
    CURVE_COLUMNS,
    DIFFERENCE_COLUMNS,
    Row,
    comparison_rows,
    curve_rows,
    difference_rows,
    find_reference,
    overlap_lines,
    types_in_order,
)
from experiments.report.page import Comparison, render_page
from experiments.report.read_runs import common_sets, read_runs
from experiments.report.seeds import SEED_COLUMNS, by_method, seed_rows
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from negatives.tables import write_text

PAGE = "index.html"


def run(config: CompareConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Compares the runs and writes the report; with `resume` an older report is replaced by a new one.

    Raises:
        InputError: an existing folder, runs that are not evaluated or cannot be compared, an unknown reference, or a
            damaged audit.
    """
    output = OutputFolder(config, verb="compare", result=PAGE, resume=resume, overwrite=overwrite)
    # measured before the folder is touched: a run that cannot be read leaves the old report in place
    comparison = compare(config)
    with output.beside() as temporary:
        write_tables(comparison, temporary)
        write_text(render_page(comparison), temporary / PAGE)
        folder = output.claim()
        # the page goes last, since it says that the comparison is whole
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == PAGE):
            os.replace(path, folder / path.name)
    _log(config, comparison, folder)
    _print(comparison)
    say(f"Report: {folder / PAGE}")


def compare(config: CompareConfig) -> Comparison:
    """All that the report shows, measured.

    Raises:
        InputError: runs that are not evaluated or cannot be compared, an unknown reference, or a damaged audit.
    """
    runs = read_runs(config.runs)
    reference, audits = find_reference(runs, config.reference), read_audits(config.audits)
    # examples show every run's verdict, so all need the set
    examples_set = common_sets(runs)[0]
    return Comparison(
        title=config.title,
        note=config.note,
        runs=runs,
        reference=reference.name,
        rows=comparison_rows(runs, resamples=config.bootstrap, seed=config.seed),
        seeds=seed_rows(runs, resamples=config.bootstrap, seed=config.seed),
        differences=difference_rows(runs, reference, resamples=config.bootstrap, seed=config.seed),
        audits=audits,
        examples_set=examples_set,
        examples=choose_examples(runs, examples_set, config.examples, config.seed),
    )


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Writes the comparison's CSV files, each with its head even where it has no rows."""
    audits = [row for audit in comparison.audits for row in audit.rows()]
    tables: dict[str, tuple[Sequence[str], Sequence[Row]]] = {
        "comparison": (COMPARISON_COLUMNS, comparison.rows),
        "seeds": (SEED_COLUMNS, comparison.seeds),
        "differences": (DIFFERENCE_COLUMNS, comparison.differences),
        "learning_curves": (CURVE_COLUMNS, curve_rows(comparison.runs)),
        "audits": (AUDIT_COLUMNS, audits),
    }
    for name, (columns, rows) in tables.items():
        write_text(csv_text(columns, rows), folder / f"{name}.csv")


def _log(config: CompareConfig, comparison: Comparison, folder: Path) -> None:
    # checked here as well, since W&B is imported next
    if config.logging.wandb == "disabled":
        return
    import wandb

    from experiments.runs.tracking import wandb_logger

    logger = wandb_logger(config.logging, folder=folder, name=config.title, job_type="compare", settings=config)
    assert logger is not None
    rows = [[row[column] for column in COMPARISON_COLUMNS] for row in comparison.rows]
    logger.experiment.log({"compare/comparison/table": wandb.Table(columns=list(COMPARISON_COLUMNS), data=rows)})
    logger.experiment.summary.update(
        {
            f"compare/{row['set']}/{row['run']}.{row['negative_type']}_{key}": row[key]
            for row in comparison.rows
            for key in ("accuracy", "blind_accuracy")
        }
    )
    logger.experiment.summary.update(
        {
            f"compare/{row['set']}/{row['run']}.training_pairs": (
                "not known" if row["training_pairs"] is None else row["training_pairs"]
            )
            for row in comparison.rows
            if row["negative_type"] == MEAN
        }
    )
    logger.experiment.finish()


def _print(comparison: Comparison) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    types = types_in_order([row["negative_type"] for row in comparison.rows])
    # what many seeds have in common says more than each of them; the page has them all
    methods = by_method(comparison.runs)
    # runs that are no seed of a method stand for themselves
    alone = {run.name for run in comparison.runs} - {run.name for runs in methods.values() for run in runs}
    rows = [row for row in comparison.rows if row["run"] in alone] + [*comparison.seeds]
    for name in dict.fromkeys(row["set"] for row in rows):
        table = Table(title=Text(f"{name}: accuracy [95 % interval], and blind, on noise images"), box=SIMPLE)
        for heading in ("negative type", "run", "accuracy", *["seeds"] * bool(methods), "blind"):
            table.add_column(heading, justify="left" if heading in ("negative type", "run") else "right")
        # "mean" is last in order, and first to read
        for negative_type in (*types[-1:], *types[:-1]):
            own = [row for row in rows if (row["set"], row["negative_type"]) == (name, negative_type)]
            for position, row in enumerate(own):
                # a single run has no spread over seeds
                seeds = [f"{row['lowest_seed']:.3f} - {row['highest_seed']:.3f}" if "method" in row else ""]
                shown = (_shown(row, ""), *seeds[: bool(methods)], _shown(row, "blind_"))
                cells = ("" if position else negative_type, row["method"] if "method" in row else row["run"], *shown)
                table.add_row(*map(Text, cells))
        Console().print(table)
        for line in overlap_lines(comparison.rows, name):
            say(f"{name}: {line}")


def _shown(row: Row, prefix: str) -> str:
    return f"{row[f'{prefix}accuracy']:.3f} [{row[f'{prefix}low']:.3f}, {row[f'{prefix}high']:.3f}]"
