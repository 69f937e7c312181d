"""Images from disk, none from outside their folder, and the noise that stands in for them in the blind control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.pixels import MAX_PIXELS, read_rgb
from negatives.tables import InputError, generator_for


def image_path(root: Path, image: str) -> Path:
    """Where an image lies; it has to stay inside `root`.

    Raises:
        InputError: the path leads out of the folder, or nowhere.
    """
    path = root / image
    try:
        # resolved, since a link inside the folder may lead out of it; tables and annotations may be anyone's
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError before Python 3.13
        raise InputError(f"image {str(path)!r} cannot be found ({error}); replace it or drop its rows.") from None
    if Path(image).is_absolute() or not resolved.is_relative_to(root.resolve()):
        raise InputError(f"image path {image!r} must stay inside {root}; set image_root to the folder it starts from.")
    return path


def load_image(root: Path, image: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image as `read_rgb` reads it: 8-bit RGB.

    Raises:
        InputError: missing, unreadable, larger than `max_pixels` (see `check_pixels`), or outside `root`.
    """
    path = image_path(root, image)
    try:
        return read_rgb(path, max_pixels)
    except FileNotFoundError:
        raise InputError(f"image {str(path)!r} does not exist; check the captions table's `image` column.") from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise InputError(f"image {str(path)!r} cannot be read ({error}); replace it or drop its rows.") from None


def part_of(image: Image.Image, box: Sequence[int]) -> Image.Image:
    """What of a box lies in an image, to be shown; a scorer sees black outside of it.

    Args:
        image: the whole one.
        box: x, y, width and height.

    Raises:
        ValueError: nothing of it does.
    """
    x, y, width, height = box
    return image.crop((max(0, x), max(0, y), min(image.width, x + width), min(image.height, y + height)))


def check_images(root: Path, images: Sequence[str], setting: str = "image_root") -> None:
    """All images exist, before anything expensive starts.

    Args:
        root: folder of the images.
        images: paths that start there.
        setting: what the error calls the setting of `root`.

    Raises:
        InputError: names how many are missing and the first of them.
    """
    missing = [image for image in dict.fromkeys(images) if not image_path(root, image).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(set(images))} images do not exist, {str(root / missing[0])!r} for one; "
            f"set {setting} to the folder that the table's paths start from."
        )


def noise_image(size: tuple[int, int], seed: int, image_id: str) -> Image.Image:
    """Uniform RGB noise for the blind control; depends on `(seed, image_id)` and the size (width, height) only."""
    # keyed by the id and not by a count: the noise of an image is the same whatever else is scored
    width, height = size
    pixels = generator_for(seed, "noise", image_id).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
