"""A part of a benchmark: the items whose images there are, and only what these ask."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks.benchmark import Benchmark

WHOLE = ("retrieval", "classes")
"""Protocols that ask every image with every text."""
ASKED = {"pairs": ("image_id", "true", "false"), "groups": ("image_ids", "text_ids")}
"""Protocol -> columns of its key that say what is asked; `image_id` and `text_id` for any other."""


def asked_pairs(protocol: str, key: pa.Table) -> pa.Table | None:
    """The pairs that a key needs, `image_id` and `text_id`, each once; None where every image meets every text."""
    if protocol in WHOLE:
        return None
    # a dict is an ordered set
    asked: dict[tuple[str, str], None]
    columns = [key[name].to_pylist() for name in ASKED.get(protocol, ("image_id", "text_id"))]
    if protocol == "pairs":
        rows = zip(*columns, strict=True)
        asked = {(image, text): None for image, true, false in rows for text in (*true, *false)}
    elif protocol == "groups":
        rows = zip(*columns, strict=True)
        asked = {(image, text): None for images, texts in rows for image in images for text in texts}
    else:
        asked = dict.fromkeys(zip(*columns, strict=True))
    image_ids, text_ids = ([pair[place] for pair in asked] for place in (0, 1))
    return pa.table({"image_id": pa.array(image_ids, pa.string()), "text_id": pa.array(text_ids, pa.string())})


def with_items(benchmark: Benchmark, wanted: pa.Array, reason: str = "") -> Benchmark:
    """The benchmark with the items at which `wanted`, one bool for each row of the key, is true.

    Images and texts that no item asks about go too. Class names stay: an image is asked with all of them.

    Args:
        benchmark: to select from.
        wanted: bools.
        reason: under which the others are counted in `left_out`; not counted where "".
    """
    key = benchmark.key.filter(wanted)
    if len(key) == len(benchmark.key):
        return benchmark
    pairs = asked_pairs(benchmark.protocol, key)
    asked = key if pairs is None else pairs
    images = benchmark.images.filter(pc.is_in(benchmark.images["image_id"], value_set=pc.unique(asked["image_id"])))
    texts = benchmark.texts
    if benchmark.protocol != "classes":
        texts = texts.filter(pc.is_in(texts["text_id"], value_set=pc.unique(asked["text_id"])))
    left_out = dict(benchmark.left_out)
    if reason and (absent := len(items_of(benchmark.key)) - len(items_of(key))):
        left_out[reason] = left_out.get(reason, 0) + absent
    return replace(benchmark, key=key, images=images, texts=texts, pairs=pairs, left_out=left_out)


def items_of(key: pa.Table) -> pa.Array:
    """The distinct items of a key; in retrieval and classes an item is an image."""
    return pc.unique(key["item_id" if "item_id" in key.column_names else "image_id"])


def counted_rows(key: pa.Table) -> pa.Table:
    """What is counted where training images are: the rows of the key; in retrieval and classes each image once."""
    return key if "item_id" in key.column_names else pa.table({"image_id": pc.unique(key["image_id"])})


def of_images(benchmark: Benchmark, image_ids: Collection[str]) -> pa.Array:
    """For each row of the key, whether all its images are among `image_ids`."""
    if benchmark.protocol != "groups":
        return pc.is_in(benchmark.key["image_id"], value_set=pa.array(list(image_ids), pa.string()))
    known = set(image_ids)
    return pa.array([known.issuperset(images) for images in benchmark.key["image_ids"].to_pylist()], pa.bool_())
