"""`itm evaluate`: a trained run on benchmarks, always with its blind control.

Writes `summary.json`, `metrics.csv` and, for each set, `pairs.parquet` (one row for every positive and negative, with
the logits on the image and on noise) and `scores.parquet`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments.build import build_pairs, load_run
from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.report.intervals import Interval
from experiments.report.read_runs import SUMMARY_FILE
from experiments.runs.devices import resolve_device
from experiments.runs.fingerprint import fingerprint
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.runs.tracking import wandb_logger
from lightning_modules import LAST, describe_kept, kept_name
from negatives.tables import InputError, write_json, write_table, write_text


def run(config: EvaluateConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Scores every set on its images and on noise, and writes accuracies with 95 % intervals over images.

    Raises:
        InputError: the run is unfinished, has no sets, or a set cannot be read.
    """
    if config.checkpoint != LAST and config.output_dir == f"{config.run}/evaluation":
        config = replace(config, output_dir=f"{config.run}/evaluation_{config.checkpoint}")
    output = OutputFolder(config, verb="evaluate", result=SUMMARY_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    from experiments.runs.scoring import say_cut

    device = resolve_device(config.accelerator)
    module, experiment = load_run(Path(config.run), score=config.score, checkpoint=config.checkpoint)
    evaluation = replace(config.evaluation, sets=config.evaluation.sets or experiment.evaluation.sets)
    if not evaluation.sets:
        raise InputError(
            f"{config.run}: no set to evaluate on; give `captions` and `negatives` of evaluation.sets.NAME, in the "
            "run's or in this configuration."
        )
    # all are read before the first is scored: a wrong path in the last one is found now, not hours later
    sets = {name: build_pairs(pairs) for name, pairs in evaluation.sets.items()}
    folder = output.claim()
    scorer = fingerprint(module, experiment.model, Path(config.run), config.checkpoint)
    metrics: list[dict[str, Any]] = []
    weights = describe_kept(Path(config.run), config.checkpoint)
    summary: dict[str, Any] = {"run": experiment.name, "checkpoint": weights, "sets": {}, "scorer": scorer}
    for name, pairs in sets.items():
        table = score_pairs(module, pairs, folder / name, scorer, evaluation.batch_size, device, config.seed)
        metrics += set_metrics(name, table, evaluation.bootstrap, config.seed)
        images = len(set(table["image_id"].to_pylist()))
        # said, or accuracies of two machines with other images would be compared as one
        if pairs.left_out:
            say(f"{name}: {pairs.left_out} items of the benchmark are left out: not valid, or without their image")
        summary["sets"][name] = {"image_root": str(pairs.root.resolve()), "pairs": len(table), "images": images}
        summary["sets"][name]["left_out"] = pairs.left_out
    write_text(_csv(metrics), folder / "metrics.csv")
    name = kept_name(experiment.name, weights)
    _log(config, name, folder, metrics)
    # last: it says that the folder is finished
    write_json(summary, folder / SUMMARY_FILE)
    say_cut(module)
    _print(name, metrics)


def score_pairs(
    module: Any, pairs: Any, folder: Path, scorer: dict[str, str], batch_size: int, device: Any, seed: int
) -> pa.Table:
    """Scores one set on its images and on noise; writes and returns its pairs."""
    from datamodules.sources import ImageRows
    from experiments.runs.scoring import score_rows

    logits, scores = {}, {}
    # The blind control: the same texts on noise of the image's size. What is above chance there, the text gives away.
    for blind in (False, True):
        rows = ImageRows(pairs.captions, pairs.negatives, pairs.root, blind_seed=seed if blind else None)
        label = f"{folder.name}{' blind' if blind else ''}"
        scored = list(score_rows(module, rows, batch_size=batch_size, device=device, label=label))
        logits[blind] = {item.text_id: item.logit for item in scored}
        if not blind:
            scores = {item.text_id: item.score for item in scored}
            # the scorer's fingerprint goes with its scores, for whoever finds the file elsewhere
            scores_table = pa.Table.from_pylist([asdict(item) for item in scored])
            write_table(scores_table.replace_schema_metadata(scorer), folder / "scores.parquet")
    table = _pair_table(pairs, logits, scores)
    write_table(table, folder / "pairs.parquet")
    return table


def _pair_table(pairs: Any, logits: dict[bool, dict[str, float]], scores: dict[str, float]) -> pa.Table:
    captions = {row["caption_id"]: row for row in pairs.captions.to_pylist()}
    rows = []
    for negative in pairs.negatives.to_pylist():
        positive = captions[negative["caption_id"]]
        # as `ImageRows` names texts: ids of captions and negatives may be equal
        true, false = f"caption:{positive['caption_id']}", f"negative:{negative['negative_id']}"
        rows.append(
            {
                **{key: positive[key] for key in ("image_id", "image", "caption_id", "caption")},
                "negative_id": negative["negative_id"],
                "negative_type": negative["negative_type"],
                "negative_caption": negative["caption"],
                # decisions are taken on logits: scores near 0 or 1 round to ties
                "positive_logit": logits[False][true],
                "negative_logit": logits[False][false],
                "positive_score": scores[true],
                "negative_score": scores[false],
                "blind_positive_logit": logits[True][true],
                "blind_negative_logit": logits[True][false],
            }
        )
    return pa.Table.from_pylist(rows)


def set_metrics(name: str, table: pa.Table, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy and blind accuracy of a set, per negative type and as their unweighted mean, with intervals."""
    from experiments.report.intervals import is_right, type_intervals

    images, types = table["image_id"].to_pylist(), table["negative_type"].to_pylist()
    seen = {
        prefix: type_intervals(
            is_right(table[f"{prefix}positive_logit"], table[f"{prefix}negative_logit"]),
            images,
            types,
            resamples=resamples,
            seed=seed,
        )
        for prefix in ("", "blind_")
    }
    return [
        {
            "set": name,
            "negative_type": negative_type,
            **_named(interval, "accuracy", ""),
            **_named(seen["blind_"][negative_type], "blind_accuracy", "blind_"),
            # "mean" is over types, and has the pairs of all
            "pairs": len(types) if negative_type == "mean" else types.count(negative_type),
        }
        for negative_type, interval in seen[""].items()
    ]


def _named(interval: Interval, value: str, prefix: str) -> dict[str, float]:
    return {value: interval.value, f"{prefix}low": interval.low, f"{prefix}high": interval.high}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    # the default of csv is "\r\n"
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _log(config: EvaluateConfig, name: str, folder: Path, metrics: list[dict[str, Any]]) -> None:
    logger = wandb_logger(config.logging, folder=folder, name=name, job_type="evaluate", settings=config)
    if logger is None:
        return
    logger.log_metrics(
        {
            f"evaluate/{row['set']}/{row['negative_type']}_{key}": row[key]
            for row in metrics
            for key in ("accuracy", "blind_accuracy")
        }
    )
    logger.experiment.finish()


def _print(name: str, metrics: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: accuracy [95 % interval], and on noise images")
    for heading in ("set", "negative type", "accuracy", "blind", "pairs"):
        table.add_column(heading, justify="right" if heading in ("accuracy", "blind", "pairs") else "left")
    for row in metrics:
        table.add_row(
            row["set"],
            row["negative_type"],
            f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['blind_accuracy']:.3f} [{row['blind_low']:.3f}, {row['blind_high']:.3f}]",
            str(row["pairs"]),
        )
    Console().print(table)
