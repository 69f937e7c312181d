"""`itm generate`: captions -> negatives, by rules, a GPT model, the papers' generators, or written beforehand.

Writes `negatives.parquet`, `summary.json` and, where a generator says so, `paraphrases.parquet` (hard positives) and
`unwritten.parquet` (what has no text, and why). With `image_root` it writes `captions.parquet` too: the captions of all
images that have a negative, with their paths told from that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.config.generate_schemas import GenerateConfig
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say, tracker
from negatives.tables.captions import InputError, valid_rows, write_json, write_table

NEGATIVES_FILE, UNWRITTEN_FILE, SUMMARY_FILE = "negatives.parquet", "unwritten.parquet", "summary.json"
LAST_OF_SCENES = "balanced/negatives.parquet"


def run(config: GenerateConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Writes the tables, or the splits of the embedded data set.

    Returns:
        The exit code: 1 where a GPT run is not complete yet.

    Raises:
        InputError: a generator lacks its input, or its input is unusable.
    """
    if config.generator == "gpt":
        from experiments.verbs.generate_gpt import run_gpt

        return run_gpt(config, resume=resume, overwrite=overwrite)
    scenes = config.generator == "scenes"
    result = LAST_OF_SCENES if scenes else SUMMARY_FILE
    output = OutputFolder(config, verb="generate", result=result, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
    elif scenes:
        _write_scenes(config, output.claim())
    else:
        _write_negatives(config, output)
    return 0


def estimate(config: GenerateConfig) -> None:
    """What a GPT run would take, printed; nothing is asked or written."""
    if config.generator == "gpt":
        from experiments.verbs.generate_gpt import print_estimate

        print_estimate(config)


def read_source(config: GenerateConfig) -> pa.Table:
    """The configured captions; with `image_root`, their image paths are told from that folder.

    Raises:
        InputError: the file is unusable, or not inside `image_root`.
    """
    from negatives.tables.sources import read_caption_source

    assert config.captions is not None
    captions = read_caption_source(config.captions, config.format, columns=config.columns, splits=config.splits)
    return captions if config.image_root is None else _rooted(captions, config)


def write_captions_with_negatives(config: GenerateConfig, captions: pa.Table, folder: Path) -> None:
    """Where `image_root` is given, writes `captions.parquet`: the captions of all images that have a valid negative."""
    if config.image_root is not None:
        negatives = pq.read_table(folder / NEGATIVES_FILE, columns=["caption_id", "rejected"])
        write_table(with_negatives(captions, valid_rows(negatives)), folder / "captions.parquet")


def _write_negatives(config: GenerateConfig, output: OutputFolder) -> None:
    captions = read_source(config)
    negatives, unwritten = _negatives(config, captions)
    folder = output.claim()
    if len(unwritten):
        write_table(unwritten, folder / UNWRITTEN_FILE)
    write_table(negatives, folder / NEGATIVES_FILE)
    write_captions_with_negatives(config, captions, folder)
    rows = zip(negatives["negative_type"].to_pylist(), negatives["rejected"].to_pylist(), strict=True)
    types = _counts(list(rows))
    summary = {"generator": config.generator, "captions": len(captions), "seed": config.seed, "types": types}
    print_types(types)
    write_json(summary, folder / SUMMARY_FILE)  # last: it says that the folder is finished
    say(f"Wrote {len(negatives)} negatives for {len(captions)} captions: {folder / NEGATIVES_FILE}")


def _negatives(config: GenerateConfig, captions: pa.Table) -> tuple[pa.Table, pa.Table]:
    from experiments.build import build_writer
    from negatives.writers.write import UNWRITTEN_SCHEMA, join_pairs, write_negatives

    if config.generator == "pairs":
        assert config.pairs is not None
        return join_pairs(captions, config.pairs, config.folds), UNWRITTEN_SCHEMA.empty_table()
    return write_negatives(captions, build_writer(config), config.seed, progress=tracker(config.generator))


def _counts(rows: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Type -> written, valid, and rejected by reason."""
    from negatives.validate import validation_table

    found: dict[str, dict[str, Any]] = {}
    for kind, counts in sorted(validation_table(rows).items()):
        written, valid = sum(counts.values()), counts.pop("valid", 0)
        found[kind] = {"written": written, "valid": valid, "rejected": counts}
    return found


def print_types(types: dict[str, dict[str, Any]]) -> None:
    """A table of what was written of each type, how much of it is valid, and why not the others."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Written texts and their validation")
    for heading in ("type", "written", "valid", "rejected, without text"):
        table.add_column(heading, justify="left" if heading in ("type", "rejected, without text") else "right")
    for kind, counts in types.items():
        others = {**counts["rejected"], **counts.get("unwritten", {})}
        reasons = ", ".join(f"{name} {number}" for name, number in others.items())
        table.add_row(kind, str(counts["written"]), str(counts["valid"]), reasons or "none")
    Console().print(table)


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
    prefix = folder.relative_to(root)
    images = [(prefix / image).as_posix() for image in captions["image"].to_pylist()]
    return captions.set_column(captions.schema.get_field_index("image"), "image", pa.array(images))


def _write_scenes(config: GenerateConfig, folder: Path) -> None:
    from datamodules.scenes.splits import write_scenes

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
