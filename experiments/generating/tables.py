"""What the generators of `itm generate` share: the captions that they read, the tables and counts that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.config.generate_schemas import GenerateConfig
from experiments.runs.progress import say
from negatives.tables import InputError, valid_rows, write_json, write_table, write_text
from negatives.writers import WRITERS, builder_keys

NEGATIVES_FILE, UNWRITTEN_FILE, SUMMARY_FILE = "negatives.parquet", "unwritten.parquet", "summary.json"
PARAPHRASES_FILE, PAGE = "paraphrases.parquet", "index.html"
JUDGED_FILE = "judged.sqlite"


def unread_keys(generator: str) -> list[str]:
    """Keys of writers, and of the chat model, that a generator does not read.

    They may differ when a run goes on: a writer that was added since has put a section of its own into every
    configuration, and what a chat model was paid for stays usable.
    """
    keys = {key for writer in WRITERS for key in builder_keys(writer)} | ({"gpt"} - {generator})
    return sorted(keys.difference(builder_keys(generator) if generator in WRITERS else ()))


def read_source(config: GenerateConfig) -> pa.Table:
    """The configured captions; with `image_root`, their image paths start at that folder.

    Raises:
        InputError: the file is unusable, or not inside `image_root`.
    """
    from negatives.tables import read_caption_source

    assert config.captions is not None
    captions = read_caption_source(config.captions, config.format, columns=config.columns, splits=config.splits)
    return captions if config.image_root is None else _rooted(captions, config.captions, config.image_root)


def _rooted(captions: pa.Table, table: str, image_root: str) -> pa.Table:
    """The captions of the file `table`, with image paths that start at `image_root` in place of the file's folder."""
    folder, root = Path(table).parent.resolve(), Path(image_root).resolve()
    if not folder.is_relative_to(root):
        raise InputError(f"image_root {root} must hold the folder of the captions table, {folder}.")
    # as_posix: tables travel between systems
    prefix = folder.relative_to(root)
    images = [(prefix / image).as_posix() for image in captions["image"].to_pylist()]
    return captions.set_column(captions.schema.get_field_index("image"), "image", pa.array(images))


def finish(config: GenerateConfig, captions: pa.Table, folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes what a finished folder has beside its tables and its page: `summary.json`, and maybe `captions.parquet`.

    With `image_root`, that table holds the captions of all images that have a valid negative.
    """
    if config.image_root is not None:
        # read back, two columns of it: a chat model's rows were never in memory at once
        negatives = pq.read_table(folder / NEGATIVES_FILE, columns=["caption_id", "rejected"])
        write_table(with_negatives(captions, valid_rows(negatives)), folder / "captions.parquet")
    write_json(summary, folder / SUMMARY_FILE)  # last: it says that the folder is finished
    (folder / JUDGED_FILE).unlink(missing_ok=True)  # only a run that goes on reads it


def with_negatives(captions: pa.Table, negatives: pa.Table) -> pa.Table:
    """The captions, true ones, of all images of which some caption has a negative."""
    # the other captions of such an image stay: they are true of it too, and positives beside its negatives
    own = captions.filter(pc.is_in(captions["caption_id"], value_set=pc.unique(negatives["caption_id"])))
    return captions.filter(pc.is_in(captions["image_id"], value_set=pc.unique(own["image_id"])))


def counts_by_type(negatives: pa.Table) -> dict[str, dict[str, Any]]:
    """Type -> written, valid, and rejected by reason; types alphabetically.

    Args:
        negatives: columns `negative_type` and `rejected`.
    """
    from negatives import validation_table

    rows = zip(negatives["negative_type"].to_pylist(), negatives["rejected"].to_pylist(), strict=True)
    found: dict[str, dict[str, Any]] = {}
    for negative_type, counts in sorted(validation_table(rows).items()):
        # valid is taken out before the rest counts as reasons
        written, valid = sum(counts.values()), counts.pop("valid", 0)
        found[negative_type] = {"written": written, "valid": valid, "rejected": counts}
    return found


def write_page(
    config: GenerateConfig,
    captions: pa.Table,
    folder: Path,
    *,
    spent: Mapping[str, Any] | None = None,
    usage: Mapping[str, Any] | None = None,
    complete: bool = True,
) -> None:
    """Writes `index.html` of the tables in a folder: counts, some of the texts, and what the text alone gives away.

    Args:
        config: of the run.
        captions: as of `read_source`.
        folder: with the tables, which are read batch by batch.
        spent: `summary.json` of a chat model's run; None for others.
        usage: of the chat model that judges; None where none does.
        complete: whether nothing is left to ask.
    """
    from experiments.report.generated.page import GeneratedPage, render_generated_page

    origin = {"Generator": config.generator, "Captions": str(config.captions)}
    if spent is not None:
        origin |= {"Model": config.gpt.model, "Prompts": spent["recipe"]["version"]}
    page = GeneratedPage(
        origin,
        captions,
        negatives=folder / NEGATIVES_FILE,
        paraphrases=folder / PARAPHRASES_FILE,
        unwritten=folder / UNWRITTEN_FILE,
        seed=config.seed,
        spent=spent,
        usage=usage,
        complete=complete,
    )
    write_text(render_generated_page(page), folder / PAGE)
    say(f"Page: {folder / PAGE}")


def print_types(types: dict[str, dict[str, Any]]) -> None:
    """A table of what was written of each type, how much of it is valid, and why not the others.

    Args:
        types: as of `counts_by_type`, maybe with `unwritten`: why captions have no text of the type.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Written texts and their validation")
    for heading in ("type", "written", "valid", "rejected, without text"):
        table.add_column(heading, justify="left" if heading in ("type", "rejected, without text") else "right")
    for name, counts in types.items():
        others = {**counts["rejected"], **counts.get("unwritten", {})}
        reasons = ", ".join(f"{reason} {number}" for reason, number in others.items())
        table.add_row(name, str(counts["written"]), str(counts["valid"]), reasons or "none")
    Console().print(table)
