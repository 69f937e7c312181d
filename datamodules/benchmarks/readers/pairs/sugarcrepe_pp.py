"""SugarCrepe++ (Dumpala et al., NeurIPS 2024) in its official files: one JSON list per negative type.

`[{"id": 0, "filename": "000000000001.jpg", "caption": "...", "caption2": "...", "negative_caption": "..."}, ...]`: two
captions that say the same in other words, and one that says something else. An item is right where both captions win
(ITT). TOT, the text-only score, compares the three texts with each other by a text encoder. It is not measured: what is
asked of a scorer is images with texts, and a cross-encoder cannot compare two texts.
"""

from __future__ import annotations

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_files, list_of, load_json, reading, text_in
from negatives.tables import StrPath

FILES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
AGGREGATES = {family: tuple(name for name in FILES if name.startswith(family)) for family in ("replace", "swap")}


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The benchmark's items, with two true texts each; the group is the file's name, and image_id COCO's number.

    Args:
        annotations: folder that holds `replace_obj.json` and the like; types without a file are left out.
        image_root: folder of the COCO val2017 photos; None where only texts are wanted.

    Raises:
        InputError: no annotation file, a malformed one, a blank text, or no item.
    """
    files = find_files(annotations, "SugarCrepe++", *(f"{name}.json" for name in FILES))
    found = Collected("sugarcrepe_pp", "pairs", annotations, image_root)
    for path in files:
        with reading(path, "SugarCrepe++"):
            for number, item in enumerate(list_of(load_json(path))):
                found.add(
                    item_id=f"{path.stem}:{item['id']}",
                    image_id=found.image(text_in(item, "filename", number)),
                    group=path.stem,
                    true=[found.text(text_in(item, name, number)) for name in ("caption", "caption2")],
                    false=[found.text(text_in(item, "negative_caption", number))],
                )
    return found.benchmark(aggregates=AGGREGATES)
