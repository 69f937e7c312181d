"""`itm filter`: keeps the texts or pairs on which text alone says nothing, and certifies what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from experiments.build import plan_of
from experiments.config.filter_schemas import FilterConfig
from experiments.exit_codes import DONE, MISSED
from experiments.report.card_sources import find_certificate
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import counter, say
from experiments.runs.tracking import wandb_logger
from negatives.filtering import FilterPlan
from negatives.judging import build_judges
from negatives.tables import (
    PAIR_VERDICT_SCHEMA,
    PAIR_VERDICTS_FILE,
    VERDICT_SCHEMA,
    InputError,
    pair_table,
    read_captions,
    read_negatives,
    strings,
    text_table,
    with_paraphrases,
    write_json,
    write_table,
    write_text,
)

if TYPE_CHECKING:
    from negatives.filtering import Certificate, Filtered, Lesson, Rotated
    from negatives.judging import Panel, TextPairs

VERDICTS_FILE = "verdicts.parquet"
CERTIFICATE_FILE = "certificate.json"
PAGE = "index.html"


def run(config: FilterConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Judges every text or pair by models that saw no other text of its image, applies the rule, writes verdicts.

    Returns:
        The exit code: 1 where what is kept teaches a blind learner something, or is not shown to teach nothing.

    Raises:
        InputError: the folder is in use, an input is unusable, or nothing would be kept.
    """
    from negatives.filtering import harmonise_table
    from negatives.judging import build_text_pairs

    # how a certificate would have been made says nothing of a folder without one
    free = () if config.certify else ("certificate",)
    output = OutputFolder(
        config, verb="filter", result=VERDICTS_FILE, resume=resume, overwrite=overwrite, may_differ=free
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return _finished(config, output.path)
    captions = read_captions(config.captions)
    if config.paraphrases is not None:
        captions = with_paraphrases(captions, config.paraphrases)
    negatives = read_negatives(config.negatives, captions)
    if config.harmonise:
        negatives = harmonise_table(captions, negatives)
    texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
    # rows that repeat a text become one; the verdict of that text goes to each of its rows below
    text_pairs = build_text_pairs(texts, pairs)
    # all that may be refused is refused before the folder is claimed
    filtered, certificate = _filter(config, text_pairs)
    folder = output.claim()
    metadata = {"harmonised": "true" if config.harmonise else "false", "unit": config.unit, "rule": config.rule}
    metadata["constant"] = str(filtered.constant)
    if filtered.strengths is not None:
        metadata["strengths"] = json.dumps(filtered.strengths)
    if config.unit != "text":
        write_table(_pair_verdicts(text_pairs, filtered, pairs, metadata), folder / PAIR_VERDICTS_FILE)
    if certificate is not None:
        chosen = {"rule": config.rule, "constant": filtered.constant, "strengths": filtered.strengths}
        write_json(chosen | certificate.to_json(), folder / CERTIFICATE_FILE)
        _log(config, certificate, folder)
    _write_page(config, text_pairs, filtered, certificate, folder / PAGE)
    # last: it says that the folder is finished, and never stands beside older verdicts on pairs
    write_table(_verdicts(text_pairs, filtered, texts, metadata), folder / VERDICTS_FILE)
    return _report(config, text_pairs, filtered, certificate, folder)


def _finished(config: FilterConfig, folder: Path) -> int:
    """The exit code of a run that is done: its certificate still says what it said.

    Raises:
        InputError: a file that was written before the verdicts is not there, or the certificate is damaged.
    """
    path, pairs = folder / CERTIFICATE_FILE, folder / PAIR_VERDICTS_FILE
    wanted = {path: config.certify, pairs: config.unit != "text"}
    if missing := [file for file, written in wanted.items() if written and not file.is_file()]:
        raise InputError(f"{folder} has verdicts and lost {missing[0].name}; start anew with --overwrite.")
    certificate = find_certificate(path)
    if certificate is None or certificate.balanced:
        return DONE
    say(f"Not balanced: see {path}")
    return MISSED


def _filter(config: FilterConfig, text_pairs: TextPairs) -> tuple[Filtered, Certificate | None]:
    """What is kept and, where one is asked for, its certificate."""
    from negatives.filtering import filter_and_rotate, rotated_fits
    from negatives.judging import seat

    judge, plan = config.judge, plan_of(FilterPlan, config)
    panel = seat(build_judges(judge.judges, judge), text_pairs, folds=judge.folds, workers=judge.workers)
    # same texts, folds and threads, other judges; before the filter's fits, so that a learner's model that cannot be
    # loaded is refused at once
    learners = panel.with_judges(build_judges(config.certificate.probes, judge)) if config.certify else None
    with counter("filter: fits of judges", rotated_fits(panel, plan, certified=config.certify)) as advance:
        filtered, rotated = filter_and_rotate(replace(panel, advance=advance), plan, certified=config.certify)
    if learners is None or rotated is None:
        return filtered, None
    return filtered, _certificate(config, learners, filtered, rotated)


def _certificate(config: FilterConfig, learners: Panel, filtered: Filtered, rotated: Rotated | str) -> Certificate:
    from negatives.filtering import certificate_fits, certify, inside_fits, not_measured, probe_inside

    plan = config.certificate
    inside = None
    if plan.inside:
        with counter("inside: fits of probes", inside_fits(len(plan.probes), plan)) as advance:
            inside = probe_inside(replace(learners, advance=advance), filtered, plan, seed=config.seed)
    if isinstance(rotated, str):
        return not_measured(learners.text_pairs, filtered, f"Nothing is certified. {rotated}", inside)
    with counter("certificate: fits of learners", certificate_fits(learners, config.unit, plan)) as advance:
        learning = replace(learners, advance=advance)
        return certify(learning, filtered, rotated, plan, seed=config.seed, inside=inside)


def _verdicts(text_pairs: TextPairs, filtered: Filtered, texts: pa.Table, metadata: dict[str, str]) -> pa.Table:
    """One row for each row of the text table."""
    # row of the table -> its text
    rows = text_pairs.text_of
    columns = [strings(texts, "text_id"), text_pairs.labels[rows]]
    columns += [part[rows] for part in (filtered.fold, filtered.oof_score, filtered.keep_probability, filtered.keep)]
    table = pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)
    return table.replace_schema_metadata(metadata)


def _pair_verdicts(text_pairs: TextPairs, filtered: Filtered, pairs: pa.Table, metadata: dict[str, str]) -> pa.Table:
    """One row for each row of the pair table."""
    parts = (filtered.pair_fold, filtered.pair_score, filtered.pair_keep_probability, filtered.pair_keep)
    columns = [
        strings(pairs, "caption_id"),
        strings(pairs, "negative_id"),
        *(part[text_pairs.pair_of] for part in parts),
    ]
    table = pa.table(dict(zip(PAIR_VERDICT_SCHEMA.names, columns, strict=True)), schema=PAIR_VERDICT_SCHEMA)
    return table.replace_schema_metadata(metadata)


def _write_page(
    config: FilterConfig, text_pairs: TextPairs, filtered: Filtered, certificate: Certificate | None, path: Path
) -> None:
    from experiments.report.filtered.page import FilterPage, render_filter_page

    origin = {"Unit": config.unit, "Rule": config.rule, "Captions": config.captions, "Negatives": config.negatives}
    if filtered.constant is not None:
        origin["Constant"] = f"{filtered.constant:.3g}"
    page = FilterPage(
        origin=origin,
        harmonised=config.harmonise,
        text_pairs=text_pairs,
        filtered=filtered,
        plan=config.certificate,
        certificate=certificate,
        seed=config.seed,
    )
    write_text(render_filter_page(page), path)


def _report(
    config: FilterConfig, text_pairs: TextPairs, filtered: Filtered, certificate: Certificate | None, folder: Path
) -> int:
    from negatives.filtering import retention

    parts = [
        f"{kept.kept} of {kept.of} {name} ({kept.share:.1%})" if kept.of else f"0 {name}"
        for name, kept in retention(text_pairs, filtered).items()
        if name in ("pairs", "texts", "positives", "negatives")
    ]
    how = "" if filtered.constant is None else f", constant {filtered.constant:.3g}"
    if filtered.strengths is not None:
        how = f" ({', '.join(f'{name} {share:.0%} dropped' for name, share in filtered.strengths.items())})"
    say(f"Page: {folder / PAGE}")
    say(f"Kept {', '.join(parts)} by {config.rule}{how}: {folder / VERDICTS_FILE}")
    if certificate is None:
        # exit code 0: it was not asked for
        say("Not certified: what is left in the texts was not measured.")
        return DONE
    _print(certificate)
    if certificate.balanced:
        say(f"Balanced: what is kept teaches no blind learner. {folder / CERTIFICATE_FILE}")
        return DONE
    first, *others = certificate.misses
    more = f" ({len(others)} more)" if others else ""
    say(f"Not balanced: {first}{more}. {folder / CERTIFICATE_FILE}")
    return MISSED


def _print(certificate: Certificate) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What blind learners of the kept texts get on untouched pairs of other photos (0.5: a coin)")
    for heading in ("learner", "pairs", "kept", "95 %", "random, as large", "everything"):
        table.add_column(heading, justify="left" if heading in ("learner", "pairs") else "right")
    for one in _worst(certificate.lessons):
        cells = [_cell(one.value), f"{_cell(one.low)} - {_cell(one.high)}", _cell(one.control), _cell(one.everything)]
        table.add_row(f"{one.learner.judge}, of {one.learner.reads}s", one.group, *cells)
    if certificate.lessons:
        Console().print(table)


def _worst(lessons: Sequence[Lesson]) -> Iterator[Lesson]:
    """Each learner over all pairs; of each other group the learner that is furthest from a coin."""
    groups = dict.fromkeys(one.group for one in lessons)
    for group in groups:
        own = [one for one in lessons if one.group == group]
        # certificate.json has all of them
        yield from own if group == "all" else [max(own, key=lambda one: abs(one.value - 0.5))]


def _cell(value: float) -> str:
    # NaN: nothing to measure on
    return "-" if value != value else f"{value:.3f}"


def _log(config: FilterConfig, certificate: Certificate, folder: Path) -> None:
    logger = wandb_logger(config.logging, folder=folder, name=folder.name, job_type="filter", settings=config)
    if logger is None:
        return
    import wandb

    metrics: dict[str, float] = {f"filter/{name}/kept": kept.share for name, kept in certificate.retention.items()}
    metrics |= {
        f"certificate/{one.learner.judge}_{one.learner.reads}/taught": one.value
        for one in certificate.lessons
        if one.group == "all"
    }
    # without NaN
    logger.log_metrics({name: value for name, value in metrics.items() if value == value})
    columns: list[str | int] = [
        "set",
        "judge",
        "reads",
        "group",
        "value",
        "low",
        "high",
        "random",
        "everything",
        "count",
    ]
    rows = [
        [name, *one.learner, one.group, one.value, one.low, one.high, one.control, one.everything, one.count]
        for name, found in (("teaching", certificate.lessons), ("leaking", certificate.leaks))
        for one in found
    ]
    tables = {"certificate/estimates": wandb.Table(columns=columns, data=rows)}
    if points := [one.to_json() for one in certificate.frontier]:
        tables["certificate/frontier"] = wandb.Table(columns=list(points[0]), data=[[*one.values()] for one in points])
    logger.experiment.log(tables)
    logger.experiment.finish()
