"""BiVLC (Miranda et al., NeurIPS 2024): Parquet files of a caption with its photo and a false one with its own image.

Columns: `image`, `caption`, `negative_caption`, `negative_image`, `type` (replace, swap, add) and `subtype`.
"""

from __future__ import annotations

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.embedded import load_rows, parquet_files, save_pictures
from datamodules.benchmarks.official import coco_number, group_name, reading, text_in
from negatives.tables import StrPath

PICTURES = ("image", "negative_image")
TEXTS = ("caption", "negative_caption")


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All items: the group is the type, and type with subtype is a tag, such as `replace_obj`.

    Args:
        annotations: folder of the Parquet files `test-*.parquet`, or one of them.
        image_root: folder in which the images are saved, once; None where only texts are wanted.

    Raises:
        InputError: no Parquet file, another version's columns, a malformed row, or no item.
    """
    files = parquet_files(annotations, "BiVLC", "test")
    found = Collected("bivlc", "groups", annotations, image_root)
    rows = load_rows(files, (*TEXTS, "type", "subtype"), PICTURES, "BiVLC")
    names: dict[str, list[str]] = {column: [f"{number}_{column}" for number in range(len(rows))] for column in PICTURES}
    with reading(files[0], "BiVLC"):
        for number, row in enumerate(rows):
            kind = group_name(text_in(row, "type", number))
            # only the first image is a photo of COCO, whatever the other is called
            coco = coco_number(row["image"] or "")
            images = [
                found.image(names["image"][number], image_id=coco or names["image"][number], same=bool(coco)),
                found.image(names["negative_image"][number]),
            ]
            found.add(
                item_id=str(number),
                group=kind,
                image_ids=images,
                text_ids=[found.text(text_in(row, column, number)) for column in TEXTS],
                tags=[group_name(f"{kind}_{text_in(row, 'subtype', number)}")],
            )
    if image_root is not None:
        save_pictures(files, names, found.root, "BiVLC")
    return found.benchmark()
