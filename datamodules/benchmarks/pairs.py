"""What a benchmark of true and false captions is once it is read: tables like our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Pairs:
    """True captions of images, false ones made from them, and where the images lie.

    Attributes:
        captions: columns `image_id`, `image` (a path inside `root`), `caption_id` and `caption`.
        negatives: columns `caption_id`, `negative_id`, `caption` and `negative_type`: any name that the benchmark has.
        root: folder of the images.
        left_out: how many items of the benchmark are not among the pairs: those that do not count as valid, and, where
            images are scored, those whose image is not there.
    """

    captions: pa.Table
    negatives: pa.Table
    root: Path
    left_out: int = 0
