"""`itm audit`: how much of the label the text alone gives away, and which words do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.build import wandb_logger
from experiments.outputs import OutputFolder
from experiments.progress import say
from experiments.schemas import AuditConfig
from negatives.records import read_captions, read_negatives, read_verdicts, text_table, write_json

REPORT_FILE = "audit.json"


def run(config: AuditConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Audits the texts, all or those kept by a filter, prints the result and writes `audit.json`."""
    from negatives.audit import audit_texts

    output = OutputFolder(config, verb="audit", result=REPORT_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    captions = read_captions(config.captions)
    negatives = read_negatives(config.negatives, captions)
    texts = text_table(captions, negatives)
    keep = None
    if config.verdicts is not None:
        keep = read_verdicts(config.verdicts, texts)["keep"].to_numpy(zero_copy_only=False)
    audit = audit_texts(
        texts,
        negatives,
        keep,
        folds=config.judge.folds,
        ngrams=config.judge.ngrams,
        regularisation=config.judge.regularisation,
        top=config.top,
        seed=config.seed,
    )
    folder = output.claim()
    _print(audit)
    _log(config, audit, folder)
    write_json(audit.to_json(), folder / REPORT_FILE)
    say(f"Audit: {folder / REPORT_FILE}")


def _print(audit: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    low, high = audit.auc_interval
    table = Table(
        title=f"Text alone: AUC {audit.auc:.3f} [{low:.3f}, {high:.3f}] on {audit.positives} positives and "
        f"{audit.negatives} negatives of {audit.images} images"
    )
    for heading in ("negative type", "AUC", "negatives", "paired accuracy", "pairs"):
        table.add_column(heading, justify="left" if heading == "negative type" else "right")
    for name, part in audit.types.items():
        paired = "" if part.paired_accuracy is None else f"{part.paired_accuracy:.3f}"
        table.add_row(name, f"{part.auc:.3f}", str(part.negatives), paired, str(part.pairs))
    console = Console()
    console.print(table)
    for label, ngrams in audit.leaking.items():
        words = ", ".join(f"{item.ngram} ({item.positives}:{item.negatives})" for item in ngrams[:8])
        console.print(f"{label} (in positives : in negatives): {words}", markup=False)


def _log(config: AuditConfig, audit: Any, folder: Path) -> None:
    logger = wandb_logger(config.logging, folder=folder, name=folder.name, job_type="audit", settings=config)
    if logger is None:
        return
    types = {f"audit/{name}/auc": part.auc for name, part in audit.types.items()}
    logger.log_metrics({"audit/all/auc": audit.auc, **types})
    logger.experiment.finish()
