"""Which images a run was trained on, and how many of an evaluation's images are among them.

A training writes `train_images.parquet` into its folder. Images are told apart by their content and not by their id:
two data sets may both call an image "1", and one photo may have two names.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
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
CROP = re.compile(r"@-?\d+,-?\d+,\d+,\d+$")
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
class SetImages:
    """The images of a set, and which of them its items are of.

    Attributes:
        name: of the set.
        root: folder of the images.
        files: image id -> its paths inside `root`; one photo may have two names, as in VALSE.
        items: ids of the images of each item.
    """

    name: str
    root: Path
    files: Mapping[str, Sequence[str]]
    items: Sequence[Sequence[str]]

    @classmethod
    def of_pairs(cls, name: str, pairs: Pairs) -> SetImages:
        """Of tables: an item is a negative."""
        captions, images, paths = (pairs.captions[key].to_pylist() for key in ("caption_id", "image_id", "image"))
        image_of = dict(zip(captions, images, strict=True))
        items = [(image_of[caption],) for caption in pairs.negatives["caption_id"].to_pylist()]
        return cls(name, pairs.root, files_by_image(zip(images, paths, strict=True)), items)

    @cached_property
    def used(self) -> frozenset[str]:
        """The images of the items: an image without a negative is in none."""
        return frozenset(image for images in self.items for image in images)

    @cached_property
    def hashes(self) -> Mapping[str, frozenset[str]]:
        """Image id -> `content_hash` of its files; read once, however many runs are asked about.

        Raises:
            InputError: an image cannot be read.
        """
        paths = list(dict.fromkeys(path for files in self.files.values() for path in files))
        found = hash_images(self.root, paths, f"{self.name}: images compared with the training's")
        return {image: frozenset(found[path][1] for path in files) for image, files in self.files.items()}

    def called(self, ids: Collection[str]) -> frozenset[str]:
        """The images that have one of these ids; a crop, `<image_id>@x,y,w,h`, has its photo's."""
        return frozenset(image for image in self.used if CROP.sub("", image) in ids)


def files_by_image(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Rows of image id and path as image id -> its paths."""
    files: dict[str, list[str]] = {}
    for image, path in rows:
        files.setdefault(image, []).append(path)
    return files


@dataclass(frozen=True)
class Overlap:
    """What a set has in common with the images of a training.

    Attributes:
        training_images: ids of the set's images whose content was trained on.
        images: how many images the set has.
        training_items: how many of its items have an image that was trained on.
        items: how many items it has.
        same_ids: how many images have the id of a training image, but another content.
    """

    training_images: frozenset[str]
    images: int
    training_items: int
    items: int
    same_ids: int

    def __str__(self) -> str:
        shown = ", ".join(quoted(name) for name in sorted(self.training_images)[:EXAMPLES])
        return (
            f"{len(self.training_images)} of {self.images} images ({self.training_items} of {self.items} items) are "
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


def record_train_images(data: ImageTextDataModule, folder: Path, benchmarks: Iterable[SetImages] = ()) -> None:
    """Writes the record of a training's images, and says which of those that it is validated on are among them.

    Args:
        data: set up.
        folder: of the run.
        benchmarks: the images of each benchmark that is scored in validations.

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
    validated = [SetImages.of_pairs("data.validation", data.validation)] if data.validation is not None else []
    for images_of_set in (*validated, *benchmarks):
        found = find_overlap(recorded, images_of_set)
        if found.training_images:
            say(f"{images_of_set.name}: {found}; its curve is no measure of other images.")


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


def find_overlap(recorded: TrainImages, images: SetImages) -> Overlap:
    """What a set has in common with a training, by content.

    Args:
        recorded: the images of the training.
        images: of the set.

    Raises:
        InputError: an image of the set cannot be read.
    """
    # an image with two files, as in VALSE, is known by either
    known = {image for image, hashes in images.hashes.items() if not hashes.isdisjoint(recorded.hashes)}
    training_images = images.used & known
    return Overlap(
        training_images,
        images=len(images.used),
        training_items=sum(not training_images.isdisjoint(item) for item in images.items),
        items=len(images.items),
        same_ids=len(images.called(recorded.ids) - training_images),
    )


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
