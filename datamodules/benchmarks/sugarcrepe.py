"""SugarCrepe (Hsieh et al., NeurIPS 2023) in its official files: one JSON object per negative type.

`{"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}`; keys may have gaps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from datamodules.benchmarks.pairs import Pairs
from negatives.tables import InputError, StrPath, quoted

FILES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
"""The benchmark's own types, a JSON file each: what it consists of does not change with the types that we write."""


def read_sugarcrepe(*, annotations: StrPath, image_root: StrPath | None = None) -> Pairs:
    """The benchmark's items; the negative type is the file's name, and image_id COCO's number.

    Args:
        annotations: folder that holds `replace_obj.json` and the like; types without a file are left out.
        image_root: folder of the COCO val2017 photos; None where only texts are wanted.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or no item.
    """
    captions, negatives = [], []
    files = [path for name in FILES if (path := Path(annotations) / f"{name}.json").is_file()]
    if not files:
        raise InputError(f"{annotations} holds no SugarCrepe file such as replace_obj.json; give its data folder.")
    for path in files:
        for key, filename, caption, negative in _items(path):
            identity = f"{path.stem}:{key}"  # keys begin anew in every file
            # COCO's number, under which other tables of COCO know the image too
            image_id = Path(filename).stem.lstrip("0") or "0"
            captions.append({"image_id": image_id, "image": filename, "caption_id": identity, "caption": caption})
            negatives.append(
                {"caption_id": identity, "negative_id": identity, "caption": negative, "negative_type": path.stem}
            )
    if not captions:
        raise InputError(f"{annotations}: its files hold no item; take the benchmark's official JSON.")
    root = Path(annotations if image_root is None else image_root)
    return Pairs(pa.Table.from_pylist(captions), pa.Table.from_pylist(negatives), root)


def _items(path: Path) -> list[tuple[str, str, str, str]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        rows = [(key, item["filename"], item["caption"], item["negative_caption"]) for key, item in items.items()]
        for value in (value for row in rows for value in row):
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                raise TypeError(f"{quoted(value)} is no text")
            value.encode()  # half a surrogate pair is JSON, and no text
        return rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no SugarCrepe file ({error!r}); take the benchmark's official JSON.") from None
