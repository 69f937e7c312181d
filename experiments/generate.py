"""`itm generate`: captions -> negatives, by word lists, by the embedded scenes' writer, or written beforehand.

Writes `negatives.parquet` and, where `image_root` is given, `captions.parquet`: the captions of all images that have a
negative, with their paths told from that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments.outputs import OutputFolder
from experiments.progress import say, tracker
from experiments.text_schemas import GenerateConfig
from negatives.records import InputError, read_captions, write_table

NEGATIVES_FILE = "negatives.parquet"
LAST_OF_SCENES = "balanced/negatives.parquet"


def run(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Writes `negatives.parquet`, or the splits of the embedded data set.

    Raises:
        InputError: a generator lacks its input, or its input is unusable.
    """
    scenes = config.generator == "scenes"
    result = LAST_OF_SCENES if scenes else NEGATIVES_FILE
    output = OutputFolder(config, verb="generate", result=result, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
        return
    if scenes:
        _write_scenes(config, output.claim())
        return
    captions = _captions(config)
    negatives = _negatives(config, captions)
    folder = output.claim()
    if config.image_root is not None:
        write_table(_rooted(with_negatives(captions, negatives), config), folder / "captions.parquet")
    write_table(negatives, folder / NEGATIVES_FILE)
    say(f"Wrote {len(negatives)} negatives for {len(captions)} captions: {folder / NEGATIVES_FILE}")


def _captions(config: GenerateConfig) -> Any:
    assert config.captions is not None
    return read_captions(config.captions)


def _negatives(config: GenerateConfig, captions: Any) -> Any:
    from negatives.generate import join_pairs, write_negatives
    from negatives.rules import RuleWriter

    if config.generator == "rules":
        return write_negatives(captions, RuleWriter(), config.seed, progress=tracker("rules"))
    assert config.pairs is not None
    return join_pairs(captions, config.pairs, config.folds)


def with_negatives(captions: pa.Table, negatives: pa.Table) -> pa.Table:
    """The captions, true ones, of all images of which some caption has a negative."""
    import pyarrow.compute as pc

    own = captions.filter(pc.is_in(captions["caption_id"], value_set=pc.unique(negatives["caption_id"])))
    return captions.filter(pc.is_in(captions["image_id"], value_set=pc.unique(own["image_id"])))


def _rooted(captions: pa.Table, config: GenerateConfig) -> pa.Table:
    """The table with its image paths told from `image_root`."""
    folder, root = Path(config.captions or "").parent.resolve(), Path(config.image_root or "").resolve()
    if not folder.is_relative_to(root):
        raise InputError(f"image_root {root} must hold the folder of the captions table, {folder}.")
    prefix = folder.relative_to(root).as_posix()
    images = [f"{prefix}/{image}" for image in captions["image"].to_pylist()]
    return captions.set_column(captions.schema.get_field_index("image"), "image", pa.array(images))


def _write_scenes(config: GenerateConfig, folder: Path) -> None:
    from datamodules.scene_splits import write_scenes

    sizes = config.scenes
    write_scenes(
        folder,
        train=sizes.train,
        held_out=sizes.held_out,
        image_size=sizes.image_size,
        seed=config.seed,
        progress=tracker("scenes"),
    )
    say(f"Drew {sizes.train} scenes to train on, and the splits balanced and biased: {folder}")
