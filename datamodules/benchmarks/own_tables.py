"""Our own captions and negatives tables as an evaluation set."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks import Pairs
from datamodules.sources.image_rows import check_images
from negatives.tables.captions import InputError, read_captions, read_negatives


def read_pairs(
    captions: str | Path,
    negatives: str | Path,
    *,
    image_root: str | Path | None = None,
    image_ids: str | Path | None = None,
) -> Pairs:
    """The pairs of two tables.

    Args:
        captions, negatives: paths of the tables.
        image_root: folder of the images; the captions table's folder where None.
        image_ids: captions table whose images are the only ones used.

    Raises:
        InputError: unreadable tables, missing images, or nothing left.
    """
    true = read_captions(captions)
    false = read_negatives(negatives, true)
    used = pc.is_in(true["caption_id"], value_set=pc.unique(false["caption_id"]))
    return restrict(
        Pairs(true.filter(used), false, Path(image_root) if image_root else Path(captions).parent),
        image_ids,
        str(negatives),
    )


def restrict(pairs: Pairs, image_ids: str | Path | None, source: str) -> Pairs:
    """The pairs of the images that the captions table at `image_ids` names; all where it is None."""
    captions, negatives = pairs.captions, pairs.negatives
    if image_ids is not None:
        allowed: pa.Array = pc.unique(read_captions(image_ids)["image_id"])
        captions = captions.filter(pc.is_in(captions["image_id"], value_set=allowed))
        negatives = negatives.filter(pc.is_in(negatives["caption_id"], value_set=pc.unique(captions["caption_id"])))
    if not negatives.num_rows:
        raise InputError(f"{source}: no pair is left to evaluate on; check `image_ids` and the tables.")
    check_images(pairs.root, captions["image"].to_pylist())
    return Pairs(captions, negatives, pairs.root, pairs.left_out)
