"""Writes the embedded data set: a training split and two held-out ones, as images and tables.

- train: every scene told twice, once from each object's side, with the writer's negatives.
- biased: held-out scenes with negatives by the same writer.
- balanced: each caption serves once as positive and once as negative, so text alone is worth nothing by construction:
  the writer's negative of a scene's caption gets a scene of its own, for which the first caption is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.scenes.draw import Scene, draw_scene, random_scene
from datamodules.scenes.writer import SceneWriter, parse_caption, tell
from negatives.tables import generator_for, write_table
from negatives.writers import write_negatives

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def write_scenes(
    folder: Path, *, train: int, held_out: int, image_size: int, seed: int, progress: Progress = lambda items: items
) -> None:
    """Draws and writes all splits into `folder/{train,biased,balanced}`: `images/`, captions and negatives.

    Args:
        folder: where the splits go.
        train: scenes of the training split, two captions each.
        held_out: scenes of the biased split, and base scenes of the balanced one (which draws five more for each).
        image_size: pixels of an image's side.
        seed: of everything; a scene depends on `(seed, split, index)` only.
        progress: wraps the loop over scenes, for a progress bar.
    """
    _write_split(folder / "train", train, image_size, seed, tellings=2, progress=progress)
    _write_split(folder / "biased", held_out, image_size, seed, tellings=1, progress=progress)
    _write_balanced(folder / "balanced", held_out, image_size, seed, progress)


def _write_split(folder: Path, scenes: int, size: int, seed: int, *, tellings: int, progress: Progress) -> None:
    split, captions = folder.name, []
    for index in progress(range(scenes)):
        rng = generator_for(seed, split, index)
        scene = random_scene(rng)
        image_id = f"{split}-{index}"
        image = _save(folder, image_id, scene, size, seed)
        for side, telling in zip("ab", (scene, scene.converse)[:tellings], strict=False):
            captions.append(_caption(image_id, image, f"{image_id}-{side}", tell(telling, rng).caption))
    table = pa.Table.from_pylist(captions)
    write_table(table, folder / "captions.parquet")
    negatives = write_negatives(table, SceneWriter(), seed).negatives
    # its favourite words are more than one change, on purpose: what validation would reject, the filter is to find
    write_table(negatives.drop_columns(["field", "settings", "rejected"]), folder / "negatives.parquet")


def _write_balanced(folder: Path, scenes: int, size: int, seed: int, progress: Progress) -> None:
    split, captions, negatives = folder.name, [], []
    for index in progress(range(scenes)):
        rng = generator_for(seed, split, index)
        caption = tell(scene := random_scene(rng), rng).caption
        image_id = f"{split}-{index}"
        image = _save(folder, image_id, scene, size, seed)
        captions.append(_caption(image_id, image, image_id, caption))
        for negative_type, negative in SceneWriter().write(caption, rng):
            twin_id = f"{image_id}-{negative_type}"
            twin_image = _save(folder, twin_id, parse_caption(negative).scene, size, seed)
            captions.append(_caption(twin_id, twin_image, twin_id, negative))
            negatives.append(_negative(image_id, negative, negative_type))
            negatives.append(_negative(twin_id, caption, negative_type))
    write_table(pa.Table.from_pylist(captions), folder / "captions.parquet")
    write_table(pa.Table.from_pylist(negatives), folder / "negatives.parquet")


def _save(folder: Path, image_id: str, scene: Scene, size: int, seed: int) -> str:
    path = folder / "images" / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_scene(scene, generator_for(seed, "pixels", image_id), size).save(path)
    return f"images/{path.name}"


def _caption(image_id: str, image: str, caption_id: str, caption: str) -> dict[str, str]:
    return {"image_id": image_id, "image": image, "caption_id": caption_id, "caption": caption}


def _negative(caption_id: str, caption: str, negative_type: str) -> dict[str, str]:
    return {
        "caption_id": caption_id,
        "negative_id": f"{caption_id}:{negative_type}",
        "caption": caption,
        "negative_type": negative_type,
        "generator": SceneWriter.name,
        "model": "",
        "prompt_version": SceneWriter.version,
    }
