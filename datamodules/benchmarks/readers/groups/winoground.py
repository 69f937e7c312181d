"""Winoground (Thrush et al., CVPR 2022): two images and two captions of the same words in another order.

`examples.jsonl`: `{"id": 0, "image_0": "ex_0_img_0", "caption_0": "...", "collapsed_tag": "Object", "secondary_tag":
"", "num_main_preds": 1, ...}`, images in `images/<name>.png`; t2v_metrics' copy has `metadata.csv` with the images'
paths. Sub-tags are those of Diwan et al. (EMNLP 2022): `new_tag_assignments.json`, item id -> list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import (
    find_file,
    group_name,
    load_csv,
    load_json,
    load_json_lines,
    mapping_of,
    placed,
    reading,
    text_in,
)
from negatives.tables import StrPath

EXAMPLES, METADATA = "examples.jsonl", "metadata.csv"
TAG_FILES = ("new_tag_assignments.json", "why_winoground_hard.json")
NO_TAG = "No_Tag"
COLUMNS = ("id", "image_0", "image_1", "caption_0", "caption_1")


def read(annotations: StrPath, *, image_root: StrPath | None = None, tags: StrPath | None = None) -> Benchmark:
    """All items; the group is the collapsed tag (Object, Relation, Both), "" without `examples.jsonl`.

    Tags are the secondary tag, how many main predicates the captions have, and the sub-tags.

    Args:
        annotations: folder of `examples.jsonl` or `metadata.csv`, or one of these files.
        image_root: folder that holds `images`, or the images themselves.
        tags: file of the sub-tags; sought in the folder where None.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "Winoground", EXAMPLES, METADATA)
    found = Collected("winoground", "groups", path, image_root)
    folder = path.parent
    # the copy with metadata.csv has both files: paths from one, tags from the other
    metadata = path if path.name == METADATA else folder / METADATA
    with reading(path, "Winoground"):
        rows = load_json_lines(path) if path.suffix == ".jsonl" else load_csv(path, COLUMNS)
    paths: dict[str, Mapping[str, Any]] = {}
    if metadata.is_file():
        with reading(metadata, "Winoground"):
            paths = {str(row["id"]): row for row in load_csv(metadata, COLUMNS)}
    sub_tags = _sub_tags(tags, folder)
    with reading(path, "Winoground"):
        for number, row in enumerate(rows):
            item_id = str(mapping_of(row)["id"])
            images = [_image(found.root, row, paths.get(item_id, {}), f"image_{side}", number) for side in (0, 1)]
            found.add(
                item_id=item_id,
                group=group_name(row.get("collapsed_tag") or ""),
                image_ids=[found.image(image, image_id=Path(image).stem) for image in images],
                text_ids=[found.text(text_in(row, f"caption_{side}", number)) for side in (0, 1)],
                tags=[*_own_tags(row), *sub_tags.get(item_id, ())],
            )
    return found.benchmark()


def _image(root: Path, row: Mapping[str, Any], with_path: Mapping[str, Any], key: str, number: int) -> str:
    if key in with_path:
        return text_in(with_path, key, number)
    name = text_in(row, key, number)
    return placed(root, f"images/{name}.png", f"{name}.png")


def _own_tags(row: Mapping[str, Any]) -> list[str]:
    predicates = row.get("num_main_preds")
    tags = [f"{predicates}_main_pred{'s' if int(predicates) > 1 else ''}"] if predicates else []
    return [*tags, *([group_name(row["secondary_tag"])] if row.get("secondary_tag") else [])]


def _sub_tags(tags: StrPath | None, folder: Path) -> dict[str, list[str]]:
    """Item id -> names of its sub-tags; an item without any has `No_Tag`."""
    beside = next((folder / name for name in TAG_FILES if (folder / name).is_file()), None)
    path = beside if tags is None else find_file(tags, "why-winoground-hard", *TAG_FILES)
    if path is None:
        return {}
    with reading(path, "why-winoground-hard"):
        return {
            item_id: [group_name(text_in(names, place, item_id)) for place in range(len(names))] or [NO_TAG]
            for item_id, names in mapping_of(load_json(path)).items()
        }
