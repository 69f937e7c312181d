"""What the bench asks the engine: photos of noise, captions of drawn words, and tiny scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from experiments.scoring.requests import Places
from lightning_modules.backbones import TinyShape, backbone_class

WORDS = "a red blue small old new dog cat chair table near under on the of two three people runs sits"
SHAPE = TinyShape()


def write_photos(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> pa.Table:
    """Writes smooth noise as JPEG, which decodes like a photo; returns `image_id` and `image`."""
    draw = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    names = [str(number) for number in range(count)]
    return pa.table({"image_id": names, "image": [f"{name}.jpg" for name in names]})


def captions(count: int) -> pa.Array:
    """Different captions of 4 to 14 words."""
    draw = np.random.default_rng(1)
    return pa.array(
        [" ".join(draw.choice(WORDS.split(), draw.integers(4, 14))) + f" {number}" for number in range(count)]
    )


def pairs_of(images: int, texts: int, count: int) -> Places:
    """[count, 2] pairs, each once: the images take turns."""
    cells = np.arange(count)
    return np.stack([cells % images, (cells // images) % texts], axis=1)


def tiny_scorer(backbone: str) -> Any:
    """A tiny scorer of random weights, in eval mode."""
    found: Any = backbone_class(backbone)
    torch.manual_seed(0)
    model, processor = found.tiny(found.Settings(tiny=SHAPE), [WORDS], None)
    return found(model, processor, lr=0.0).eval()


class Lengths(torch.nn.Module):
    """Stands in for a scorer where the engine itself is measured: a caption's logit is its length."""

    captions_cut = 0

    def collator(self) -> Any:
        """Rows stay rows."""
        from datamodules import ImageTextBatch

        def collate(rows: Any) -> ImageTextBatch:
            width = max(len(row.captions) for row in rows)
            lengths = torch.zeros(len(rows), width)
            mask = torch.zeros(len(rows), width, dtype=torch.bool)
            for place, row in enumerate(rows):
                lengths[place, : len(row.captions)] = torch.tensor([float(len(text)) for text in row.captions])
                mask[place, : len(row.captions)] = True
            names = [row.image_id for row in rows]
            return ImageTextBatch(names, [], lengths, mask, [])

        return collate

    def count_cut(self, batch: Any) -> None:
        """Nothing is cut."""

    def logits(self, batch: Any) -> torch.Tensor:
        """(B, C) lengths."""
        found: torch.Tensor = batch.labels
        return found
