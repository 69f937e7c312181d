"""`itm score`: scores a table of image-caption pairs, resumable.

Finished shards lie in `parts/` as Parquet; at the end they become `scores.parquet`. Scores of another scorer are never
mixed in: the folder's fingerprint has to be that of the run.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.build import build_module, load_run
from experiments.config.schemas import ScoreConfig
from experiments.runs.devices import resolve_device
from experiments.runs.fingerprint import configured, file_hash, fingerprint
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from lightning_modules.backbones import ModelSettings, model_settings, without_former_keys
from negatives.tables import InputError, damage, read_captions, read_parquet, strings, write_json, write_table

if TYPE_CHECKING:
    from datamodules.sources import ImageRows

SCORES_FILE, SCORER_FILE, PARTS = "scores.parquet", "scorer.json", "parts"
SCHEMA = pa.schema({"image_id": pa.string(), "text_id": pa.string(), "logit": pa.float64(), "score": pa.float64()})


def run(config: ScoreConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Scores every caption on its image and writes `scores.parquet`: image_id, text_id, logit, score.

    Raises:
        InputError: neither a run nor a checkpoint is given, an image is missing, or the folder holds other scores.
    """
    from datamodules.sources import ImageRows, check_images
    from experiments.runs.scoring import say_cut

    # of the images that are read it changes nothing: scores that met one too large go on with a larger limit
    free = {"max_pixels"}
    output = OutputFolder(config, verb="score", result=SCORES_FILE, resume=resume, overwrite=overwrite, may_differ=free)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    device = resolve_device(config.accelerator)
    captions = read_captions(config.captions)
    root = Path(config.image_root) if config.image_root else Path(config.captions).parent
    # all images are looked for now, not hours later
    check_images(root, captions["image"].to_pylist())
    module, model = _scorer(config)
    scorer = fingerprint(module, model, Path(config.run) if config.run else None, config.checkpoint)
    # A resumed run must not mix scores of two scorers or two tables.
    made_from = {**scorer, "captions": file_hash([Path(config.captions)])}
    # before the folder is claimed: a refusal leaves it as it was
    if not overwrite:
        _check_same(output.path, made_from)
    folder = output.claim()
    write_json(made_from, folder / SCORER_FILE)
    rows = ImageRows(captions, None, root, max_pixels=config.max_pixels)
    tables = _score_shards(config, module, rows, folder / PARTS, device)
    table = pa.concat_tables(tables).replace_schema_metadata(scorer)
    # before the parts go: a kill between the two loses nothing
    write_table(table, folder / SCORES_FILE)
    shutil.rmtree(folder / PARTS)
    say_cut(module)
    say(f"Scored {len(table)} captions: {folder / SCORES_FILE}")


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


def _check_same(folder: Path, made_from: dict[str, str]) -> None:
    file = folder / SCORER_FILE
    # it is written before the first part
    if not file.is_file() and not (folder / PARTS).is_dir():
        return
    if fault := damage(file):
        raise InputError(f"{file}, which says whose the scores are, is damaged ({fault}); use --overwrite.")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        # older versions wrote the keys of every backbone and loss
        model = configured(without_former_keys(json.loads(before.get("model", "{}"))))
        before["model"] = json.dumps(model, sort_keys=True)
        # nor the commit of a checkpoint on the hub
        before.setdefault("revision", made_from.get("revision"))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} does not say whose the scores are ({error!r:.200}); use --overwrite.") from None
    if different := sorted(key for key in made_from if made_from[key] != before.get(key)):
        raise InputError(f"{folder} holds scores made from another {', '.join(different)}; use --overwrite.")


def _score_shards(config: ScoreConfig, module: Any, rows: ImageRows, parts: Path, device: Any) -> list[pa.Table]:
    """Scores what no saved part holds yet; returns all scores in order."""
    from torch.utils.data import Subset

    from experiments.runs.scoring import score_rows

    tables = []
    for start in range(0, len(rows), config.shard_size):
        stop = min(start + config.shard_size, len(rows))
        path = parts / f"{start:09d}-{stop:09d}.parquet"
        table = _read_part(path, rows.text_ids(start, stop))
        if table is None:
            shard: Any = Subset(rows, range(start, stop))  # type: ignore[arg-type]
            label = f"images {start} to {stop} of {len(rows)}"
            scored = score_rows(module, shard, batch_size=config.batch_size, device=device, label=label)
            table = pa.Table.from_pylist([asdict(item) for item in scored], SCHEMA)
            write_table(table, path)
        tables.append(table)
    return tables


def _read_part(path: Path, text_ids: list[str]) -> pa.Table | None:
    """A part's scores, which have to be those of these texts; None where it is not there, or damaged."""
    if not path.is_file():
        return None
    try:
        table = read_parquet(path)
        if table.schema.equals(SCHEMA) and strings(table, "text_id") == text_ids:
            return table
    except (OSError, pa.ArrowException):
        pass
    # a kill leaves none: a part is written whole or not at all
    say(f"{path} is damaged: it is scored again.")
    return None
