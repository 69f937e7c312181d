"""Cola's multi-object part (Ray et al., NeurIPS 2023): a JSON list of [image, its caption, image, its caption].

Images are given by their address; their file's name is Visual Genome's number. The published number is the image score.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import find_file, list_of, load_json, reading, text_in
from negatives.tables import StrPath


def read(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """All items.

    Args:
        annotations: `COLA_multiobjects_matching_benchmark.json`, or its folder.
        image_root: folder of the images, `<number>.jpg`.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "Cola", "COLA_multiobjects_matching_benchmark.json")
    found = Collected("cola", "groups", path, image_root)
    with reading(path, "Cola"):
        for number, item in enumerate(list_of(load_json(path))):
            if len(list_of(item)) != 4:
                raise TypeError(f"item {number} has {len(item)} parts instead of 4")
            files = [PurePosixPath(unquote(urlsplit(text_in(item, place, number)).path)).name for place in (0, 2)]
            found.add(
                item_id=str(number),
                image_ids=[found.image(file, image_id=Path(file).stem) for file in files],
                text_ids=[found.text(text_in(item, place, number)) for place in (1, 3)],
            )
    return found.benchmark()
