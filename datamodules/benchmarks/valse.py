"""VALSE (Parcalabescu et al., ACL 2022) in its official files: one JSON object per piece, such as `existence.json`.

`{"key": {"dataset": "visual7w", "image_file": "v7w_1.jpg", "caption": "...", "foil": "...", "mturk": {"caption": 3,
"foil": 0, "other": 0}, ...}, ...}`. Of three annotators, two have to prefer the caption for an item to be valid.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from datamodules.benchmarks.pairs import Pairs
from negatives.tables import InputError, StrPath, quoted

VOTES = 2  # annotators, of three, who have to prefer the caption


class _Item(NamedTuple):
    key: str
    image: str
    caption: str
    foil: str
    votes: int


def read_valse(*, annotations: StrPath, image_root: StrPath | None = None) -> Pairs:
    """The benchmark's valid items; `left_out` counts those that are not.

    The negative type is the piece: its file's name without the ending, such as "counting-hard". COCO's photos have
    COCO's number as their image_id, so that pieces share them; other images the name of their file.

    Args:
        annotations: folder that holds `existence.json` and the like; all its JSON files are read.
        image_root: one folder with the images of all the data sets that VALSE takes its own from, under the names that
            it has for them; None where only texts are wanted.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or no valid item.
    """
    captions, negatives, left_out = [], [], 0
    files = sorted(Path(annotations).glob("[!.]*.json"))
    if not files:
        raise InputError(f"{annotations} holds no VALSE file such as existence.json; give its data folder.")
    for path in files:
        for item in _items(path):
            # the paper evaluates on these alone; the other foils may be true of their image
            if item.votes < VOTES:
                left_out += 1
                continue
            identity = f"{path.stem}:{item.key}"
            captions.append(
                {
                    "image_id": _image_id(item.image),
                    "image": item.image,
                    "caption_id": identity,
                    "caption": item.caption,
                }
            )
            negatives.append(
                {"caption_id": identity, "negative_id": identity, "caption": item.foil, "negative_type": path.stem}
            )
    if not captions:
        raise InputError(
            f"{annotations} holds no item whose caption {VOTES} annotators prefer; take the official files."
        )
    root = Path(annotations if image_root is None else image_root)
    return Pairs(pa.Table.from_pylist(captions), pa.Table.from_pylist(negatives), root, left_out)


def _image_id(image: str) -> str:
    """COCO's number, or the name without its ending.

    >>> _image_id("COCO_val2014_000000000042.jpg"), _image_id("000000000042.jpg"), _image_id("v7w_2401245.jpg")
    ('42', '42', 'v7w_2401245')
    """
    stem = Path(image).stem
    coco = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", stem)
    return str(int(coco[1])) if coco else stem


def _items(path: Path) -> list[_Item]:
    try:
        return [_item(key, item) for key, item in json.loads(path.read_text(encoding="utf-8")).items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no VALSE file ({error}); take the benchmark's official JSON.") from None


def _item(key: str, item: dict[str, Any]) -> _Item:
    try:
        found = _Item(key, item["image_file"], item["caption"], item["foil"], item["mturk"]["caption"])
    except KeyError as error:
        raise TypeError(f"item {quoted(key)} has no {error.args[0]}") from None
    for text in found[:-1]:
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise TypeError(f"item {quoted(key)} has {quoted(text)} for a text")
        text.encode()  # half a surrogate pair is JSON, and no text
    if type(found.votes) is not int:
        raise TypeError(f"item {quoted(key)} has {quoted(found.votes)} votes")
    return found
