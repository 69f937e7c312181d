"""Caption and negative tables turned into rows: an image with its texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from datamodules.batch import ImageTextRow
from datamodules.pixels import MAX_PIXELS
from datamodules.sources.images import load_image, noise_image
from datamodules.sources.tables import columns_of


class ImageRows(Sequence[ImageTextRow]):
    """Rows that hold all texts of an image, positives first; images are read when a row is asked for.

    Args:
        captions: captions table; labelled true where `negatives` is given, unknown otherwise.
        negatives: negatives table of these captions.
        root: folder of the images.
        blind_seed: replaces every image by noise of its size (the blind control).
        max_captions: texts in a row, which bounds memory; images with more texts take several rows.
        pairs: a row for each caption, with its own negatives only and all of them, instead.
        max_pixels: larger images are refused, see `check_pixels`.
    """

    def __init__(
        self,
        captions: pa.Table,
        negatives: pa.Table | None,
        root: Path,
        *,
        blind_seed: int | None = None,
        max_captions: int = 16,
        pairs: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self.root, self.blind_seed, self.max_pixels = root, blind_seed, max_pixels
        # by path too: VALSE has the same photo under two names, and only one of the two files may be there
        texts: dict[tuple[str, ...], list[tuple[str, str, int, str]]] = {}
        owner: dict[str, tuple[str, ...]] = {}
        label = -1 if negatives is None else 1
        for image_id, image, caption_id, caption in columns_of(captions, "image_id", "image", "caption_id", "caption"):
            owner[caption_id] = key = (image_id, image, caption_id) if pairs else (image_id, image)
            texts.setdefault(key, []).append((f"caption:{caption_id}", caption, label, ""))
        if negatives is not None:
            columns = columns_of(negatives, "caption_id", "negative_id", "caption", "negative_type")
            for caption_id, negative_id, caption, negative_type in columns:
                texts[owner[caption_id]].append((f"negative:{negative_id}", caption, 0, negative_type))
        self._rows = [
            (image_id, image, items[start : start + width])
            for (image_id, image, *_), items in texts.items()
            # a pair stays in one row, however many negatives it has
            for width in [len(items) if pairs else max_captions]
            for start in range(0, len(items), width)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def text_ids(self, start: int, stop: int) -> list[str]:
        """The texts of rows, in order; no image is read."""
        return [text_id for _, _, items in self._rows[start:stop] for text_id, *_ in items]

    def __getitem__(self, index: int) -> ImageTextRow:  # type: ignore[override]
        image_id, path, items = self._rows[index]
        image = load_image(self.root, path, self.max_pixels)
        if self.blind_seed is not None:
            image = noise_image(image.size, self.blind_seed, image_id)
        text_ids, captions, labels, types = (list(column) for column in zip(*items, strict=True))
        return ImageTextRow(image_id, image, text_ids, captions, labels, types)
