"""The rows that training reads: kept positives with what an epoch mixes in, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from torch.utils.data import Dataset

from datamodules.batch import ImageTextRow
from datamodules.loaders import EpochBatch
from datamodules.mixing import Mixing, TextPool, draw_negatives, group_anchors
from datamodules.sources import load_image, noise_image
from negatives.randomness import generator_for


class MixedRows(Dataset[list[ImageTextRow]]):
    """Batches of rows: item `(epoch, rows, places)` gives rows of kept positives with the negatives of that epoch.

    Args:
        texts: text table.
        pool: its kept texts.
        images: image_id -> path inside `root`.
        root: folder of the images.
        mixing: how negatives join positives. A row's time in training, on which a curriculum depends, is told by its
            place in the order of the epoch.
        seed: of all draws.
    """

    def __init__(
        self, texts: pa.Table, pool: TextPool, images: dict[str, str], root: Path, *, mixing: Mixing, seed: int
    ):
        self.pool, self.images, self.root, self.mixing, self.seed = pool, images, root, mixing, seed
        self.text_ids, self.image_ids = texts["text_id"].to_pylist(), texts["image_id"].to_pylist()
        self.captions, self.labels = texts["caption"].to_pylist(), texts["label"].to_pylist()
        self.types = texts["negative_type"].to_pylist()
        self.positives = group_anchors(pool.anchors, self.image_ids, mixing.positives if mixing.unit == "text" else 1)

    def __len__(self) -> int:
        return len(self.positives)

    def __getitem__(self, item: EpochBatch) -> list[ImageTextRow]:
        epoch, rows, places = item
        times = (epoch + place / len(self) for place in places)
        return [
            self.row(epoch, self.positives[row], self.mixing.at(time)) for row, time in zip(rows, times, strict=True)
        ]

    def row(self, epoch: int, positives: Sequence[int], mixing: Mixing) -> ImageTextRow:
        """The row of an image's positives (positions in the text table): these first, then their negatives."""
        image_id = self.image_ids[positives[0]]
        negatives: list[int] = []
        for positive in positives:
            negatives += draw_negatives(
                self.pool,
                image_id=image_id,
                caption_id=self.text_ids[positive].removeprefix("caption:"),
                unit=mixing.unit,
                negatives=mixing.negatives,
                swap_ratio=mixing.swap_ratio,
                seed=self.seed,
                epoch=epoch,
                taken=negatives,
            )
        columns = (self.text_ids, self.captions, self.labels, self.types)
        image = load_image(self.root, self.images[image_id])
        key = self.text_ids[positives[0]]
        if generator_for(self.seed, epoch, key, "image_dropout").random() < mixing.image_dropout:
            image = noise_image(image.size, self.seed, f"{epoch} {key}")
        return ImageTextRow(image_id, image, *([column[i] for i in (*positives, *negatives)] for column in columns))
