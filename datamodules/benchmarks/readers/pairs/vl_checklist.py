"""VL-CheckList (Zhao et al., EMNLP 2022) as its repository lies on disk: `corpus/v1/**/*.yaml` and `data/**/*.json`.

A YAML file of a source says where its items are: `ANNO_PATH: "data/Attribute/vaw/action.json"`, `IMG_ROOT: "vg"`. Items
are `["VG_100K/1.jpg", {"POS": ["white cat"], "NEG": ["black cat"]}]`.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import list_of, load_json, load_yaml, mapping_of, reading, text_in
from negatives.tables import InputError, StrPath

FAMILIES = ("Object", "Attribute", "Relation")


def read(annotations: StrPath, *, image_root: StrPath | None = None, most_items: int | None = None) -> Benchmark:
    """All items; the group is the type with its source, such as `Attribute_color_vaw`.

    Aggregates are the published ones: a type (`Attribute_color`) is the mean over its sources, and Object, Attribute
    and Relation are means over their types. `families` is the mean of these three, where all are there.

    Args:
        annotations: the repository's root, which holds `corpus` and `data`.
        image_root: folder that holds `vg`, `hake` and `swig`.
        most_items: the first items of each source that are read; officially 1,000, here all where None.

    Raises:
        InputError: no corpus, a malformed file, or no item.
    """
    root = Path(annotations)
    sources = sorted((root / "corpus").rglob("*.yaml"))
    if not sources:
        raise InputError(f"{annotations} holds no VL-CheckList file such as corpus/v1/Attribute/color/vg.yaml.")
    found = Collected("vl_checklist", "pairs", annotations, image_root)
    groups: dict[str, list[str]] = {}
    for source in sources:
        kind = _type_of(source.relative_to(root / "corpus"))
        group = f"{kind}_{source.stem}"
        before = len(found)
        _read_source(found, root, source, group, most_items)
        if len(found) > before:
            groups.setdefault(kind, []).append(group)
    return found.benchmark(aggregates={**groups, **families_of(groups)})


def families_of(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Object, Attribute and Relation: the mean over types of the means over their sources; `families`, of all three.

    A group is repeated, so that the types count alike however many sources they have, and the families too.

    >>> families_of({"Relation_action": ["vg", "hake"], "Relation_spatial": ["vg2"]})
    {'Relation': ['vg', 'hake', 'vg2', 'vg2']}
    """
    families: dict[str, list[str]] = {}
    for family in dict.fromkeys(kind.split("_")[0] for kind in groups):
        families[family] = _evened([sources for kind, sources in groups.items() if kind.split("_")[0] == family])
    # of two of them the mean would look like that of all
    return {**families, "families": _evened([*families.values()])} if families.keys() == {*FAMILIES} else families


def _evened(parts: list[list[str]]) -> list[str]:
    """All groups, repeated so that each part has as many."""
    size = math.lcm(*map(len, parts))
    return [group for part in parts for group in part for _ in range(size // len(part))]


def _type_of(path: Path) -> str:
    """`Object_Location_center` of `v1/Object/Location/center/hake.yaml`."""
    return "_".join(part for part in path.parent.parts if part != "v1")


def _read_source(found: Collected, root: Path, source: Path, group: str, most_items: int | None) -> None:
    with reading(source, "VL-CheckList"):
        settings = mapping_of(load_yaml(source))
        place, images = (text_in(settings, key, group) for key in ("ANNO_PATH", "IMG_ROOT"))
    path = root / place
    with reading(path, "VL-CheckList"):
        for number, (image, texts) in enumerate(list_of(load_json(path))[:most_items]):
            # officially the first of each alone is compared
            true, false = (text_in(texts[key], 0, number) for key in ("POS", "NEG"))
            name = str(PurePosixPath(images) / text_in([image], 0, number))
            found.add(
                item_id=f"{group}:{number}",
                image_id=found.image(name),
                group=group,
                true=[found.text(true)],
                false=[found.text(false)],
            )
