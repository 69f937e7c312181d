"""Texts and pairs as judges see them: each text once, in an order of its own, with what belongs to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from negatives.tables.columns import strings
from negatives.tables.files import InputError, quoted
from negatives.tables.randomness import hash_of


@dataclass(frozen=True)
class TextPairs:
    """U different texts and the P pairs among them; nothing in it depends on the order of the tables' rows.

    Rows of the tables that agree in image, label, negative type and caption are one text, so that a caption counts once
    however often it was written down or however many negatives it has.

    Attributes:
        captions: U texts, sorted by image, label, type and caption.
        labels: [U] 1 positive, 0 negative.
        types: [U] negative type, "" for positives.
        images: [U] position of the image in `image_ids`.
        image_ids: sorted ids of the images.
        pairs: [P, 2] positive and negative of one image, sorted, none twice.
        text_of: [N] the text of each row of the text table.
        pair_of: [R] the pair of each (caption_id, negative_id) of `pair_table`.
    """

    captions: list[str]
    labels: np.ndarray
    types: np.ndarray
    images: np.ndarray
    image_ids: list[str]
    pairs: np.ndarray
    text_of: np.ndarray
    pair_of: np.ndarray

    @property
    def pair_types(self) -> np.ndarray:
        """[P] the negative type of each pair."""
        return self.types[self.pairs[:, 1]]

    @property
    def pair_images(self) -> np.ndarray:
        """[P] the image of each pair."""
        return self.images[self.pairs[:, 0]]

    def key(self, text: int) -> str:
        """What random draws for a text depend on, beside their seed."""
        # names, not positions: a text keeps its draw when others come or go
        return "\n".join((self.image_ids[self.images[text]], self.types[text], self.captions[text]))

    def subset(self, keep: np.ndarray, keep_pairs: np.ndarray) -> TextPairs:
        """The kept texts and pairs; a pair goes with its texts. `text_of` and `pair_of` are left empty.

        Args:
            keep: [U] bool.
            keep_pairs: [P] bool.
        """
        place = np.cumsum(keep) - 1  # of each kept text among the kept ones
        pairs = self.pairs[keep_pairs & keep[self.pairs].all(axis=1)]
        # images of which nothing is kept go: folds are dealt out over those that are left
        used, images = np.unique(self.images[keep], return_inverse=True)
        nothing = np.empty(0, dtype=np.int64)
        return TextPairs(
            captions=[self.captions[text] for text in np.flatnonzero(keep)],
            labels=self.labels[keep],
            types=self.types[keep],
            images=images,
            image_ids=[self.image_ids[image] for image in used],
            pairs=place[pairs],
            text_of=nothing,
            pair_of=nothing,
        )

    def joined(self, others: TextPairs) -> TextPairs:
        """These texts and pairs, and behind them those of other images.

        Args:
            others: of no image that is here.

        Raises:
            ValueError: an image is in both.
        """
        if common := set(self.image_ids) & set(others.image_ids):
            raise ValueError(f"Photos must not be in both sets, and {len(common)} are.")
        nothing = np.empty(0, dtype=np.int64)
        return TextPairs(
            captions=self.captions + others.captions,
            labels=np.concatenate([self.labels, others.labels]),
            types=np.concatenate([self.types, others.types]),
            images=np.concatenate([self.images, others.images + len(self.image_ids)]),
            image_ids=self.image_ids + others.image_ids,
            pairs=np.concatenate([self.pairs, others.pairs + len(self.captions)]),
            text_of=nothing,
            pair_of=nothing,
        )


def build_text_pairs(texts: pa.Table, pairs: pa.Table) -> TextPairs:
    """Each text of a text table once, with its pairs.

    Args:
        texts: columns `text_id, image_id, caption, label, negative_type` (see `captions.text_table`).
        pairs: columns `caption_id, negative_id` (see `captions.pair_table`).

    Raises:
        InputError: if a pair names a text that is not there.
    """
    # what a text is to a judge: the same wording for another image, or as another type, is another text
    columns = zip(
        *(strings(texts, "image_id"), texts["label"].to_pylist()),
        *(strings(texts, "negative_type"), strings(texts, "caption")),
        strict=True,
    )
    keys = list(columns)
    unique = sorted(set(keys))
    place = {key: position for position, key in enumerate(unique)}
    text_of = np.array([place[key] for key in keys], dtype=np.int64)
    image_ids = sorted({key[0] for key in unique})
    image = {image_id: position for position, image_id in enumerate(image_ids)}
    rows = {text_id: row for row, text_id in enumerate(strings(texts, "text_id"))}
    ends = np.empty((len(pairs), 2), dtype=np.int64)
    for end, (table, column) in enumerate((("caption", "caption_id"), ("negative", "negative_id"))):
        ends[:, end] = [text_of[_row(rows, f"{table}:{name}")] for name in strings(pairs, column)]
    # sorted, so that fits sum in an order of their own whatever the order of the tables' rows
    unique_pairs, pair_of = np.unique(ends, axis=0, return_inverse=True)
    return TextPairs(
        captions=[key[3] for key in unique],
        labels=np.array([key[1] for key in unique], dtype=np.int64),
        types=np.array([key[2] for key in unique], dtype=object),
        images=np.array([image[key[0]] for key in unique], dtype=np.int64),
        image_ids=image_ids,
        pairs=unique_pairs.reshape(-1, 2),
        text_of=text_of,
        pair_of=pair_of.reshape(-1),
    )


def _row(rows: dict[str, int], text_id: str) -> int:
    if text_id not in rows:
        raise InputError(f"A pair names {quoted(text_id)}, which is not among the texts. Give its captions table too.")
    return rows[text_id]


def fold_of(image_ids: Sequence[str], folds: int, seed: int | str) -> np.ndarray:
    """The fold of each image: 0..folds-1, images dealt out in the order of a hash of (seed, image id).

    Folds differ by one image at most.

    Args:
        image_ids: different ids; a fold depends on their set, not on their order.
        folds: number of folds.
        seed: of the hash.

    Raises:
        InputError: if there are fewer images than folds.

    >>> first, second = fold_of(["a", "b", "c"], folds=2, seed=0), fold_of(["c", "b", "a"], folds=2, seed=0)
    >>> bool((first == second[::-1]).all())
    True
    """
    if len(image_ids) < folds:
        raise InputError(
            f"Cross-fitting needs an image for each fold, got {len(image_ids)} images for {folds} folds. "
            "Give or keep more images, or ask for fewer folds."
        )
    # dealt out by hash, not at random: an image keeps its place among the others when rows are shuffled or read anew
    order = sorted(range(len(image_ids)), key=lambda i: (hash_of("fold", seed, image_ids[i]), image_ids[i]))
    fold = np.empty(len(image_ids), dtype=np.int64)
    fold[order] = np.arange(len(image_ids)) % folds
    return fold
