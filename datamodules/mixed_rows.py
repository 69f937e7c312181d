"""The rows that training reads: kept positives with what an epoch mixes in, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from torch.utils.data import Dataset

from datamodules.batch import ImageTextRow
from datamodules.debias import BlindLogits
from datamodules.loaders import EpochBatch
from datamodules.mixing import TextPool, draw_hard_anchor, draw_negatives, group_anchors, shown_positive
from datamodules.mixing_settings import Mixing
from datamodules.pixels import MAX_PIXELS
from datamodules.sources.images import load_image, noise_image
from negatives.tables import generator_for


class MixedRows(Dataset[list[ImageTextRow]]):
    """Batches of rows: item `(epoch, rows, places)` gives rows of kept positives with the negatives of that epoch.

    With `neighbours`, as many rows again follow, each of a hard image of the row that it stands for: a kept positive of
    a neighbour of its image with negatives by the same rules (NegCLIP). Where no neighbour has one, there is none.

    Args:
        texts: text table.
        pool: its kept texts.
        images: image_id -> path inside `root`.
        root: folder of the images.
        mixing: how negatives join positives. A row's time in training, on which a curriculum depends, is its place in
            the order of the epoch.
        seed: of all draws.
        neighbours: image_id -> images near it; none where None.
        max_pixels: larger images are refused, see `check_pixels`.
        blind_logits: what the text-only judge says of the texts, for the rows to carry; none where None.
    """

    def __init__(
        self,
        texts: pa.Table,
        pool: TextPool,
        images: dict[str, str],
        root: Path,
        *,
        mixing: Mixing,
        seed: int,
        neighbours: dict[str, list[str]] | None = None,
        max_pixels: int = MAX_PIXELS,
        blind_logits: BlindLogits | None = None,
    ):
        self.max_pixels, self.blind_logits = max_pixels, blind_logits
        self.pool, self.images, self.root, self.mixing, self.seed = pool, images, root, mixing, seed
        self.text_ids, self.image_ids = texts["text_id"].to_pylist(), texts["image_id"].to_pylist()
        self.captions, self.labels = texts["caption"].to_pylist(), texts["label"].to_pylist()
        self.types = texts["negative_type"].to_pylist()
        # unit "pair" has one positive a row: its pairs were judged one by one
        self.anchors = group_anchors(pool.anchors, self.image_ids, mixing.positives if mixing.unit == "text" else 1)
        self.neighbours = neighbours or {}
        self.anchors_of: dict[str, list[int]] = {}
        for anchor in pool.anchors:
            self.anchors_of.setdefault(self.image_ids[anchor], []).append(anchor)

    def __len__(self) -> int:
        return len(self.anchors)

    def __getitem__(self, item: EpochBatch) -> list[ImageTextRow]:
        epoch, rows, places = item
        # by its place in the epoch and not by a count of steps, so that a curriculum is the same on any number of ranks
        times = (epoch + place / len(self) for place in places)
        mixed = [(self.anchors[row], self.mixing.at(time)) for row, time in zip(rows, times, strict=True)]
        hard = [
            ([anchor], mixing)
            for anchors, mixing in mixed
            if (anchor := self.hard_anchor(epoch, anchors[0])) is not None
        ]
        return [self.row(epoch, anchors, mixing) for anchors, mixing in [*mixed, *hard]]

    def hard_anchor(self, epoch: int, anchor: int) -> int | None:
        """The anchor whose row accompanies that of `anchor` in an epoch; None for none."""
        near = self.neighbours.get(self.image_ids[anchor], ())
        caption_id = self._caption_id(anchor)
        return draw_hard_anchor(near, self.anchors_of, caption_id=caption_id, seed=self.seed, epoch=epoch)

    def row(self, epoch: int, anchors: Sequence[int], mixing: Mixing) -> ImageTextRow:
        """The row of an image's anchors (positions in the text table): what they show, then their negatives."""
        image_id = self.image_ids[anchors[0]]
        shown: list[int] = []
        negatives: list[int] = []
        for anchor in anchors:
            caption_id = self._caption_id(anchor)
            shown.append(
                shown_positive(
                    self.pool,
                    anchor,
                    caption_id=caption_id,
                    paraphrase_ratio=mixing.paraphrase_ratio,
                    seed=self.seed,
                    epoch=epoch,
                )
            )
            negatives += draw_negatives(
                self.pool,
                image_id=image_id,
                caption_id=caption_id,
                shown_id=self._caption_id(shown[-1]),
                unit=mixing.unit,
                negatives=mixing.negatives,
                swap_ratio=mixing.swap_ratio,
                seed=self.seed,
                epoch=epoch,
                taken=negatives,  # positives of one image draw from the same texts
            )
        columns = (self.text_ids, self.captions, self.labels, self.types)
        image = load_image(self.root, self.images[image_id], self.max_pixels)
        # the anchor and not what stands in for it: a paraphrase changes no draw of noise
        key = self.text_ids[anchors[0]]
        if generator_for(self.seed, epoch, key, "image_dropout").random() < mixing.image_dropout:
            # keyed by epoch too: one noise image for all epochs could be learnt by heart
            image = noise_image(image.size, self.seed, f"{epoch} {key}")
        places = [*shown, *negatives]
        blind_logit = self.blind_logits.of_row(places) if self.blind_logits is not None else None
        text_ids, captions, labels, types = ([column[i] for i in places] for column in columns)
        return ImageTextRow(image_id, image, text_ids, captions, labels, types, blind_logit)

    def _caption_id(self, positive: int) -> str:
        caption_id: str = self.text_ids[positive]
        return caption_id.removeprefix("caption:")
