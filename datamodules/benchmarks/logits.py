"""The logits of one scorer for one benchmark, found by the ids of image and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from negatives.tables import InputError, quoted

CELLS = 4_000_000
"""Numbers that are worked on at a time, such as items x resamples or images x texts: 32 MB."""
Ids: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"


class Logits:
    """Match logits of images and texts; made by `from_table` or `from_matrix`.

    Attributes:
        image_ids, text_ids: all that have a logit, each once. Retrieval and classes search among all of them, so they
            are to be the benchmark's, and no others.
    """

    def __init__(
        self,
        image_ids: pa.Array,
        text_ids: pa.Array,
        cells: NDArray[np.int64] | None,
        logits: NDArray[Any],
        source: str = "the scores",
    ):
        """Cells are image x texts + text in ascending order, with a logit each; None: logits (images, texts)."""
        self.image_ids, self.text_ids = image_ids, text_ids
        self._cells, self._logits, self._source = cells, logits, source

    @classmethod
    def from_table(cls, scores: pa.Table, source: str = "the scores", *, column: str = "logit") -> Logits:
        """Logits of single pairs.

        Args:
            scores: columns `image_id`, `text_id` and `column`, one row for each pair.
            source: what an error calls the table.
            column: with the numbers; those of blind logits, or of scores, are read alike.

        Raises:
            InputError: a pair twice, a logit that is null or no finite number, or no row.
        """
        if not scores.num_rows:
            raise InputError(f"{source}: there is no row; a scores table has one for each image and text.")
        images, image_codes = coded(scores["image_id"])
        texts, text_codes = coded(scores["text_id"])
        logits = scores[column].cast(pa.float64()).to_numpy()
        if len(wrong := np.flatnonzero(~np.isfinite(logits))):
            pair = _pair(scores["image_id"][wrong[0]].as_py(), scores["text_id"][wrong[0]].as_py())
            raise InputError(f"{source}: a {column} must be a finite number, got {logits[wrong[0]]} for {pair}.")
        cells = image_codes * len(texts) + text_codes
        order = np.argsort(cells, kind="stable")
        cells = cells[order]
        if len(twice := np.flatnonzero(cells[1:] == cells[:-1])):
            image, text = divmod(int(cells[twice[0]]), len(texts))
            pair = _pair(images[image].as_py(), texts[text].as_py())
            raise InputError(f"{source}: a pair must be there once, got {pair} more often; keep one of its rows.")
        return cls(images, texts, cells, logits[order], source)

    @classmethod
    def from_matrix(cls, image_ids: Ids, text_ids: Ids, logits: ArrayLike, source: str = "the scores") -> Logits:
        """Logits of every image with every text.

        Args:
            image_ids: of M rows, each once.
            text_ids: of N columns; those that share an id are wordings of one text, and their logits are averaged.
            logits: (M, N).
            source: what an error calls the matrix.

        Raises:
            InputError: an image twice, another shape, or a logit that is no finite number.
        """
        matrix = np.asarray(logits)
        images, image_codes = coded(image_ids)
        texts, text_codes = coded(text_ids)
        if len(images) < len(image_codes):
            raise InputError(f"{source}: an image must be there once, got {len(image_codes)} rows of {len(images)}.")
        if matrix.shape != (len(image_codes), len(text_codes)):
            expected = (len(image_codes), len(text_codes))
            raise InputError(f"{source}: the matrix must have the shape {expected}, got {matrix.shape}.")
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            pair = _pair(images[int(row)].as_py(), texts[int(text_codes[column])].as_py())
            raise InputError(f"{source}: a logit must be a finite number, got {matrix[row, column]} for {pair}.")
        if len(texts) < len(text_codes):
            order = np.argsort(text_codes, kind="stable")
            starts = np.searchsorted(text_codes[order], np.arange(len(texts)))
            matrix = np.add.reduceat(matrix[:, order], starts, axis=1) / np.bincount(text_codes)
        return cls(images, texts, None, matrix, source)

    def of(self, image_ids: Ids, text_ids: Ids) -> NDArray[np.float64]:
        """The logits of P pairs: image p with text p, (P,).

        Raises:
            InputError: a pair has no logit; it is named.
        """
        images, texts = _array(image_ids), _array(text_ids)
        rows, columns = places_among(images, self.image_ids), places_among(texts, self.text_ids)
        if self._cells is None:
            missing = (rows < 0) | (columns < 0)
            found = self._logits[rows, columns]
        else:
            cells = rows * len(self.text_ids) + columns
            places = np.minimum(np.searchsorted(self._cells, cells), len(self._cells) - 1)
            missing = (rows < 0) | (columns < 0) | (self._cells[places] != cells)
            found = self._logits[places]
        if missing.any():
            first = int(np.argmax(missing))
            pair = _pair(images[first].as_py(), texts[first].as_py())
            count = f"{int(missing.sum())} of {len(missing)} pairs have no logit"
            raise InputError(f"{self._source}: {count}, the first is {pair}.")
        return found.astype(np.float64)

    def matrix(self, image_ids: Ids, text_ids: Ids) -> NDArray[np.float64]:
        """The logits of M images with N texts, (M, N).

        Raises:
            InputError: a pair has no logit; it is named.
        """
        images, texts = _array(image_ids), _array(text_ids)
        rows, columns = places_among(images, self.image_ids), places_among(texts, self.text_ids)
        if self._cells is None and (rows >= 0).all() and (columns >= 0).all():
            return self._logits[np.ix_(rows, columns)].astype(np.float64)
        every_image = images.take(pa.array(np.repeat(np.arange(len(images)), len(texts))))
        every_text = texts.take(pa.array(np.tile(np.arange(len(texts)), len(images))))
        return self.of(every_image, every_text).reshape(len(images), len(texts))

    def debiased(self, blind: Logits, alpha: float) -> Logits:
        """Each logit minus `alpha` times the blind one of the same pair.

        Raises:
            InputError: a pair has no blind logit.
        """
        if self._cells is None:
            same = self.image_ids.equals(blind.image_ids) and self.text_ids.equals(blind.text_ids)
            # no copy in double precision: COCO's would take 1 GB
            other = blind._logits if same and blind._cells is None else blind.matrix(self.image_ids, self.text_ids)
            return Logits(self.image_ids, self.text_ids, None, self._logits - alpha * other, self._source)
        rows, columns = np.divmod(self._cells, len(self.text_ids))
        pairs = self.image_ids.take(pa.array(rows)), self.text_ids.take(pa.array(columns))
        logits = self._logits - alpha * blind.of(*pairs)
        return Logits(self.image_ids, self.text_ids, self._cells, logits, self._source)


def _array(ids: Ids) -> pa.Array:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    return ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def coded(ids: Ids) -> tuple[pa.Array, NDArray[np.int64]]:
    """Distinct ids in the order in which they come, and the place of each id among them."""
    encoded = _array(ids).dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def places_among(ids: pa.Array, among: pa.Array) -> NDArray[np.int64]:
    """The place of each id among distinct ones; -1 where it is none of them."""
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _pair(image_id: str, text_id: str) -> str:
    return f"image {quoted(image_id)} and text {quoted(text_id)}"
