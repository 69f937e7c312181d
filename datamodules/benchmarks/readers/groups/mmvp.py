"""MMVP-VLM (Tong et al., CVPR 2024): pairs of images that CLIP takes for alike, with a statement each.

`Questions.csv` has a header and, in this order, the number of the image, its pattern and its statement; two rows in
sequence are a pair. Images lie in `<pattern>/<number>.jpg`.
"""

from __future__ import annotations

import csv

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, group_name, placed, reading, text_in
from negatives.tables import StrPath

FOLDERS = ("MLLM_VLM Images/", "MMVP_VLM_Images/", "")
"""The folder of images as it is called where it is published, as the README calls it, and as the root itself."""
PREFIX = "a photo of "


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All pairs; the group is the pattern. The published number is the image score's mean over the patterns.

    Args:
        annotations: `Questions.csv`, or its folder.
        image_root: folder that holds `MLLM_VLM Images`, or that folder.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "MMVP-VLM", "Questions.csv")
    found = Collected("mmvp_vlm", "groups", path, image_root)
    with reading(path, "MMVP-VLM"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row][1:]
        if len(rows) % 2:
            raise TypeError(f"{len(rows)} rows make no pairs")
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            number, pattern = (text_in(first, place, first) for place in (0, 1))
            if text_in(second, 1, second) != pattern:
                raise TypeError(f"rows {number} and {second[0]} are of two patterns, and so no pair")
            images, texts = [], []
            for row in (first, second):
                image = f"{pattern}/{int(row[0])}.jpg"
                place = placed(found.root, *(f"{folder}{image}" for folder in FOLDERS))
                # its own number: the same whatever the folder is called
                images.append(found.image(place, image_id=f"mmvp_{int(row[0])}"))
                texts.append(found.text(f"{PREFIX}{text_in(row, 2, number)}"))
            found.add(item_id=number, group=group_name(pattern), image_ids=images, text_ids=texts)
    return found.benchmark()
