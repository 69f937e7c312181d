"""SugarCrepe (Hsieh et al., NeurIPS 2023) in its official files: one JSON object per negative type.

`{"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}`; keys may have gaps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from datamodules.benchmarks import Pairs
from datamodules.benchmarks.own_tables import restrict
from datamodules.sources.image_rows import image_path
from negatives.tables.captions import InputError, show

FILES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
"""The benchmark's own types, a JSON file each: what it consists of does not change with the types that we write."""


def read_sugarcrepe(
    folder: str | Path, *, image_root: str | Path | None = None, image_ids: str | Path | None = None
) -> Pairs:
    """The benchmark's items whose photo is there; image_id is COCO's number. The others are counted in `left_out`.

    Args:
        folder: holds `replace_obj.json` and the like; types without a file are left out.
        image_root: folder of the COCO val2017 photos; where None, texts are all that is wanted, and all are there.
        image_ids: captions table whose images are the only ones used; needs the photos.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or nothing left.
    """
    root, captions, negatives, left_out = Path(folder if image_root is None else image_root), [], [], 0
    files = [path for name in FILES if (path := Path(folder) / f"{name}.json").is_file()]
    if not files:
        raise InputError(f"{folder} holds no SugarCrepe file such as replace_obj.json; give its data folder.")
    for path in files:
        for key, filename, caption, negative in _items(path):
            there = image_path(root, filename)  # refuses what leads out of the folder
            if image_root is not None and not there.is_file():
                left_out += 1
                continue
            identity = f"{path.stem}:{key}"
            image_id = Path(filename).stem.lstrip("0") or "0"
            captions.append({"image_id": image_id, "image": filename, "caption_id": identity, "caption": caption})
            negatives.append(
                {"caption_id": identity, "negative_id": identity, "caption": negative, "negative_type": path.stem}
            )
    if not captions and image_root is None:
        raise InputError(f"{folder}: its files hold no item; take the benchmark's official JSON.")
    if not captions:
        raise InputError(f"{folder}: none of its photos lies in {root}; set image_root to COCO's val2017 folder.")
    pairs = Pairs(pa.Table.from_pylist(captions), pa.Table.from_pylist(negatives), root, left_out)
    return pairs if image_root is None else restrict(pairs, image_ids, str(folder))


def _items(path: Path) -> list[tuple[str, str, str, str]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        rows = [(key, item["filename"], item["caption"], item["negative_caption"]) for key, item in items.items()]
        for value in (value for row in rows for value in row):
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                raise TypeError(f"{show(value)} is no text")
            value.encode()  # half a surrogate pair is JSON, and no text
        return rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no SugarCrepe file ({error!r}); take the benchmark's official JSON.") from None
