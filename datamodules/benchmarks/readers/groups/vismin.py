"""VisMin's benchmark (Awal et al., NeurIPS 2024): an image and its minimal edit, with a caption each.

`object.csv`, `attribute.csv`, `relation.csv` and `counting.csv`, with `image_path`, `edited_image_path`, `caption`,
`edited_caption` and `edit_id`. The images have a root each, `original_images` and `edited_images`.
"""

from __future__ import annotations

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_files, load_csv, reading, text_in
from negatives.tables import StrPath

FILES = ("object", "attribute", "relation", "counting")
SIDES = {"original_images": ("image_path", "caption"), "edited_images": ("edited_image_path", "edited_caption")}
"""Root of the images -> columns of the image and of its caption."""
COLUMNS = ("edit_id", *(column for columns in SIDES.values() for column in columns))


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All items; the group is the category: the name of its file.

    Args:
        annotations: folder of `object.csv` and the like; categories without a file are left out.
        image_root: folder that holds `original_images` and `edited_images`.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    files = find_files(annotations, "VisMin", *(f"{name}.csv" for name in FILES))
    found = Collected("vismin", "groups", annotations, image_root)
    for path in files:
        with reading(path, "VisMin"):
            for number, row in enumerate(load_csv(path, COLUMNS)):
                found.add(
                    item_id=f"{path.stem}:{text_in(row, 'edit_id', number)}",
                    group=path.stem,
                    image_ids=[
                        found.image(f"{root}/{text_in(row, column, number)}") for root, (column, _) in SIDES.items()
                    ],
                    text_ids=[found.text(text_in(row, column, number)) for _, column in SIDES.values()],
                )
    return found.benchmark()
