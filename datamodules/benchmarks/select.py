"""A part of a benchmark: the items whose images there are, and only what these ask."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks.benchmark import Benchmark

WHOLE = ("retrieval", "classes")
"""Protocols that ask every image with every text."""


def asked_pairs(protocol: str, key: pa.Table) -> pa.Table | None:
    """The pairs that a key needs, `image_id` and `text_id`, each once; None where that is every image with every text."""
    if protocol in WHOLE:
        return None
    if protocol == "pairs":
        texts = [true + false for true, false in zip(key["true"].to_pylist(), key["false"].to_pylist(), strict=True)]
        asked = ((image, text) for image, own in zip(key["image_id"].to_pylist(), texts, strict=True) for text in own)
    elif protocol == "groups":
        items = zip(key["image_ids"].to_pylist(), key["text_ids"].to_pylist(), strict=True)
        asked = ((image, text) for images, texts in items for image in images for text in texts)
    else:
        asked = zip(key["image_id"].to_pylist(), key["text_id"].to_pylist(), strict=True)
    images, texts = zip(*dict.fromkeys(asked), strict=True) if len(key) else ((), ())
    return pa.table({"image_id": pa.array(images, pa.string()), "text_id": pa.array(texts, pa.string())})


def with_items(benchmark: Benchmark, wanted: pa.Array, reason: str = "") -> Benchmark:
    """The benchmark with the items at which `wanted`, one bool for each row of the key, is true.

    Images and texts that no item asks about go too. Class names stay: an image is asked with all of them.

    Args:
        benchmark: to select from.
        wanted: bools.
        reason: under which the others are counted in `left_out`; not counted where "".
    """
    key = benchmark.key.filter(wanted)
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


def of_images(benchmark: Benchmark, image_ids: Collection[str]) -> pa.Array:
    """For each row of the key, whether all its images are among `image_ids`."""
    if benchmark.protocol != "groups":
        return pc.is_in(benchmark.key["image_id"], value_set=pa.array(list(image_ids), pa.string()))
    known = set(image_ids)
    return pa.array([known.issuperset(images) for images in benchmark.key["image_ids"].to_pylist()], pa.bool_())
