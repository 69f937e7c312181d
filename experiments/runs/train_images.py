"""Which images a run was trained on, and how many of an evaluation's images are among them.

A training writes `train_images.parquet` into its folder. Images are told apart by their content and not by their id:
two data sets may both call an image "1", and one photo may have two names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from experiments.runs.progress import say, track
from negatives.tables import DAMAGED, InputError, quoted, read_captions, read_parquet, write_table

if TYPE_CHECKING:
    from datamodules import ImageTextDataModule
    from datamodules.benchmarks import Pairs

TRAIN_IMAGES_FILE = "train_images.parquet"
SCHEMA = pa.schema([("image_id", pa.string()), ("size", pa.int64()), ("content_hash", pa.string())])
EDGE = 32 * 1024
"""Bytes that are hashed at each end of a file."""
THREADS = 16
EXAMPLES = 3


@dataclass(frozen=True)
class TrainImages:
    """A run's record of the images that it could draw: their ids, and the hashes of their contents."""

    ids: frozenset[str]
    hashes: frozenset[str]


@dataclass(frozen=True)
class Overlap:
    """What a set has in common with the images of a training.

    Attributes:
        training_images: ids of the set's images whose content was trained on.
        images: how many images the set has.
        training_pairs: how many of its negatives are of images that were trained on.
        pairs: how many negatives it has.
        same_ids: how many images have the id of a training image, but another content.
    """

    training_images: frozenset[str]
    images: int
    training_pairs: int
    pairs: int
    same_ids: int

    def __str__(self) -> str:
        shown = ", ".join(quoted(name) for name in sorted(self.training_images)[:EXAMPLES])
        return (
            f"{len(self.training_images)} of {self.images} images ({self.training_pairs} of {self.pairs} pairs) are "
            f"training images of the run, such as {shown}"
        )


def content_hash(path: Path) -> tuple[int, str]:
    """A file's size in bytes, and a hash of its size and of its first and last 32 KiB: of all of it up to 64 KiB.

    COCO has 118,287 training images, so that reading them whole would take minutes. The hash tells files and not
    pictures: a copy that was encoded, scaled or cropped anew, or has other metadata, is another file. Files of one size
    that differ in their middle alone count as one file; compressed images do not differ so.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(2 * EDGE if size <= 2 * EDGE else EDGE)
            if size > 2 * EDGE:
                file.seek(-EDGE, os.SEEK_END)
                content += file.read(EDGE)
    except OSError as error:
        raise InputError(
            f"image {str(path)!r} cannot be read ({error.strerror}); replace it or drop its rows."
        ) from None
    return size, hashlib.blake2b(size.to_bytes(8, "big") + content, digest_size=16).hexdigest()


def hash_images(root: Path, images: Collection[str], label: str) -> dict[str, tuple[int, str]]:
    """`content_hash` of images, by their paths inside `root`; `label` names the work where it takes long.

    Raises:
        InputError: an image lies outside `root` or cannot be read.
    """
    from datamodules.sources import image_path

    paths = (image_path(root, image) for image in images)
    # threads: nearly all of the time goes into waiting for the disk
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(images, track(pool.map(content_hash, paths), label, len(images)), strict=True))


def record_train_images(data: ImageTextDataModule, folder: Path, benchmarks: Mapping[str, Pairs] | None = None) -> None:
    """Writes the record of a training's images, and says which of those that it is validated on are among them.

    Args:
        data: set up.
        folder: of the run.
        benchmarks: name -> the images of a benchmark that is scored in validations, a negative for each of its items.

    Raises:
        InputError: an image cannot be read, or an earlier record in the folder is damaged.
    """
    images, path = data.images_to_train_on(), folder / TRAIN_IMAGES_FILE
    hashes = hash_images(data.root, list(images.values()), "Training images recorded")
    rows = {(image_id, *hashes[image]) for image_id, image in images.items()}
    # a run that goes on was trained on what it has recorded before, whatever its tables say now
    rows |= {tuple(row.values()) for row in _read(path).to_pylist()} if path.is_file() else set()
    columns = zip(*sorted(rows), strict=True)
    write_table(pa.table([pa.array(column) for column in columns], SCHEMA), path)
    recorded = read_train_images(folder)
    assert recorded is not None
    validated = {"data.validation": data.validation} if data.validation is not None else {}
    for name, pairs in {**validated, **(benchmarks or {})}.items():
        found = find_overlap(recorded, pairs, name)
        if found.training_images:
            say(f"{name}: {found}; its curve is no measure of other images.")


def read_train_images(folder: Path) -> TrainImages | None:
    """The record in a run's folder; None where there is none, as in runs of older versions.

    Raises:
        InputError: the record is damaged.
    """
    path = folder / TRAIN_IMAGES_FILE
    if not path.is_file():
        return None
    table = _read(path)
    return TrainImages(*(frozenset(table[name].to_pylist()) for name in ("image_id", "content_hash")))


def ids_in_tables(tables: str | list[str]) -> frozenset[str]:
    """The image ids of the captions tables that an older run names, of those that can still be read."""
    found: set[str] = set()
    # a device or a pipe, which anybody's run may name, has no end
    for table in filter(os.path.isfile, tables if isinstance(tables, list) else [tables]):
        with suppress(InputError):
            found.update(read_captions(table)["image_id"].to_pylist())
    return frozenset(found)


def find_overlap(recorded: TrainImages, pairs: Pairs, label: str) -> Overlap:
    """What a set has in common with a training, by content.

    Args:
        recorded: the images of the training.
        pairs: the set.
        label: names the set where hashing its images takes long.

    Raises:
        InputError: an image of the set cannot be read.
    """
    names, paths = (pairs.captions[name].to_pylist() for name in ("image_id", "image"))
    hashes = hash_images(pairs.root, list(dict.fromkeys(paths)), f"{label}: images compared with the training's")
    known = {name for name, path in zip(names, paths, strict=True) if hashes[path][1] in recorded.hashes}
    # an image without negatives is in no pair; one with two file names, as in VALSE, is known by either
    images = images_of_pairs(pairs)
    training_images = frozenset(known.intersection(images))
    return Overlap(
        training_images,
        images=len(set(images)),
        training_pairs=sum(image in training_images for image in images),
        pairs=len(images),
        same_ids=len(recorded.ids.intersection(images) - training_images),
    )


def images_of_pairs(pairs: Pairs) -> list[str]:
    """The image id of each negative."""
    columns = (pairs.captions[name].to_pylist() for name in ("caption_id", "image_id"))
    image_of = dict(zip(*columns, strict=True))
    return [image_of[name] for name in pairs.negatives["caption_id"].to_pylist()]


def _read(path: Path) -> pa.Table:
    try:
        table = read_parquet(path)
        # `read_table` by a schema makes nulls of a column that is not there, and no image has such a hash
        if not len(table) or not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
            raise ValueError(f"its columns must be {', '.join(SCHEMA.names)}, given in every row")
        return table
    except DAMAGED as error:
        # a record that says nothing must not pass for one without images
        raise InputError(
            f"{path} must be the record that `itm train` writes, and is damaged: {quoted(str(error), 120)}. "
            "Remove it: what the run was trained on is then not known."
        ) from error
