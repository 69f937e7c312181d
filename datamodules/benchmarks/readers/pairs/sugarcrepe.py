"""SugarCrepe (Hsieh et al., NeurIPS 2023) in its official files: one JSON object per negative type.

`{"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}`; keys may have gaps.
"""

from __future__ import annotations

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_files, load_json, mapping_of, reading, text_in
from negatives.tables import StrPath

FILES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
"""The benchmark's own types, a JSON file each: what it consists of does not change with the types that we write."""
AGGREGATES = {family: tuple(name for name in FILES if name.startswith(family)) for family in ("replace", "swap", "add")}


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The benchmark's items; the group is the file's name, and image_id COCO's number.

    Args:
        annotations: folder that holds `replace_obj.json` and the like; types without a file are left out.
        image_root: folder of the COCO val2017 photos; None where only texts are wanted.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or no item.
    """
    files = find_files(annotations, "SugarCrepe", *(f"{name}.json" for name in FILES))
    found = Collected("sugarcrepe", "pairs", annotations, image_root)
    for path in files:
        with reading(path, "SugarCrepe"):
            for key, item in mapping_of(load_json(path)).items():
                found.add(
                    item_id=f"{path.stem}:{key}",  # keys begin anew in every file
                    image_id=found.image(text_in(item, "filename", key)),
                    group=path.stem,
                    true=[found.text(text_in(item, "caption", key))],
                    false=[found.text(text_in(item, "negative_caption", key))],
                )
    return found.benchmark(aggregates=AGGREGATES)
