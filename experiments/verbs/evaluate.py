"""`itm evaluate`: a trained run on benchmarks, always with its blind control.

Writes `summary.json`, `metrics.csv` and, for each set, `pairs.parquet` (one row for every positive and negative, with
the logits on the image and on noise) and `scores.parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.build import build_pairs, load_run
from experiments.config.evaluation_schemas import EvaluateConfig, EvaluationConfig
from experiments.report.csv_files import csv_text
from experiments.report.intervals import Interval
from experiments.report.read_runs import SUMMARY_FILE
from experiments.runs.devices import resolve_device
from experiments.runs.fingerprint import fingerprint
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.runs.tracking import wandb_logger
from experiments.runs.train_images import (
    TRAIN_IMAGES_FILE,
    Overlap,
    find_overlap,
    ids_in_tables,
    images_of_pairs,
    read_train_images,
)
from lightning_modules import describe_kept, run_label
from negatives.tables import InputError, quoted, write_json, write_table, write_text

if TYPE_CHECKING:
    from datamodules.benchmarks import Pairs


def run(config: EvaluateConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Scores every set on its images and on noise, and writes accuracies with 95 % intervals over images.

    Raises:
        InputError: the run is unfinished, has no sets, a set cannot be read, or nothing is left of it.
    """
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
    read = {name: build_pairs(pairs) for name, pairs in evaluation.sets.items()}
    overlaps = find_overlaps(config, experiment.data.captions, read)
    sets = without_training_images(read, overlaps) if config.exclude_training_images else read
    folder = output.claim()
    scorer = fingerprint(module, experiment.model, Path(config.run), config.checkpoint)
    metrics: list[dict[str, Any]] = []
    weights = describe_kept(Path(config.run), config.checkpoint)
    summary: dict[str, Any] = {"run": experiment.name, "checkpoint": weights, "sets": {}, "scorer": scorer}
    for name, pairs in sets.items():
        table = score_pairs(module, pairs, folder / name, scorer, evaluation, device, config.seed)
        overlap = overlaps.get(name)
        rows = set_metrics(name, table, evaluation.bootstrap, config.seed, overlap.training_images if overlap else None)
        metrics += rows
        # printed, or accuracies of two machines with other images would be compared as one
        if pairs.left_out:
            say(f"{name}: {pairs.left_out} items of the benchmark are left out: not valid, or without their image")
        summary["sets"][name] = _set_summary(pairs, table, rows, overlap)
        summary["sets"][name]["excluded_pairs"] = len(read[name].negatives) - len(table)
    write_text(csv_text(list(metrics[0]), metrics), folder / "metrics.csv")
    name = run_label(experiment.name, weights)
    _log(config, name, folder, metrics, summary["sets"])
    # last: it says that the folder is finished
    write_json(summary, folder / SUMMARY_FILE)
    say_cut(module)
    _print(name, metrics)


def find_overlaps(config: EvaluateConfig, captions: str | list[str], sets: dict[str, Pairs]) -> dict[str, Overlap]:
    """What each set has in common with the images that the run was trained on, printed too; empty where not known.

    Args:
        config: of the evaluation.
        captions: the captions tables that the run names, which are asked where the run has no record of its images.
        sets: name -> pairs.

    Raises:
        InputError: the record is damaged, or there is none and training images are to be excluded.
    """
    recorded = read_train_images(Path(config.run))
    if recorded is None:
        unknown = f"{config.run} has no {TRAIN_IMAGES_FILE}, which images it was trained on is not known"
        if config.exclude_training_images:
            raise InputError(f"{unknown}; leave exclude_training_images out, or train the run again.")
        ids = ids_in_tables(captions)
        for name, pairs in sets.items():
            # a hint and no number: equal ids may name other images, and other ids the same
            same = sorted(ids.intersection(images_of_pairs(pairs)))
            hint = f"; its captions have {len(same)} of the set's image ids, such as {quoted(same[0])}" if same else ""
            say(f"{name}: {unknown}{hint}")
        return {}
    overlaps = {name: find_overlap(recorded, pairs, name) for name, pairs in sets.items()}
    remedy = "" if config.exclude_training_images else "; exclude_training_images=true leaves them out"
    for name, overlap in overlaps.items():
        if overlap.training_images:
            say(f"{name}: {overlap}{remedy}")
    return overlaps


def without_training_images(sets: dict[str, Pairs], overlaps: dict[str, Overlap]) -> dict[str, Pairs]:
    """The sets without the pairs of images that the run was trained on; says how many are left.

    Raises:
        InputError: none is left of a set.
    """
    from datamodules.benchmarks import select_captions

    kept = {}
    for name, pairs in sets.items():
        known, before = overlaps[name].training_images, len(pairs.negatives)
        kept[name] = select_captions(
            pairs, pa.array([image not in known for image in pairs.captions["image_id"].to_pylist()])
        )
        if not (left := len(kept[name].negatives)):
            raise InputError(
                f"evaluation.sets.{name} must have images that the run was not trained on, all of its {before} pairs "
                "are of training images; give another set, or leave exclude_training_images out."
            )
        say(f"{name}: {left} of {before} pairs are left without the training images")
    return kept


def score_pairs(
    module: Any,
    pairs: Any,
    folder: Path,
    scorer: dict[str, str],
    evaluation: EvaluationConfig,
    device: Any,
    seed: int,
) -> pa.Table:
    """Scores one set on its images and on noise; writes and returns its pairs."""
    from datamodules.sources import ImageRows
    from experiments.runs.scoring import score_rows

    logits, scores = {}, {}
    # The blind control: the same texts on noise of the image's size. What is above chance there, the text gives away.
    for blind in (False, True):
        rows = ImageRows(
            pairs.captions,
            pairs.negatives,
            pairs.root,
            blind_seed=seed if blind else None,
            max_pixels=evaluation.max_pixels,
        )
        label = f"{folder.name}{' blind' if blind else ''}"
        scored = list(score_rows(module, rows, batch_size=evaluation.batch_size, device=device, label=label))
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


def set_metrics(
    name: str, table: pa.Table, resamples: int, seed: int, training_images: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Accuracy and blind accuracy of a set, per negative type and as their unweighted mean, with intervals.

    Args:
        name: of the set.
        table: its pairs, as `score_pairs` returns them.
        resamples, seed: of the bootstrap.
        training_images: ids of the images that the run was trained on; None where that is not known.
    """
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
    # "mean" is over types, and has the pairs of all
    pairs = Counter(types) + Counter(mean=len(types))
    trained = [kind for image, kind in zip(images, types, strict=True) if image in (training_images or ())]
    training_pairs = Counter(trained) + Counter(mean=len(trained))
    return [
        {
            "set": name,
            "negative_type": negative_type,
            **_named(interval, "accuracy", ""),
            **_named(seen["blind_"][negative_type], "blind_accuracy", "blind_"),
            "pairs": pairs[negative_type],
            "training_pairs": None if training_images is None else training_pairs[negative_type],
        }
        for negative_type, interval in seen[""].items()
    ]


def _named(interval: Interval, value: str, prefix: str) -> dict[str, float]:
    return {value: interval.value, f"{prefix}low": interval.low, f"{prefix}high": interval.high}


def _set_summary(pairs: Pairs, table: pa.Table, rows: list[dict[str, Any]], overlap: Overlap | None) -> dict[str, Any]:
    """What `summary.json` says of a set; null where it is not known what the run was trained on."""
    images = set(table["image_id"].to_pylist())
    return {
        "image_root": str(pairs.root.resolve()),
        "pairs": len(table),
        "images": len(images),
        "left_out": pairs.left_out,
        "training_images": None if overlap is None else len(overlap.training_images & images),
        "training_pairs": None if overlap is None else {row["negative_type"]: row["training_pairs"] for row in rows},
        "same_ids_other_content": None if overlap is None else overlap.same_ids,
    }


def _log(
    config: EvaluateConfig, name: str, folder: Path, metrics: list[dict[str, Any]], sets: dict[str, dict[str, Any]]
) -> None:
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
    for key, entry in sets.items():
        known = entry["training_pairs"] is not None
        found = (entry["training_images"], entry["training_pairs"]["mean"]) if known else ("not known",) * 2
        names = (f"evaluate/{key}/training_images", f"evaluate/{key}/training_pairs")
        logger.experiment.summary.update(dict(zip(names, found, strict=True)))
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
