"""ARO's Visual Genome parts (Yuksekgonul et al., ICLR 2023): relations and attributes, each a JSON list.

`[{"image_path": "1.jpg", "bbox_x": 0, "bbox_y": 0, "bbox_w": 90, "bbox_h": 60, "true_caption": "...", "false_caption":
"...", "relation_name": "on"}, ...]`; VG-Attribution has `"attributes": ["white", "black"]` instead of a name. What is
scored is the crop. The published number is the mean over relations, or over pairs of attributes.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, group_name, list_of, load_json, reading, text_in
from negatives.tables import StrPath, quoted

LEAST_ITEMS = 25
"""Of a pair of attributes; pairs that have fewer are left out of VG-Attribution's mean."""


def read_relation(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """VG-Relation; the group is the relation. Those of `symmetric_relations` are left out and counted.

    Args:
        annotations: `visual_genome_relation.json`, or its folder.
        image_root: folder of the Visual Genome images.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "VG-Relation", "visual_genome_relation.json")
    found = Collected("aro_relation", "pairs", path, image_root)
    excluded = symmetric_relations()
    with reading(path, "VG-Relation"):
        for number, item in enumerate(list_of(load_json(path))):
            relation = text_in(item, "relation_name", number)
            if relation in excluded:
                found.left_out["relation is not in the mean"] += 1
                continue
            _add(found, number, item, group_name(relation))
    return found.benchmark()


def read_attribution(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """VG-Attribution; the group is the pair of attributes. Pairs of fewer than 25 items are left out and counted.

    Args:
        annotations: `visual_genome_attribution.json`, or its folder.
        image_root: folder of the Visual Genome images.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "VG-Attribution", "visual_genome_attribution.json")
    found = Collected("aro_attribution", "pairs", path, image_root)
    with reading(path, "VG-Attribution"):
        items = list_of(load_json(path))
        groups = [_attributes(item, number) for number, item in enumerate(items)]
        counts = Counter(groups)
        for number, (item, group) in enumerate(zip(items, groups, strict=True)):
            # of the files, not of the images that someone has: the mean is over the same pairs for everyone
            if counts[group] < LEAST_ITEMS:
                found.left_out[f"fewer than {LEAST_ITEMS} items of its attributes"] += 1
                continue
            _add(found, number, item, group)
    return found.benchmark()


def symmetric_relations() -> frozenset[str]:
    """The 157 relation names that ARO's authors leave out of their mean: symmetric ones and rare ones."""
    text = resources.files("datamodules.benchmarks").joinpath("data", "aro_symmetric_relations.txt").read_text("utf-8")
    return frozenset(text.splitlines())


def _attributes(item: Any, number: int) -> str:
    first, second = (text_in(item["attributes"], place, number) for place in (0, 1))
    return group_name(f"{first}_{second}")


def _add(found: Collected, number: int, item: Any, group: str) -> None:
    image = text_in(item, "image_path", number)
    box = [_whole(item, f"bbox_{side}", number) for side in "xywh"]
    found.add(
        item_id=str(number),
        # Visual Genome's number, under which its other benchmarks know the image too
        image_id=found.image(image, image_id=Path(image).stem, box=box),
        group=group,
        true=[found.text(text_in(item, "true_caption", number))],
        false=[found.text(text_in(item, "false_caption", number))],
    )


def _whole(item: Any, key: str, number: int) -> int:
    value = item[key]
    if type(value) not in (int, float) or value != int(value) or abs(value) >= 2**31:
        raise TypeError(f"item {quoted(number)} has {quoted(value)} for {key}")
    return int(value)
