"""What is asked of a scorer: the distinct images and texts of all sets, and which of them together.

An image is known by the hash of its file and its box, a text by its text: what two sets have in common is scored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from datamodules import MAX_PIXELS
from datamodules.sources import image_path, load_image, noise_image
from experiments.runs.progress import track
from negatives.tables import InputError

KEY = pa.binary(16)
THREADS = 8
IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("root", pa.string()),
        ("image", pa.string()),
        ("box", pa.list_(pa.int32())),
        ("noise", pa.string()),
    ]
)
"""`key`: content and box; `noise`: the image_id that seeds the noise which stands in for the image, null for none."""
Places = NDArray[np.int64]


@dataclass(frozen=True)
class SetRequests:
    """What one set asks, by places.

    Attributes:
        images: [M] the place in `Requests.images` of each row of its images.
        blind: [M] the place of the noise that stands in for each; None where no blind control is asked for.
        texts: [N] the place in `Requests.texts` of each row of its texts.
        asked: [P, 2] rows of its images and of its texts that meet; None where every image meets every text.
    """

    images: Places
    blind: Places | None
    texts: Places
    asked: Places | None


@dataclass(frozen=True)
class Requests:
    """All that is asked of a scorer.

    Attributes:
        images: I distinct images and noises, columns of `IMAGES`.
        texts: T distinct texts.
        sets: what each set asks.
        seed: of the noise.
        max_pixels: larger images are refused.
    """

    images: pa.Table
    texts: pa.Array
    sets: tuple[SetRequests, ...]
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    _last: dict[int, Image.Image] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def image_keys(self) -> pa.Array:
        """[I] 16 bytes that tell an image, or the noise in its place."""
        noise, keys = self.images["noise"], self.images["key"]
        named = (f"noise {self.seed} {name} {key}" if name is not None else key for key, name in _rows(keys, noise))
        return hashes(named)

    @cached_property
    def text_keys(self) -> pa.Array:
        """[T] 16 bytes that tell a text."""
        return hashes(text.as_py() for text in self.texts)

    @cached_property
    def text_lengths(self) -> Places:
        """[T] bytes of each text."""
        return pc.binary_length(self.texts).to_numpy(zero_copy_only=False).astype(np.int64)

    def pairs(self) -> Places:
        """The distinct pairs that are asked about: image x T + text, in ascending order."""
        found = [cells for one in self.sets for cells in self._cells(one)]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def _cells(self, one: SetRequests) -> Iterable[Places]:
        width = len(self.texts)
        for images in (one.images, one.blind):
            if images is None:
                continue
            if one.asked is None:
                yield (np.unique(images)[:, None] * width + np.unique(one.texts)).ravel()
            else:
                yield np.unique(images[one.asked[:, 0]] * width + one.texts[one.asked[:, 1]])

    def load(self, place: int) -> Image.Image:
        """An image as a scorer sees it: cut to its box, or replaced by noise of its size.

        Raises:
            InputError: it cannot be read, or is larger than `max_pixels`.
        """
        # rows of an image follow each other: it is read once for them
        if place not in self._last:
            self._last.clear()
            self._last[place] = self._read(place)
        return self._last[place]

    def _read(self, place: int) -> Image.Image:
        row = {name: self.images[name][place].as_py() for name in ("root", "image", "box", "noise")}
        image = load_image(Path(row["root"]), row["image"], self.max_pixels)
        if row["box"] is not None:
            x, y, width, height = row["box"]
            # Pillow fills with black what lies outside the image, as the benchmarks' own code does
            image = image.crop((x, y, x + width, y + height))
        return image if row["noise"] is None else noise_image(image.size, self.seed, row["noise"])


@dataclass(frozen=True)
class Asked:
    """A set before it is joined with others: its tables and the folder of its images.

    Attributes:
        images: columns `image_id`, `image` and, where parts of images are shown, `box`, as of `Benchmark`.
        texts: the text of each row of its texts.
        pairs: [P, 2] rows of images and of texts; None for every image with every text.
        root: folder that `image` starts from.
    """

    images: pa.Table
    texts: pa.Array
    pairs: Places | None
    root: Path


def join(
    sets: Sequence[Asked], *, blind: bool = True, seed: int = 0, max_pixels: int = MAX_PIXELS, with_images: bool = True
) -> Requests:
    """The requests of all sets, each distinct image and text once.

    Args:
        sets: what is asked.
        blind: whether noise of each image is asked about too, the blind control.
        seed: of the noise.
        max_pixels: larger images are refused when they are read.
        with_images: False where the scorer reads no image: then none is looked at.

    Raises:
        InputError: an image lies outside its folder, or cannot be read.
    """
    tables, places = [], []
    hashed = _content_hashes(sets) if with_images else {}
    for asked in sets:
        table = _image_table(asked, hashed)
        noise = table.set_column(4, IMAGES.field(4), asked.images["image_id"].combine_chunks().cast(pa.string()))
        tables += [table, noise] if blind and with_images else [table]
    every = pa.concat_tables(tables)
    keys = pc.binary_join_element_wise(every["key"].cast(pa.string()), pc.fill_null(every["noise"], ""), "\n")
    # null and "" are two things: no noise, and noise of an image that is called ""
    keys = pc.if_else(pc.is_null(every["noise"]), every["key"], keys)
    codes, firsts = _coded(keys.combine_chunks())
    text_codes, text_firsts = _coded(pa.concat_arrays([_plain(asked.texts) for asked in sets]))
    texts = pa.concat_arrays([_plain(asked.texts) for asked in sets]).take(pa.array(text_firsts))
    start = text_start = 0
    for asked in sets:
        count, own = len(asked.images), text_codes[text_start : text_start + len(asked.texts)]
        seen, start = codes[start : start + count], start + count
        blind_places = None
        if blind and with_images:
            blind_places, start = codes[start : start + count], start + count
        places.append(SetRequests(seen, blind_places, own, asked.pairs))
        text_start += len(asked.texts)
    return Requests(every.take(pa.array(firsts)).combine_chunks(), texts, tuple(places), seed, max_pixels)


def _image_table(asked: Asked, hashed: dict[tuple[Path, str], str]) -> pa.Table:
    names = asked.images["image"].to_pylist()
    boxes = asked.images["box"].to_pylist() if "box" in asked.images.column_names else [None] * len(names)
    # without images a set is asked about its texts alone, and rows are told apart by their names
    contents = [hashed.get((asked.root, name), name) for name in names]
    keys = [
        content if box is None else f"{content}@{','.join(map(str, box))}"
        for content, box in zip(contents, boxes, strict=True)
    ]
    columns = [keys, [str(asked.root)] * len(names), names, boxes, [None] * len(names)]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, IMAGES, strict=True)], IMAGES)


def _content_hashes(sets: Sequence[Asked]) -> dict[tuple[Path, str], str]:
    files = list(dict.fromkeys((asked.root, name) for asked in sets for name in asked.images["image"].to_pylist()))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda file: file_content(image_path(*file)), files)
        return dict(zip(files, track(found, "images known by their content", len(files)), strict=True))


def file_content(path: Path) -> str:
    """A hash of all of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(
            f"image {str(path)!r} cannot be read ({error.strerror}); replace it or drop its rows."
        ) from None


def hashes(texts: Iterable[str]) -> pa.Array:
    """16 bytes for each text."""
    # a caption from JSON may hold half of a character
    content = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
    )
    return pa.Array.from_buffers(KEY, len(content) // 16, [None, pa.py_buffer(content)])


def _rows(*columns: pa.ChunkedArray) -> Iterable[tuple[str, ...]]:
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _plain(texts: pa.Array) -> pa.Array:
    return (texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts).cast(pa.string())


def _coded(values: pa.Array) -> tuple[Places, Places]:
    """The place of each value among the distinct ones, in the order in which they come, and where each comes first."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = values.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    firsts = np.full(len(encoded.dictionary), -1, np.int64)
    # backwards: what is written last is the first
    firsts[codes[::-1]] = np.arange(len(codes))[::-1]
    return codes, firsts
