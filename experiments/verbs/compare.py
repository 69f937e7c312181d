"""`itm compare`: evaluated scorers side by side, in tables, plots and one self-contained page.

Writes `index.html`, `comparison.csv`, `comparison.md`, `comparison.tex`, `leaderboard.csv`, `differences.csv`,
`seeds.csv`, `learning_curves.csv` and `audits.csv`. They are built in a folder beside the output folder and moved when
all are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.config.evaluation_schemas import CompareConfig
from experiments.report.audits import AUDIT_COLUMNS, read_audits
from experiments.report.comparison.content import CURVE_COLUMNS, Comparison, compared_runs
from experiments.report.comparison.leaderboard import BOARD_COLUMNS
from experiments.report.comparison.page import render_page
from experiments.report.comparison.panels import COMPARISON_COLUMNS, DIFFERENCE_COLUMNS, SEED_COLUMNS, Draws, Row
from experiments.report.comparison.reading.runs import read_runs
from experiments.report.comparison.tables import comparison_latex, comparison_markdown
from experiments.report.comparison.terminal import print_comparison
from experiments.report.csv_files import csv_text
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.runs.wandb_id import ID_FILE
from negatives.tables import write_text

PAGE = "index.html"


def run(config: CompareConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Compares the scorers and writes the report; with `resume` an older report is replaced by a new one.

    Raises:
        InputError: an existing folder, scorers that are not evaluated or cannot be compared, an unknown reference, or a
            damaged audit.
    """
    # made anew, it is the same comparison to W&B
    output = OutputFolder(config, verb="compare", result=PAGE, resume=resume, overwrite=overwrite, kept=(ID_FILE,))
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
    print_comparison(comparison)
    say(f"Report: {folder / PAGE}")


def compare(config: CompareConfig) -> Comparison:
    """All that the report shows, measured.

    Raises:
        InputError: scorers that are not evaluated or cannot be compared, an unknown reference, or a damaged audit.
    """
    return compared_runs(
        read_runs(config.runs),
        title=config.title,
        note=config.note,
        reference=config.reference,
        audits=read_audits(config.audits),
        examples=config.examples,
        draws=Draws(config.bootstrap, config.seed, config.debias),
        missing=config.missing,
    )


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Writes the comparison's tables; CSV files each with their head even where there are no rows."""
    board = comparison.board
    differences = [*board.differences, *(row for panel in comparison.panels for row in panel.differences)]
    tables: dict[str, tuple[Sequence[str], Sequence[Row]]] = {
        "comparison": (COMPARISON_COLUMNS, _run_rows(comparison)),
        "leaderboard": (BOARD_COLUMNS, [place.row() for place in board.places]),
        "seeds": (SEED_COLUMNS, [row for panel in comparison.panels for row in panel.seeds]),
        "differences": (DIFFERENCE_COLUMNS, differences),
        "learning_curves": (CURVE_COLUMNS, comparison.curves),
        "audits": (AUDIT_COLUMNS, [row for audit in comparison.audits for row in audit.rows()]),
    }
    for name, (columns, rows) in tables.items():
        write_text(csv_text(columns, rows), folder / f"{name}.csv")
    write_text(comparison_markdown(comparison), folder / "comparison.md")
    write_text(comparison_latex(comparison), folder / "comparison.tex")


def _run_rows(comparison: Comparison) -> list[Row]:
    return [{name: row[name] for name in COMPARISON_COLUMNS} for panel in comparison.panels for row in panel.runs]


def _log(config: CompareConfig, comparison: Comparison, folder: Path) -> None:
    # checked here as well, since W&B is imported next
    if config.logging.wandb == "disabled":
        return
    import wandb

    from experiments.runs.tracking import wandb_logger

    logger = wandb_logger(config.logging, folder=folder, name=config.title, job_type="compare", settings=config)
    assert logger is not None
    rows = _run_rows(comparison)
    data = [[row[column] for column in COMPARISON_COLUMNS] for row in rows]
    logger.experiment.log({"compare/comparison/table": wandb.Table(columns=list(COMPARISON_COLUMNS), data=data)})
    values: dict[str, Any] = {}
    for row in rows:
        place, name = f"compare/{row['set']}/{row['run']}", f"{row['group'] or 'all'}_"
        values |= {
            f"{place}.{name}{row['metric']}": row["value"],
            f"{place}.{name}blind_{row['metric']}": row["blind_value"],
        }
        if row["group"] == "":
            known = row["training_pairs"] is not None
            values[f"{place}.training_pairs"] = row["training_pairs"] if known else "not known"
    logger.experiment.summary.update({name: value for name, value in values.items() if value is not None})
    logger.experiment.finish()
