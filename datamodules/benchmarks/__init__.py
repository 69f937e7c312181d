"""Sets of positives and negatives to evaluate on, all in the form of our own tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Pairs:
    """True captions of images, false ones made from them, and where the images lie.

    `left_out` counts items of the benchmark whose image is not there.
    """

    captions: pa.Table
    negatives: pa.Table
    root: Path
    left_out: int = 0
