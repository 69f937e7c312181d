"""`itm score`: scores a table of image-caption pairs, resumable.

Finished units lie in `parts/` as Parquet; at the end they become `scores.parquet`. Scores of another scorer are never
mixed in: the folder's fingerprint has to be that of the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from experiments.build import build_module, load_run
from experiments.config.schemas import ScoreConfig
from experiments.runs.fingerprint import file_hash, fingerprint, without_later_keys
from experiments.runs.outputs import PROVENANCE_FILE, OutputFolder
from experiments.runs.progress import say
from experiments.scoring.ranks import World, launched, world
from lightning_modules.backbones import ModelSettings, model_settings, without_former_keys
from negatives.tables import DAMAGED, InputError, quoted, read_captions, write_json, write_table

if TYPE_CHECKING:
    from experiments.scoring.requests import Asked
    from experiments.scoring.scorer import Engine

SCORES_FILE, SCORER_FILE, PARTS = "scores.parquet", "scorer.json", "parts"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image_id", "text_id", "text")),
        *((name, pa.float64()) for name in ("logit", "score")),
    ]
)
MAY_DIFFER = {"max_pixels", "batch_size", "workers", "devices"}
"""Keys that may change when scores go on: they move these by rounding at most."""


def run(config: ScoreConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Scores every caption on its image and writes `scores.parquet`: image_id, text_id, text, logit, score.

    Raises:
        InputError: neither a run nor a checkpoint is given, an image is missing, or the folder holds other scores.
    """
    if (place := launched()) is not None and place.rank:
        # the first rank writes the folder; a finished one has nothing to score
        if not (resume and Path(config.output_dir, SCORES_FILE).is_file()):
            _rank(config)
        return
    # other ranks may have begun: their parts stay, which are those of a scorer and a table
    output = OutputFolder(
        config,
        verb="score",
        result=SCORES_FILE,
        resume=resume,
        overwrite=overwrite,
        may_differ=MAY_DIFFER,
        kept=(PARTS,),
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    asked, ids = read_asked(config)
    scorer, made_from = _scorer_of(config)
    # before the folder is claimed: a refusal leaves it as it was
    if not overwrite:
        _check_same(output.path, made_from)
    folder = output.claim()
    write_json(dict(made_from), folder / SCORER_FILE)
    with world(config.devices, _rank, config) as first:
        logits = pair_logits(config, scorer, made_from, asked, first)
    assert logits is not None
    table = pa.table([*ids.columns, pa.array(logits), pa.array(scorer.to_scores(logits))], SCHEMA)
    # before the parts go: a kill between the two loses nothing
    write_table(table.replace_schema_metadata(dict(scorer.fingerprint)), folder / SCORES_FILE)
    shutil.rmtree(folder / PARTS)
    say(f"Scored {len(table)} captions: {folder / SCORES_FILE}")


def _rank(config: ScoreConfig) -> None:
    """What a rank but the first does."""
    place = launched()
    assert place is not None
    asked, _ = read_asked(config)
    scorer, made_from = _scorer_of(config)
    pair_logits(config, scorer, made_from, asked, place)


def read_asked(config: ScoreConfig) -> tuple[Asked, pa.Table]:
    """What a captions table asks, and the ids and text of each pair; those of an image follow each other.

    Raises:
        InputError: the table cannot be read, or an image is missing.
    """
    from datamodules.sources import check_images
    from experiments.scoring.requests import Asked

    captions = read_captions(config.captions)
    root = Path(config.image_root) if config.image_root else Path(config.captions).parent
    # all images are looked for now, not hours later
    check_images(root, captions["image"].to_pylist())
    # by path too: two files may be called by one id
    places: dict[tuple[str, str], int] = {}
    named = zip(captions["image_id"].to_pylist(), captions["image"].to_pylist(), strict=True)
    images = np.array([places.setdefault(key, len(places)) for key in named], np.int64)
    order = np.argsort(images, kind="stable")
    names, files = zip(*places, strict=True) if places else ((), ())
    table = pa.table({"image_id": pa.array(names, pa.string()), "image": pa.array(files, pa.string())})
    captions = captions.take(pa.array(order))
    ids = pa.table(
        {
            "image_id": captions["image_id"],
            "text_id": pa.array([f"caption:{name}" for name in captions["caption_id"].to_pylist()], pa.string()),
            # benchmarks have other ids, and know a text by its wording
            "text": captions["caption"],
        }
    )
    pairs = np.stack([images[order], np.arange(len(order))], axis=1)
    return Asked(table, captions["caption"], pairs, root), ids


def _scorer_of(config: ScoreConfig) -> tuple[Engine, Mapping[str, str]]:
    """The scorer, and what its scores of this table are made from."""
    from dataclasses import replace

    from experiments.scoring.model_scorers import engine_of
    from experiments.scoring.scorer import Options

    module, model = _scorer(config)
    found = fingerprint(module, model, Path(config.run) if config.run else None, config.checkpoint)
    scorer = engine_of(module, "", Options(Path(), accelerator=config.accelerator), {})
    # A resumed run must not mix scores of two scorers or two tables.
    return replace(scorer, fingerprint=found), {**found, "captions": file_hash([Path(config.captions)])}


def pair_logits(
    config: ScoreConfig, scorer: Engine, made_from: Mapping[str, str], asked: Asked, place: World
) -> np.ndarray | None:
    """The logit of each pair; None in ranks but the first."""
    from experiments.scoring.engine import EngineSettings
    from experiments.scoring.requests import join
    from experiments.scoring.store import Store

    requests = join([asked], blind=False, max_pixels=config.max_pixels)
    settings = EngineSettings(config.batch_size, unit_rows=config.shard_size, workers=config.workers)
    store = Store(Path(config.output_dir) / PARTS, made_from)
    answered = scorer.answers(requests, store, settings, place)
    if answered is None:
        return None
    scorer.after()
    (places,), pairs = requests.sets, asked.pairs
    assert pairs is not None
    return answered.pairs(places.images[pairs[:, 0]], places.texts[pairs[:, 1]])


def _scorer(config: ScoreConfig) -> tuple[Any, Any]:
    if config.run is not None:
        module, experiment = load_run(Path(config.run), score=config.score, checkpoint=config.checkpoint)
        return module, experiment.model
    model, dtype = with_scorer_settings(config.model)
    return build_module(model, dtype=dtype), model


def with_scorer_settings(model: ModelSettings) -> tuple[ModelSettings, Any | None]:
    """The configuration with what the checkpoint's `scorer.json` says where it is left at its default, and the dtype.

    Raises:
        InputError: the file cannot be trusted.
    """
    from lightning_modules.scoring import find_scorer_settings

    assert model.checkpoint is not None
    try:
        settings = find_scorer_settings(model.checkpoint, model.revision)
    except InputError:
        raise
    except (OSError, ValueError):  # no such checkpoint: refused when it is loaded
        settings = None
    if settings is None:
        return model, None
    default, own = asdict(type(model)()), asdict(model)
    # what is given as the default cannot be told from what is not given: then scorer.json decides
    given = {key: value for key, value in own.items() if value != default[key]}
    if model.backbone != ModelSettings().backbone:
        given["backbone"] = model.backbone
    try:
        return model_settings({"backbone": settings.backbone, **settings.model, **given}), settings.dtype
    except ValueError as error:
        raise InputError(f"{model.checkpoint}: {error} (this configuration, or its scorer.json)") from None


def _check_same(folder: Path, made_from: Mapping[str, str]) -> None:
    file = folder / SCORER_FILE
    # it is written before the first part, but for those of a rank that is ahead of the first
    if not file.is_file() and not ((folder / PARTS).is_dir() and (folder / PROVENANCE_FILE).is_file()):
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        # older versions wrote the keys of every backbone and loss
        model = without_later_keys(without_former_keys(json.loads(before.get("model", "{}"))))
        # and not the commit of a checkpoint on the hub
        before = {"revision": made_from.get("revision"), **before, "model": json.dumps(model, sort_keys=True)}
    except DAMAGED as error:
        fault = quoted(error, 120)
        raise InputError(f"{file}, which says whose the scores are, is damaged ({fault}); use --overwrite.") from None
    if different := sorted(key for key in made_from if made_from[key] != before.get(key)):
        raise InputError(f"{folder} holds scores made from another {', '.join(different)}; use --overwrite.")
