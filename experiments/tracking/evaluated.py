"""An evaluation in W&B: in the run of the training that it is of, or in one of its own folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from experiments.config.evaluation_schemas import EvaluateConfig
from experiments.config.load import load_saved
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import LoggingConfig
from experiments.runs.outputs import CONFIG_FILE
from experiments.runs.tracking import wandb_logger
from experiments.runs.wandb_id import own_id, recorded_id
from experiments.tracking.summary import training_summary
from lightning_modules import LAST
from negatives.tables import InputError

if TYPE_CHECKING:
    from datamodules.benchmarks import Benchmark
    from experiments.scoring.scorer import Scorer
    from experiments.scoring.sets import SetScores

SIDE = 256
"""Longest side of an image in W&B's table, in pixels."""
COLUMNS = ("set", "item", "image", "text", "other_text", "logit", "other_logit", "blind_logit", "outcome")


class Target(NamedTuple):
    """The run of W&B that an evaluation is logged in, with the folder whose id it has."""

    folder: Path
    name: str
    settings: Mapping[str, Any]
    tags: tuple[str, ...]
    logging: LoggingConfig


class Sample(NamedTuple):
    """An item as W&B's table shows it; of a pair `other_text` is the false one."""

    item: str
    image_id: str
    text: str
    other_text: str
    logit: float
    other_logit: float | None
    blind_logit: float | None
    outcome: str


def log_evaluation(
    config: EvaluateConfig,
    folder: Path,
    scorer: Scorer,
    benchmarks: Mapping[str, Benchmark],
    scores: Mapping[str, SetScores],
    metrics: Sequence[Mapping[str, Any]],
    sets: Mapping[str, Mapping[str, Any]],
) -> None:
    """Logs metrics with their intervals and blind values, what is known of contamination, and some of the items.

    Args:
        config: of the evaluation.
        folder: of this scorer's results.
        scorer: that was evaluated.
        benchmarks, scores: by set.
        metrics: rows of `metrics.csv`.
        sets: of `summary.json`.
    """
    if config.logging.wandb == "disabled":
        return
    target = _target(config, folder, scorer)
    # a run of somebody else can be read alone: its id holds all the same
    place = target.folder if os.access(target.folder, os.W_OK) else folder
    logger = wandb_logger(
        target.logging,
        folder=place,
        name=target.name,
        job_type="evaluate" if target.folder == folder else "train",
        settings=target.settings,
        run_id=recorded_id(target.folder) or own_id(place),
        tags=target.tags,
    )
    assert logger is not None
    prefix, run = _prefix(config, scorer), logger.experiment
    with _files_beside(place):
        run.log(_values(prefix, metrics))
        # with that of the training: uploaded, this process's takes its place
        trained = training_summary(scorer.trained.run) if scorer.trained is not None else {}
        run.summary.update(trained | _values(prefix, metrics) | _known(prefix, sets))
        if config.logging.samples:
            run.log({f"{prefix}/samples": _table(benchmarks, scores, config.logging.samples)})
        run.finish()


def _target(config: EvaluateConfig, folder: Path, scorer: Scorer) -> Target:
    """That of the training where the scorer is a run."""
    own, alone = dataclasses.asdict(config), Target(folder, scorer.name, dataclasses.asdict(config), (), config.logging)
    if scorer.trained is None:
        return alone
    run = scorer.trained.run
    try:
        experiment = load_saved(ExperimentConfig, run / CONFIG_FILE)
    except InputError:  # of an older version; its scores are as good
        return alone
    settings = dataclasses.asdict(experiment) | {"evaluate": {k: v for k, v in own.items() if k != "logging"}}
    # in another project, or group, an id would be another run
    there, here = experiment.logging, config.logging
    tags = list(dict.fromkeys([*there.tags, *here.tags]))
    logging = dataclasses.replace(here, project=there.project, group=there.group or here.group, tags=tags)
    return Target(run, experiment.name, settings, (experiment.model.backbone,), logging)


def _prefix(config: EvaluateConfig, scorer: Scorer) -> str:
    """Of all keys: which weights and score they are of, where these are not what the run has by itself.

    A run has one evaluation of each in W&B, wherever their folders are.
    """
    weights = str(scorer.about.get("checkpoint", {}).get("name", LAST))
    return "_".join(["evaluate", *([weights] if weights != LAST else []), *([config.score] if config.score else [])])


def _values(prefix: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for row in metrics:
        name = f"{prefix}/{row['set']}/{row['group']}{'_' if row['group'] else ''}"
        for key in ("value", "low", "high", "blind_value", "blind_low", "blind_high"):
            blind, _, part = key.rpartition("_")
            metric = f"{name}{'blind_' if blind else ''}{row['metric']}{'' if part == 'value' else f'/{part}'}"
            if row[key] is not None:
                found[metric] = row[key]
    return found


def _known(prefix: str, sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of how many images and pairs the scorer was trained on."""
    found: dict[str, Any] = {}
    for key, entry in sets.items():
        pairs = entry["training_pairs"]
        found[f"{prefix}/{key}/training_images"] = "not known" if pairs is None else entry["training_images"]
        found[f"{prefix}/{key}/training_pairs"] = "not known" if pairs is None else pairs[""]
    return found


def _table(benchmarks: Mapping[str, Benchmark], scores: Mapping[str, SetScores], count: int) -> Any:
    import wandb

    rows: list[list[Any]] = []
    for number, (name, benchmark) in enumerate(benchmarks.items()):
        # shares that differ by one at most, and make `count`
        share = (number + 1) * count // len(benchmarks) - number * count // len(benchmarks)
        for sample in samples(benchmark, scores[name], share):
            shown = picture(benchmark, sample.image_id)
            image = None if shown is None else wandb.Image(shown)
            texts, numbers = (sample.text, sample.other_text), (sample.logit, sample.other_logit, sample.blind_logit)
            rows.append([name, sample.item, image, *texts, *numbers, sample.outcome])
    return wandb.Table(columns=list(COLUMNS), data=rows)


def samples(benchmark: Benchmark, scores: SetScores, count: int) -> list[Sample]:
    """Some items of a set, evenly over it; none where every image meets every text.

    Args:
        benchmark: the set.
        scores: of its pairs.
        count: items at most.
    """
    from experiments.scoring.set_files import is_paired, pair_table

    if scores.table is None:
        return []
    if is_paired(benchmark) and scores.blind is not None:
        pairs = pair_table(benchmark, scores)
        found = pairs.take(_spread(len(pairs), count)).to_pylist()
        return [
            Sample(
                item=row["negative_id"],
                image_id=row["image_id"],
                text=row["caption"],
                other_text=row["negative_caption"],
                logit=row["positive_logit"],
                other_logit=row["negative_logit"],
                blind_logit=row["blind_positive_logit"],
                # a tie is wrong
                outcome="right" if row["positive_logit"] > row["negative_logit"] else "wrong",
            )
            for row in found
        ]
    texts = dict(zip(*(benchmark.texts[name].to_pylist() for name in ("text_id", "text")), strict=True))
    rows = scores.table.take(_spread(len(scores.table), count)).to_pylist()
    return [
        Sample(row["text_id"], row["image_id"], texts[row["text_id"]], "", row["logit"], None, row["blind_logit"], "")
        for row in rows
    ]


def picture(benchmark: Benchmark, image_id: str) -> Image.Image | None:
    """A small copy of an image of a set; None where it cannot be read."""
    from datamodules.sources import load_image, part_of

    place = benchmark.images["image_id"].to_pylist().index(image_id)
    try:
        image = load_image(benchmark.root, benchmark.images["image"][place].as_py())
        if "box" in benchmark.images.column_names and (box := benchmark.images["box"][place].as_py()) is not None:
            image = part_of(image, box)
    except ValueError:  # an input error is one; so is a box of which nothing lies in the image
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _spread(length: int, count: int) -> Any:
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(np.int64)) if length else np.zeros(0, int)


@contextlib.contextmanager
def _files_beside(folder: Path) -> Iterator[None]:
    """Lets W&B put the images of a table into the run's folder, where an upload finds them, and not into the home's."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str((folder / "wandb" / "data").absolute())
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR")
        if before is not None:
            os.environ["WANDB_DATA_DIR"] = before
