"""Our own captions and negatives tables as an evaluation set."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from negatives.tables import StrPath, read_captions, read_negatives, strings


def read(captions: StrPath, negatives: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The captions of a table that have negatives, and these: an item for each negative, its type as group.

    Args:
        captions, negatives: paths of the tables.
        image_root: folder of the images; the captions table's folder where None.

    Raises:
        InputError: unreadable tables.
    """
    true = read_captions(captions)
    false = read_negatives(negatives, true)
    found = Collected("tables", "pairs", captions, Path(captions).parent if image_root is None else image_root)
    own = true.filter(pc.is_in(true["caption_id"], value_set=pc.unique(false["caption_id"])))
    captions_of = {}
    for caption_id, image_id, image, caption in _rows(own, "caption_id", "image_id", "image", "caption"):
        captions_of[caption_id] = found.image(image, image_id=image_id), found.text(caption)
    for caption_id, negative_id, caption, kind in _rows(false, "caption_id", "negative_id", "caption", "negative_type"):
        image_id, text_id = captions_of[caption_id]
        found.add(
            item_id=negative_id,
            image_id=image_id,
            group=kind,
            true=[text_id],
            false=[found.text(caption)],
            caption_id=caption_id,
        )
    return found.benchmark()


def _rows(table: pa.Table, *names: str) -> zip[tuple[str, ...]]:
    return zip(*(strings(table, name) for name in names), strict=True)
