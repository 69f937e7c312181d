"""Images and captions as a caller gives them: checked lists, and the rows of one image that they are computed in."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from datamodules.batch import UNKNOWN, ImageTextRow, InputError
from datamodules.pixels import MAX_PIXELS, read_rgb

ImageLike = Image.Image | str | os.PathLike | np.ndarray
"""An image: Pillow's, the path of a file, or an RGB array [H, W, 3] of uint8."""
MAX_CAPTIONS = 16
"""Captions of an image that are computed together, which bounds memory; an image with more takes several rows."""


class Row(NamedTuple):
    """Places in the two lists: an image, and captions that are computed with it."""

    image: int
    captions: Sequence[int]


def caption_list(captions: str | Iterable[str]) -> tuple[list[str], bool]:
    """The captions, and whether it was a single one.

    Raises:
        InputError: what is no caption, and where it stands.
    """
    if isinstance(captions, str):
        _check_text(captions, "captions")
        return [captions], True
    if not isinstance(captions, Iterable):
        raise InputError(f"captions must be a str or a list of str, got {type(captions).__name__}.")
    items = list(captions)
    for place, caption in enumerate(items):
        if not isinstance(caption, str):
            raise InputError(f"captions[{place}] must be a str, got {type(caption).__name__}.")
        _check_text(caption, f"captions[{place}]")
    return items, False


def _check_text(caption: str, place: str) -> None:
    try:
        caption.encode()
    except UnicodeEncodeError as error:  # half of a character: tokenizers raise a TypeError about something else
        raise InputError(f"{place} must be text that UTF-8 can hold, got {caption[:60]!r} ({error.reason}).") from None


def image_list(images: ImageLike | Iterable[ImageLike]) -> tuple[list[ImageLike], bool]:
    """The images, and whether it was a single one; files are there, and are read by `open_image`.

    Raises:
        InputError: what is no image, and where it stands.
    """
    if isinstance(images, ImageLike):
        check_image(images, "images")
        return [images], True
    # a tensor is iterable: its rows would be refused one by one
    if not isinstance(images, Iterable) or isinstance(images, torch.Tensor):
        raise InputError(
            f"images must be a Pillow image, a path, an RGB array or a list of these, got {type(images).__name__}."
        )
    items = list(images)
    for place, image in enumerate(items):
        check_image(image, f"images[{place}]")
    return items, False


def check_image(image: Any, place: str) -> None:
    """That an image can be one, as far as can be told without reading its file.

    Raises:
        InputError: names `place`.
    """
    if not isinstance(image, ImageLike):
        raise InputError(f"{place} must be a Pillow image, a path or an RGB array, got {type(image).__name__}.")
    if isinstance(image, str | os.PathLike) and not os.path.isfile(image):
        raise InputError(f"{place}: there is no file {os.fspath(image)!r}; give the path of an image.")
    # floats and channels in front would be read as pixels of another meaning without a word
    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise InputError(f"{place} must be an array [H, W, 3] of uint8, got {list(image.shape)} of {image.dtype}.")
    size = image.shape if isinstance(image, np.ndarray) else getattr(image, "size", (1, 1))
    if 0 in size:
        raise InputError(f"{place} has no pixels: its size is {tuple(size)}.")


def open_image(image: ImageLike, place: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image as `read_rgb` reads it: 8-bit RGB.

    Raises:
        InputError: it cannot be read, or is larger than `max_pixels`; names `place`.
    """
    name = f": {os.fspath(image)!r}" if isinstance(image, str | os.PathLike) else ""
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(np.ascontiguousarray(image))
        return read_rgb(image, max_pixels)
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        reason = " ".join(str(error).split())
        raise InputError(f"{place}{name} cannot be read as an image ({reason}); replace it or leave it out.") from None


def image_batches(images: Sequence[ImageLike], size: int, max_pixels: int = MAX_PIXELS) -> Iterator[list[Image.Image]]:
    """Images as RGB, `size` at a time, opened when they are asked for.

    Raises:
        InputError: one cannot be read, or is larger than `max_pixels`; names its place.
    """
    for start in range(0, len(images), size):
        taken = images[start : start + size]
        yield [open_image(image, f"images[{place}]", max_pixels) for place, image in enumerate(taken, start)]


def identity(image: ImageLike) -> Hashable:
    """Equal for what is the same image without looking: the same object, or the same path."""
    # an id cannot be given again: the list of images keeps each alive
    return os.fspath(image) if isinstance(image, str | os.PathLike) else id(image)


def rows_of_pairs(images: Sequence[ImageLike], most: int) -> list[Row]:
    """Rows of N pairs: the captions of one image stand together, `most` of them at a time, wherever the pairs stand.

    >>> rows_of_pairs(["a.png", "b.png", "a.png", "a.png"], most=2)
    [Row(image=0, captions=[0, 2]), Row(image=0, captions=[3]), Row(image=1, captions=[1])]
    """
    places: dict[Hashable, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(identity(image), []).append(place)
    return [Row(group[0], group[i : i + most]) for group in places.values() for i in range(0, len(group), most)]


def rows_of_matrix(images: int, captions: int, most: int) -> list[Row]:
    """Rows of every image with every caption, `most` captions at a time.

    >>> rows_of_matrix(1, 3, most=2)
    [Row(image=0, captions=[0, 1]), Row(image=0, captions=[2])]
    """
    chunks = [list(range(captions)[start : start + most]) for start in range(0, captions, most)]
    return [Row(image, chunk) for image in range(images) for chunk in chunks]


def batches_of(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Rows in batches of at most `size` captions, in order.

    >>> [len(batch) for batch in batches_of([Row(0, [0, 1]), Row(0, [2]), Row(1, [0, 1])], size=3)]
    [2, 1]
    """
    batches: list[list[Row]] = []
    room = 0
    for row in rows:
        if len(row.captions) > room:
            batches.append([])
            room = size
        batches[-1].append(row)
        room -= len(row.captions)
    return batches


def text_row(row: Row, image: Image.Image, captions: Sequence[str]) -> ImageTextRow:
    """A row of unlabelled captions, whose ids say where they stand."""
    return ImageTextRow(
        f"images[{row.image}]",
        image,
        [f"captions[{place}]" for place in row.captions],
        [captions[place] for place in row.captions],
        [UNKNOWN] * len(row.captions),
        [""] * len(row.captions),
    )
