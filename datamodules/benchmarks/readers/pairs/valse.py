"""VALSE (Parcalabescu et al., ACL 2022) in its official files: one JSON object per piece, such as `existence.json`.

`{"key": {"dataset": "visual7w", "image_file": "v7w_1.jpg", "caption": "...", "foil": "...", "mturk": {"caption": 3,
"foil": 0, "other": 0}, ...}, ...}`. Of three annotators, two have to prefer the caption for an item to be valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import image_id_of, load_json, mapping_of, reading, text_in
from negatives.tables import InputError, StrPath, quoted

VOTES = 2  # annotators, of three, who have to prefer the caption


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The benchmark's valid items; `left_out` counts those that are not.

    The group is the piece: its file's name without the ending, such as "counting-hard"; the published average is the
    mean over the pieces. COCO's photos have COCO's number as their image_id, so that pieces share them: some are there
    under two names, and either file will do.

    Args:
        annotations: folder that holds `existence.json` and the like; all its JSON files are read.
        image_root: one folder with the images of all the data sets that VALSE takes its own from, under the names that
            it has for them; None where only texts are wanted.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or no valid item.
    """
    files = sorted(Path(annotations).glob("[!.]*.json"))
    if not files:
        raise InputError(f"{annotations} holds no VALSE file such as existence.json; give its data folder.")
    found = Collected("valse", "pairs", annotations, image_root)
    for path in files:
        with reading(path, "VALSE"):
            for key, item in mapping_of(load_json(path)).items():
                _add(found, path.stem, key, mapping_of(item))
    if not found.groups():
        raise InputError(
            f"{annotations} holds no item whose caption {VOTES} annotators prefer; take the official files."
        )
    return found.benchmark()


def _add(found: Collected, piece: str, key: str, item: Mapping[str, Any]) -> None:
    image, caption, foil = (text_in(item, name, key) for name in ("image_file", "caption", "foil"))
    votes = mapping_of(item.get("mturk")).get("caption")
    if not key.strip() or type(votes) is not int:
        raise TypeError(f"item {quoted(key)} has {quoted(votes)} votes")
    # the paper evaluates on these alone; the other foils may be true of their image
    if votes < VOTES:
        found.left_out["not valid"] += 1
        return
    found.add(
        item_id=f"{piece}:{key}",
        image_id=found.image(image, image_id=image_id_of(image), same=True),
        group=piece,
        true=[found.text(caption)],
        false=[found.text(foil)],
    )
