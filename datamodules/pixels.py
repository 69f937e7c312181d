"""The pixels of an image: 8-bit RGB by one rule, whatever a file holds, in training, evaluation and scoring alike."""

from __future__ import annotations

import os
import threading

import numpy as np
from PIL import ExifTags, Image

IMAGE_READER = 2
"""Raised when the rule changes: scores of two readers do not mix. The first reader was Pillow's `convert("RGB")`."""
MAX_PIXELS = 2**27
"""The default limit: sides of at most 11585 pixels, the longer one at most 2048 times the shorter."""
MODEL_SIDE = 256
"""About the side of the images that models read."""
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations but the upright one, and what turns each upright."""
_OPENING = threading.Lock()


def read_rgb(image: Image.Image | str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image as a person sees it, 8-bit RGB; the first frame of a file.

    Turned upright as EXIF says, transparent parts on white, wider values scaled to 0..255 (see `scaled_grey`), other
    colours by Pillow's `convert`. The result says nothing of EXIF any more: read again, it stays as it is.

    Args:
        image: Pillow's, at the frame where it stands, or the path of a file.
        max_pixels: see `check_pixels`; a file's header is enough to tell.

    Raises:
        ValueError: more pixels than `max_pixels`, or values that cannot be told from each other in 8 bits.
        Exception: what Pillow raises of a damaged file.
    """
    if isinstance(image, Image.Image):
        check_pixels(image.size, max_pixels)
        return _to_rgb(image)
    with _open(image) as opened:
        # Pillow hands it to Ghostscript, and PostScript is a program
        if opened.format == "EPS":
            raise ValueError("EPS is no image but a program: convert it to PNG")
        check_pixels(opened.size, max_pixels)
        return _to_rgb(opened)


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuses what would take too much memory on its way into a model.

    A backbone pads an image to a square of its longer side, or enlarges its shorter side to the model's: what counts is
    the larger of the two areas.

    Raises:
        ValueError: it takes more than `max_pixels`.
    """
    longer, shorter = max(size), max(1, min(size))
    needed = max(longer * longer, MODEL_SIDE * MODEL_SIDE * longer // shorter)
    if needed > max_pixels:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels grow to {needed} before a model reads them, max_pixels is {max_pixels}: "
            "make the image smaller or raise max_pixels"
        )


def _open(path: str | os.PathLike) -> Image.Image:
    """Reads a file's header; Pillow's own limit warns, or refuses what a larger `max_pixels` allows."""
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgb = Image.fromarray(scaled_grey(image)).convert("RGB")
    elif image.has_transparency_data:
        # of premultiplied modes only the plain mode is a step away
        rgba = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=rgba)
    else:
        rgb = image.convert("RGB")
    # after the pixels: PNG's EXIF may stand behind them, and TIFF is turned by Pillow while it loads
    method = TRANSPOSED.get(_orientation(image))
    if method is not None:
        rgb = rgb.transpose(method)
    # Pillow copies EXIF along: it would turn the image a second time
    rgb.info = {}
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF is no reason to lose the pixels
        return 1


def scaled_grey(image: Image.Image) -> np.ndarray:
    """[H, W] uint8 of an image with one wider value a pixel: `round(255 * value / white)`, black and below at 0.

    `white` is 65535 of 16-bit modes. "I" (32 bit) and "F" (float) do not say theirs: it is the smallest of 1 ("F"
    alone), 255 and 65535 that no pixel exceeds. What is no number is black.

    Raises:
        ValueError: a pixel exceeds 65535.
    """
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=np.inf)
    whites = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    largest = values.max()
    white = next((white for white in whites if largest <= white), None)
    if white is None:
        raise ValueError(f"a pixel of {largest} exceeds 65535, the largest white: save the image in 8 or 16 bits")
    grey = (np.maximum(values, 0) * np.float32(255 / white) + np.float32(0.5)).astype(np.uint8)
    transparent = image.info.get("transparency")
    # PNG may name one value of a 16-bit grey image that is transparent
    return grey if transparent is None else np.where(values == transparent, np.uint8(255), grey)
