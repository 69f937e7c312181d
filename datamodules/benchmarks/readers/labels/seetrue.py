"""SeeTRUE (Yarom et al., NeurIPS 2023): texts and images that people called a match or none.

`SeeTRUE.csv`: `image`, `text`, `label` (1 or 0), `original_dataset_id` and `dataset_source` (drawbench, editbench,
coco_t2i). The published number is the mean of ROC-AUC over the sources.
"""

from __future__ import annotations

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, group_name, load_csv, placed, reading, text_in
from negatives.tables import StrPath, quoted

COLUMNS = ("image", "text", "label", "dataset_source")


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All rows; the group is the source.

    Args:
        annotations: `SeeTRUE.csv`, or its folder.
        image_root: folder of the images, or of `images`.

    Raises:
        InputError: no annotation file, a malformed one, another label, or no item.
    """
    path = find_file(annotations, "SeeTRUE", "SeeTRUE.csv")
    found = Collected("seetrue", "labels", path, image_root)
    with reading(path, "SeeTRUE"):
        for number, row in enumerate(load_csv(path, COLUMNS)):
            image = text_in(row, "image", number)
            if row["label"] not in ("0", "1"):
                raise TypeError(f"row {number} has {quoted(row['label'])} for a label, not 0 or 1")
            found.add(
                item_id=str(number),
                image_id=found.image(placed(found.root, image, f"images/{image}"), image_id=image),
                text_id=found.text(text_in(row, "text", number)),
                group=group_name(text_in(row, "dataset_source", number)),
                label=int(row["label"]),
            )
    return found.benchmark()
