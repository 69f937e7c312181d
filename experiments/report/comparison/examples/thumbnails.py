"""Images for a page: small copies as data, with nothing of the file but its pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datamodules import read_rgb
from datamodules.sources import part_of

SIDE = 320  # longest side of a thumbnail, in pixels
SMALL = 96  # images up to this side are kept without loss and shown enlarged


def thumbnail(root: Path, image: str, box: Sequence[int] | None = None) -> tuple[str | None, bool]:
    """A re-encoded, downsized copy as a data URI, and whether the image is small; (None, False) if it cannot be read.

    Nothing of the file but its pixels reaches the page, and no file outside `root` is opened, links resolved.

    Args:
        root: folder of the images.
        image: path inside it.
        box: x, y, width and height of the part that is shown; None for all.
    """
    try:
        path = (root / image).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            return None, False
        picture = read_rgb(path)  # as the model sees it
        if box is not None:
            picture = part_of(picture, box)
        small = max(picture.size) <= SMALL
        picture.thumbnail((SIDE, SIDE))
        kind = "png" if small else "jpeg"
        encoded = io.BytesIO()
        Image.frombytes("RGB", picture.size, picture.tobytes()).save(encoded, kind, quality=82)
    except Exception:  # decoders raise whatever they like, and a page is worth more than a picture in it
        return None, False
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}", small
