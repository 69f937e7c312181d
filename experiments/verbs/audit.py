"""`itm audit`: how much of the label the text alone gives away, and what in the texts does it.

Writes `index.html`, and `audit.json`: `{"harmonised": bool, "left_out": int, "parts": [{"name": "all" | "kept", ...}]}`
where a part holds the attributes of `audit.Audit`; "kept", what a filter kept, follows "all" where verdicts are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from experiments.build import plan_of
from experiments.config.filter_schemas import AuditConfig
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import counter, say, shown, tracker
from experiments.runs.tracking import wandb_logger
from negatives.filtering import AuditPlan
from negatives.judging import build_judges
from negatives.tables import (
    is_harmonised,
    pair_table,
    pair_verdicts_beside,
    read_captions,
    read_negatives,
    read_pair_verdicts,
    read_verdicts,
    text_table,
    with_paraphrases,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from negatives.filtering import Audit
    from negatives.judging import TextPairs

REPORT_FILE, PAGE = "audit.json", "index.html"
ALL, KEPT = "all", "kept"


class Tables(NamedTuple):
    """What is audited.

    Attributes:
        captions, negatives: the tables, with `source_caption_id` where there are paraphrases.
        harmonised: whether the negatives have taken their positives' style.
        left_out: items of a benchmark that do not count as valid.
    """

    captions: pa.Table
    negatives: pa.Table
    harmonised: bool
    left_out: int


def run(config: AuditConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Audits the texts, and beside them those that a filter kept; prints the result, writes `audit.json` and the page.

    Raises:
        InputError: an existing folder, unusable tables or annotations, verdicts of other texts, or texts that cannot be
            judged.
    """
    output = OutputFolder(config, verb="audit", result=REPORT_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    tables = read_audited(config)
    audits = audit_parts(config, tables)
    folder = output.claim()
    _print(audits)
    _log(config, audits, folder)
    _write_page(config, tables, audits, folder / PAGE)
    parts = [{"name": name, **audit.to_json()} for name, audit in audits.items()]
    result = {"harmonised": tables.harmonised, "left_out": tables.left_out, "parts": parts}
    write_json(result, folder / REPORT_FILE)  # last: it says that the folder is finished
    say(f"Audit: {folder / PAGE}")


def read_audited(config: AuditConfig) -> Tables:
    """The configured tables or benchmark, with paraphrases, harmonised where asked or where the filter did.

    Raises:
        InputError: unusable tables or annotations.
    """
    from datamodules.benchmarks import BENCHMARKS, as_pairs, read_benchmark

    left_out, benchmark = 0, BENCHMARKS[config.format]
    # our own tables, which may have paraphrases
    if not benchmark.published and "captions" in benchmark.inputs:
        assert config.captions is not None
        assert config.negatives is not None
        captions = read_captions(config.captions)
        if config.paraphrases is not None:
            captions = with_paraphrases(captions, config.paraphrases)
        negatives = read_negatives(config.negatives, captions)
    else:
        given = {key: getattr(config, key) for key in benchmark.inputs}
        pairs = as_pairs(read_benchmark(config.format, **given, texts_only=True), texts_only=True)
        # a benchmark has no paraphrases, and its images are not needed
        captions, negatives, left_out = pairs.captions, pairs.negatives, pairs.left_out
    harmonised = config.harmonise
    if harmonised is None:
        # style that the filter took away must not come back as a giveaway of what it kept
        harmonised = config.verdicts is not None and is_harmonised(config.verdicts) is True
    if harmonised:
        from negatives.filtering import harmonise_table

        negatives = harmonise_table(captions, negatives, tracker("Harmonising"))
    return Tables(captions, negatives, harmonised, left_out)


def audit_parts(config: AuditConfig, tables: Tables) -> dict[str, Audit]:
    """The audit of "all" texts and, where verdicts are given, of those "kept".

    Raises:
        InputError: verdicts of other texts, or texts that cannot be judged.
    """
    from negatives.filtering import audit_texts, measurable
    from negatives.judging import build_text_pairs, fits, seat

    texts, pairs = text_table(tables.captions, tables.negatives), pair_table(tables.captions, tables.negatives)
    text_pairs = build_text_pairs(texts, pairs)
    verdicts = None if config.verdicts is None else _kept(text_pairs, Path(config.verdicts), texts, pairs)
    judge, plan = config.judge, plan_of(AuditPlan, config)
    panel = seat(build_judges(judge.judges, judge), text_pairs, folds=judge.folds, workers=judge.workers)
    # "kept" comes last: reports take the last part as what is trained on
    parts = {ALL: panel} if verdicts is None else {ALL: panel, KEPT: panel.subset(*verdicts)}
    audits = {}
    for name, part in parts.items():
        # a progress bar needs the number of fits beforehand
        metrics = measurable(part, plan)
        with counter(f"Judges on {name}", fits(len(part.judges), part.folds, len(metrics))) as advance:
            audits[name] = audit_texts(replace(part, advance=advance), plan, ngrams=judge.word_ngrams)
    return audits


def _kept(text_pairs: TextPairs, path: Path, texts: pa.Table, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    from negatives.filtering import keep_of

    keep = read_verdicts(path, texts)["keep"].to_numpy(zero_copy_only=False)
    beside = pair_verdicts_beside(path)
    if beside is None:
        # a filter of unit text: a pair is kept where both of its texts are
        return keep_of(text_pairs, keep)
    return keep_of(text_pairs, keep, read_pair_verdicts(beside, pairs)["keep"].to_numpy(zero_copy_only=False))


def _write_page(config: AuditConfig, tables: Tables, audits: Mapping[str, Audit], path: Path) -> None:
    from datamodules.benchmarks import BENCHMARKS
    from experiments.report.audit_page import AuditPage, render_audit_page

    benchmark = BENCHMARKS[config.format]
    beside = ("verdicts",) if benchmark.published else ("paraphrases", "verdicts")
    sources = [name for key in (*benchmark.inputs, *beside) if (name := getattr(config, key)) is not None]
    page = AuditPage(sources=sources, harmonised=tables.harmonised, left_out=tables.left_out, parts=audits)
    write_text(render_audit_page(page), path)


def _print(audits: Mapping[str, Audit]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from negatives.judging import BIAS_METRICS

    console = Console()
    for name, audit in audits.items():
        table = Table(
            title=f"Text alone, {name}: {audit.positives} positives, {audit.negatives} negatives, {audit.pairs} pairs, "
            f"{audit.images} images",
            box=SIMPLE_HEAD,
            padding=(0, 1),
            pad_edge=False,
        )
        for heading in ("judge, type", "AUC", "texts", "paired accuracy", "pairs"):
            table.add_column(heading, justify="left" if heading.startswith("judge") else "right")
        others = [(judge, judge, ALL) for judge in audit.judges if judge != audit.judge]
        own = [(audit.judge if name == ALL else f" {name}", audit.judge, name) for name in audit.types]
        for heading, judge, negative_type in [*others, *own]:
            cells = [cell for metric in BIAS_METRICS for cell in _cells(audit, metric, negative_type, judge)]
            # Text, since a type's name may hold brackets, which rich would read as styles
            table.add_row(*map(Text, (shown(heading), *cells)))
        console.print(table)
        # markup=False: captions may hold brackets, which rich would read as styles
        for label, ngrams in audit.ngrams.items():
            words = ", ".join(f"{item.ngram} ({item.positives}:{item.negatives})" for item in ngrams[:8])
            console.print(f"{label} (in positives : in negatives): {shown(words) or 'nothing'}", markup=False)


def _cells(audit: Audit, metric: str, negative_type: str, judge: str) -> tuple[str, str]:
    """Value with interval, and count, as the table shows them."""
    found = audit.find(metric, negative_type, judge)
    # too few texts or pairs of the type
    if found is None or np.isnan(found.value):
        return "–", "–" if found is None else str(found.count)
    interval = "" if found.low is None or found.high is None else f" {found.low:.3f}–{found.high:.3f}"
    return f"{found.value:.3f}{interval}", str(found.count)


def _log(config: AuditConfig, audits: Mapping[str, Audit], folder: Path) -> None:
    """Tables of all parts, and the headline judge's numbers of the last one."""
    logger = wandb_logger(config.logging, folder=folder, name=folder.name, job_type="audit", settings=config)
    if logger is None:
        return
    import wandb

    from experiments.report.audit_page import audit_tables

    tables = {
        f"audit/{name}": wandb.Table(columns=list(columns), data=rows)
        for name, (columns, rows) in audit_tables(audits).items()
    }
    # the part that would be trained on
    last = list(audits.values())[-1]
    metrics = {
        f"audit/{estimate.negative_type}/{estimate.metric}": estimate.value
        for estimate in last.estimates
        if estimate.judge == last.judge and not np.isnan(estimate.value)
    }
    logger.experiment.log({**tables, **metrics})
    logger.experiment.finish()
