"""`itm neighbours`: the images that are nearest to each image by their features, NegCLIP's hard images.

`data.neighbours` of an experiment reads the table. An interrupted run starts over: a feature takes one pass of an image
through the vision tower, and nothing is saved before all are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from experiments.build import build_module, load_run
from experiments.config.load import load_saved
from experiments.config.schemas import ExperimentConfig, NeighboursConfig
from experiments.runs.devices import resolve_device
from experiments.runs.fingerprint import fingerprint
from experiments.runs.outputs import CONFIG_FILE, OutputFolder
from experiments.runs.progress import say, track
from lightning_modules.backbones import ModelSettings, backbone_class
from negatives.tables import InputError, read_captions, write_table

if TYPE_CHECKING:
    import torch

NEIGHBOURS_FILE = "neighbours.parquet"
SIMILARITIES = 1 << 25  # computed at a time: 128 MiB


def run(config: NeighboursConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Writes `neighbours.parquet`: image_id, neighbour_image_id, rank, similarity; nearest first for each image.

    Raises:
        InputError: the scorer does not encode images alone, an image is missing, there is no other image, or the folder
            is in use.
    """
    from datamodules.sources import check_images

    output = OutputFolder(config, verb="neighbours", result=NEIGHBOURS_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    device = resolve_device(config.accelerator)
    captions = read_captions(config.captions)
    # one entry for each image, however many captions it has
    images = dict(zip(captions["image_id"].to_pylist(), captions["image"].to_pylist(), strict=True))
    if len(images) < 2:
        raise InputError(f"captions must be of two images or more, got {len(images)} ({config.captions}); add some.")
    root = Path(config.image_root) if config.image_root else Path(config.captions).parent
    check_images(root, list(images.values()))
    module, model = _scorer(config)
    folder = output.claim()
    # eval: dropout would give an image other features each time
    features = _features(module.eval().to(device), root, list(images.values()), config)
    table = neighbour_table(list(images), *nearest(features, config.k))
    scorer = fingerprint(module, model, Path(config.run) if config.run else None)
    write_table(table.replace_schema_metadata(scorer), folder / NEIGHBOURS_FILE)
    say(f"Found the neighbours of {len(images)} images: {folder / NEIGHBOURS_FILE}")


def _scorer(config: NeighboursConfig) -> tuple[Any, ModelSettings]:
    if config.run is None:
        return build_module(config.model), config.model
    folder = Path(config.run)
    if (saved := folder / CONFIG_FILE).is_file():  # before its weights are read
        backbone = load_saved(ExperimentConfig, saved).model.backbone
        if not backbone_class(backbone).encodes_images:
            raise InputError(
                f"run must be of a scorer whose image features can be compared, as a clip's, got a {backbone} "
                f"({folder}); give another run, or model.checkpoint."
            )
    module, experiment = load_run(folder)
    return module, experiment.model


def _features(module: Any, root: Path, paths: Sequence[str], config: NeighboursConfig) -> torch.Tensor:
    """[N, D] features of length 1, on the module's device."""
    import torch

    from datamodules.sources import load_image

    parts = []
    for start in track(range(0, len(paths), config.batch_size), f"features of {len(paths)} images, in batches"):
        batch = paths[start : start + config.batch_size]
        with torch.inference_mode():
            parts.append(module.image_features([load_image(root, path, config.max_pixels) for path in batch]))
        if not bool(parts[-1].isfinite().all()):
            raise InputError(f"An image's features are not finite, images {batch}; check the weights.")
    return torch.cat(parts)


def nearest(features: torch.Tensor, k: int, *, at_once: int = SIMILARITIES) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows nearest to each row by cosine, none of them itself; all there are where there are fewer.

    Args:
        features: [N, D], of length 1.
        k: how many.
        at_once: similarities held at a time, rounded to whole rows of N.

    Returns:
        Similarities [N, k] in falling order, and the rows [N, k] that they belong to.
    """
    import torch

    # never the whole matrix: that of COCO's 118,287 training images would be 56 GB
    rows, step = len(features), max(1, at_once // len(features))
    values, indices = [], []
    for start in track(range(0, rows, step), f"neighbours of {rows} images, in blocks"):
        similarities = features[start : start + step] @ features.T
        own = torch.arange(len(similarities), device=features.device)
        # not "the second best": a copy of the image is as near as the image itself, and is a neighbour
        similarities[own, start + own] = -torch.inf
        # rows - 1: an image is not its own neighbour
        found = similarities.topk(min(k, rows - 1), dim=1)
        values.append(found.values)
        indices.append(found.indices)
    return torch.cat(values), torch.cat(indices)


def neighbour_table(image_ids: Sequence[str], similarities: torch.Tensor, indices: torch.Tensor) -> pa.Table:
    """The neighbours of all images as a table, rank 1 the nearest.

    Args:
        image_ids: of the N rows.
        similarities, indices: [N, k], see `nearest`.
    """
    count, k = indices.shape
    names = pa.array(image_ids, pa.string())
    return pa.table(
        {
            "image_id": names.take(pa.array([row for row in range(count) for _ in range(k)], pa.int64())),
            "neighbour_image_id": names.take(pa.array(indices.flatten().cpu().numpy())),
            "rank": pa.array([*range(1, k + 1)] * count, pa.int64()),
            "similarity": pa.array(similarities.flatten().double().cpu().numpy()),
        }
    )
