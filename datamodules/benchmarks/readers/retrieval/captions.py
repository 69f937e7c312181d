"""Retrieval among images and their captions: Karpathy's splits, LAVIS's files, or any captions table.

Karpathy (CVPR 2015): `dataset_coco.json` and `dataset_flickr30k.json`, of which the split `test` is read. LAVIS:
`coco_karpathy_test.json` and `flickr30k_test.json`, a list of `{"image": "val2014/..jpg", "caption": ["...", ...]}`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import coco_number, find_file, list_of, load_json, reading, text_in
from negatives.tables import StrPath, read_caption_source, strings

TEST = ("test",)
FILES = tuple(f"captions{suffix}" for suffix in (".parquet", ".jsonl", ".csv", ".tsv", ".json"))


def read_coco(annotations: StrPath, *, image_root: StrPath | None = None, splits: Collection[str] = TEST) -> Benchmark:
    """COCO's 5,000 test images; see `read`. `annotations` is a file, or a folder of one of the two."""
    path = find_file(annotations, "COCO retrieval", "dataset_coco.json", "coco_karpathy_test.json")
    return read(path, image_root=image_root, splits=splits, name="coco_retrieval")


def read_flickr30k(
    annotations: StrPath, *, image_root: StrPath | None = None, splits: Collection[str] = TEST
) -> Benchmark:
    """Flickr30k's 1,000 test images; see `read`. `annotations` is a file, or a folder of one of the two."""
    path = find_file(annotations, "Flickr30k retrieval", "dataset_flickr30k.json", "flickr30k_test.json")
    return read(path, image_root=image_root, splits=splits, name="flickr30k_retrieval")


def read(
    annotations: StrPath,
    *,
    image_root: StrPath | None = None,
    splits: Collection[str] = (),
    name: str = "captions_retrieval",
) -> Benchmark:
    """Every image with every caption; equal captions of several images are one text that all of them match.

    Args:
        annotations: a captions table, a CSV, or JSON of COCO, Karpathy or LAVIS; or the folder of one of `FILES`.
        image_root: folder that the paths of the images start from; the file's folder where None.
        splits: values of the column `split` that are read; all where empty. LAVIS has a file for each split.
        name: of the benchmark.

    Raises:
        InputError: a malformed file, or no caption.
    """
    path = find_file(annotations, "captions", *FILES)
    found = Collected(name, "retrieval", path, image_root)
    captions = 0
    for image, image_id, caption in _lavis(path) if _is_list(path) else _table(path, splits):
        captions += 1
        found.add_once(
            image_id=found.image(image, image_id=coco_number(image) or image_id), text_id=found.text(caption)
        )
    benchmark = found.benchmark()
    equal = captions - len(benchmark.texts)
    note = [f"{equal} of {captions} captions equal another one, and count as one text"] if equal else []
    return found.benchmark(notes=note)


def _table(path: Path, splits: Collection[str]) -> Iterator[tuple[str, str, str]]:
    table: pa.Table = read_caption_source(path, splits=splits)
    yield from zip(*(strings(table, name) for name in ("image", "image_id", "caption")), strict=True)


def _is_list(path: Path) -> bool:
    if path.suffix != ".json":
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _lavis(path: Path) -> Iterator[tuple[str, str, str]]:
    with reading(path, "captions"):
        for number, item in enumerate(list_of(load_json(path))):
            image = text_in(item, "image", number)
            captions = [item["caption"]] if isinstance(item["caption"], str) else list_of(item["caption"])
            for place in range(len(captions)):
                yield image, Path(image).stem, text_in(captions, place, number)
