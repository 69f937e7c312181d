"""One picture in every form that a file may have it in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tests.tiny import photo

UPRIGHT = photo(7, 12, 20)
"""Portrait: turned by a quarter, it has other sides."""


def grey() -> np.ndarray:
    """[20, 12] uint8: the red of `UPRIGHT`, black and white among it."""
    values = np.asarray(UPRIGHT)[..., 0].copy()
    values[0, :2] = 0, 255
    return values


def exif(orientation: int) -> Image.Exif:
    result = Image.Exif()
    result[ExifTags.Base.Orientation] = orientation
    return result


def hidden(mode: str) -> Image.Image:
    """`UPRIGHT` whose left half is transparent, with a loud red below."""
    pixels = np.dstack([np.asarray(UPRIGHT), np.full((20, 12), 255, dtype=np.uint8)])
    pixels[:, :6] = 255, 0, 0, 0
    image = Image.fromarray(pixels)
    if mode != "P":
        return image.convert(mode)
    palette = image.convert("RGB").quantize(200)
    palette.info["transparency"] = palette.getpixel((0, 0))
    return palette


def save_pictures(folder: Path) -> dict[str, Path]:
    """Files of all kinds by what is special about them; "rotated" is "portrait" stored lying on its side."""
    folder.mkdir(exist_ok=True)
    wide, deep = grey().astype(np.float32) / 255, grey().astype(np.uint16) * 257
    pictures = {
        "portrait": (UPRIGHT, "portrait.png", {}),
        # EXIF 6: to be turned by a quarter clockwise
        "rotated": (UPRIGHT.transpose(Image.Transpose.ROTATE_90), "rotated.png", {"exif": exif(6)}),
        "landscape": (photo(8, 30, 14), "landscape.jpg", {}),
        "grey": (Image.fromarray(grey()), "grey.png", {}),
        "grey of 16 bits": (Image.fromarray(deep), "deep.png", {}),
        "float": (Image.fromarray(wide), "float.tiff", {}),
        "1 bit": (Image.fromarray(grey()).convert("1"), "bit.png", {}),
        "RGBA": (hidden("RGBA"), "alpha.png", {}),
        "LA": (hidden("LA"), "grey-alpha.png", {}),
        "palette": (hidden("P"), "palette.gif", {}),
        "CMYK": (UPRIGHT.convert("CMYK"), "cmyk.jpg", {}),
        "LAB": (UPRIGHT.convert("LAB"), "lab.tiff", {}),
    }
    for image, name, options in pictures.values():
        image.save(folder / name, **options)  # type: ignore[arg-type]
    return {name: folder / file for name, (_, file, _) in pictures.items()}
