"""Our own captions and negatives tables as an evaluation set."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from datamodules.benchmarks.pairs import Pairs
from negatives.tables import StrPath, read_captions, read_negatives


def read_pairs(captions: StrPath, negatives: StrPath, *, image_root: StrPath | None = None) -> Pairs:
    """The captions of a table that have negatives, and these.

    Args:
        captions, negatives: paths of the tables.
        image_root: folder of the images; the captions table's folder where None.

    Raises:
        InputError: unreadable tables.
    """
    true = read_captions(captions)
    false = read_negatives(negatives, true)
    used = pc.is_in(true["caption_id"], value_set=pc.unique(false["caption_id"]))
    root = Path(captions).parent if image_root is None else Path(image_root)
    return Pairs(true.filter(used), false, root)
