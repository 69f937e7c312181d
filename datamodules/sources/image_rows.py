"""Images from disk, and tables turned into rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from datamodules.batch import ImageTextRow
from negatives.tables.captions import (
    CAPTION_COLUMNS,
    NEGATIVE_COLUMNS,
    InputError,
    StrPath,
    read_captions,
    read_negatives,
    show,
)
from negatives.tables.files import load_table
from negatives.tables.randomness import generator_for

SOURCE = "source_caption_id"


def read_tables(captions: StrPath | list[StrPath], negatives: StrPath | list[StrPath]) -> tuple[pa.Table, pa.Table]:
    """Captions and their negatives from one table each, or from several.

    A table of paraphrases (hard positives) is one of captions that names the caption behind each, `source_caption_id`.

    Returns:
        The captions, with `source_caption_id` if a table has it, null where there is none; and the negatives.

    Raises:
        InputError: an unusable table, an id that two tables share (paraphrases may be of the others' images), an image
            id with two images, or a paraphrase of a caption that is not there or is of another image.
    """
    parts = [_caption_part(read_captions(path)) for path in _listed(captions)]
    true = pa.concat_tables(parts, promote_options="default")
    false = pa.concat_tables([read_negatives(path, true).select(NEGATIVE_COLUMNS) for path in _listed(negatives)])
    for table, column, paths in ((true, "caption_id", captions), (false, "negative_id", negatives)):
        values = table[column].to_pylist()
        if len(set(values)) < len(values):
            raise InputError(f"{column} must be unique over all tables of {paths}; give each table ids of its own.")
    images = [set(part["image_id"].to_pylist()) for part in parts if SOURCE not in part.column_names]
    pairs = set(_columns(true, "image_id", "image"))
    if sum(map(len, images)) > len(set().union(*images)) or len(pairs) > len({image_id for image_id, _ in pairs}):
        raise InputError(f"image_id must be unique over all tables of {captions}; give each table ids of its own.")
    if SOURCE in true.column_names:
        _check_sources(true, captions)
    return true, false


def read_neighbours(path: StrPath, image_ids: Collection[str]) -> dict[str, list[str]]:
    """The neighbours of images from a table of `itm neighbours`, or one like it (Parquet or JSONL).

    Args:
        path: table with the columns `image_id` and `neighbour_image_id`.
        image_ids: the images that there are.

    Returns:
        image_id -> its neighbours, in the table's order.

    Raises:
        InputError: an unusable table, an image that is not there, or one that is its own neighbour.
    """
    columns = ("image_id", "neighbour_image_id")
    table, places = load_table(path, columns)
    if missing := [name for name in columns if name not in table.column_names]:
        raise InputError(f"The table needs column `{missing[0]}` ({path}); make it by `itm neighbours`.")
    known = set(image_ids)
    neighbours: dict[str, list[str]] = {}
    for row, ends in enumerate(_columns(table, *columns)):
        image_id, neighbour = (str(end) if type(end) is int else end for end in ends)
        for name, end in zip(columns, (image_id, neighbour), strict=True):
            if not isinstance(end, str) or end not in known:
                raise InputError(
                    f"{name} must be of an image in data.captions, got {show(end)} ({path}, {places(row)}); run "
                    "`itm neighbours` on the captions that you train on."
                )
        if image_id == neighbour:
            raise InputError(
                f"An image must not be its own neighbour, {show(image_id)} is ({path}, {places(row)}); drop the row."
            )
        neighbours.setdefault(image_id, []).append(neighbour)
    return neighbours


def _caption_part(table: pa.Table) -> pa.Table:
    if SOURCE not in table.column_names:
        return table.select(CAPTION_COLUMNS)
    # JSONL may have numbers as ids, and "" where there is no source
    sources = [None if value in (None, "") else str(value) for value in table[SOURCE].to_pylist()]
    return table.select(CAPTION_COLUMNS).append_column(SOURCE, pa.array(sources, pa.string()))


def _check_sources(captions: pa.Table, paths: StrPath | list[StrPath]) -> None:
    image_of = dict(zip(captions["caption_id"].to_pylist(), captions["image_id"].to_pylist(), strict=True))
    for caption_id, image_id, source in _columns(captions, "caption_id", "image_id", SOURCE):
        if source is not None and image_of.get(source) != image_id:
            raise InputError(
                f"{SOURCE} must name a caption of the same image, got {show(source)} for caption {show(caption_id)} of "
                f"image {show(image_id)} ({paths}); list the table that has it, or drop the paraphrase."
            )


def _listed(paths: StrPath | list[StrPath]) -> list[StrPath]:
    return list(paths) if isinstance(paths, list | tuple) else [paths]


def image_path(root: Path, image: str) -> Path:
    """Where an image lies; it has to stay inside `root`.

    Raises:
        InputError: the path leads out of the folder.
    """
    path = root / image
    if Path(image).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"image path {image!r} must stay inside {root}; set image_root to the folder it starts from.")
    return path


def load_image(root: Path, image: str) -> Image.Image:
    """An image as RGB.

    Raises:
        InputError: missing, unreadable, or outside `root`.
    """
    path = image_path(root, image)
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"image {path} does not exist; check the captions table's `image` column.") from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise InputError(f"image {path} cannot be read ({error}); replace it or drop its rows.") from None


def check_images(root: Path, images: Sequence[str]) -> None:
    """All images exist, before anything expensive starts.

    Raises:
        InputError: names how many are missing and the first of them.
    """
    missing = [image for image in dict.fromkeys(images) if not image_path(root, image).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(set(images))} images do not exist, {root / missing[0]} for one; "
            "set image_root to the folder that the table's paths start from."
        )


def noise_image(size: tuple[int, int], seed: int, image_id: str) -> Image.Image:
    """Uniform RGB noise for the blind control; depends on `(seed, image_id)` and the size (width, height) only."""
    width, height = size
    pixels = generator_for(seed, "noise", image_id).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class ImageRows(Sequence[ImageTextRow]):
    """Rows that hold all texts of an image, positives first; images are read when a row is asked for.

    Args:
        captions: captions table; labelled true where `negatives` is given, unknown otherwise.
        negatives: negatives table of these captions.
        root: folder of the images.
        blind_seed: replaces every image by noise of its size (the blind control).
        max_captions: texts in a row, which bounds memory; images with more texts take several rows.
        pairs: a row for each caption, with its own negatives only and all of them, instead.
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
    ):
        self.root, self.blind_seed = root, blind_seed
        texts: dict[str, list[tuple[str, str, int, str]]] = {}
        images: dict[str, tuple[str, str]] = {}
        owner: dict[str, str] = {}
        label = -1 if negatives is None else 1
        for image_id, image, caption_id, caption in _columns(captions, "image_id", "image", "caption_id", "caption"):
            owner[caption_id] = key = caption_id if pairs else image_id
            images[key] = (image_id, image)
            texts.setdefault(key, []).append((f"caption:{caption_id}", caption, label, ""))
        if negatives is not None:
            columns = _columns(negatives, "caption_id", "negative_id", "caption", "negative_type")
            for caption_id, negative_id, caption, negative_type in columns:
                texts[owner[caption_id]].append((f"negative:{negative_id}", caption, 0, negative_type))
        self._rows = [
            (*images[key], items[start : start + width])
            for key, items in texts.items()
            for width in [len(items) if pairs else max_captions]
            for start in range(0, len(items), width)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageTextRow:  # type: ignore[override]
        image_id, path, items = self._rows[index]
        image = load_image(self.root, path)
        if self.blind_seed is not None:
            image = noise_image(image.size, self.blind_seed, image_id)
        text_ids, captions, labels, types = (list(column) for column in zip(*items, strict=True))
        return ImageTextRow(image_id, image, text_ids, captions, labels, types)


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[str, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)
