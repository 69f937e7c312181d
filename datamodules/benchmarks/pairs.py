"""A benchmark of true and false texts as tables like our own, which audits and validation during training use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks.benchmark import Benchmark
from negatives.tables import InputError


@dataclass(frozen=True)
class Pairs:
    """True captions of images, false ones made from them, and where the images lie.

    Attributes:
        captions: columns `image_id`, `image` (a path inside `root`), `caption_id` and `caption`.
        negatives: columns `caption_id`, `negative_id`, `caption` and `negative_type`: any name that the benchmark has.
        root: folder of the images.
        left_out: how many items of the benchmark are not among the pairs: those that do not count as valid, and, where
            images are scored, those whose image is not there or not wanted.
    """

    captions: pa.Table
    negatives: pa.Table
    root: Path
    left_out: int = 0


def as_pairs(benchmark: Benchmark, *, texts_only: bool = False) -> Pairs:
    """A benchmark of the protocol pairs, one caption an item; of several true texts the first one.

    Ids are those of the items; where one has several false texts, `<item_id>#<k>` are those of its negatives. Items
    that share a `caption_id`, as those of our own tables, share a caption. The negative type is the group, or the
    benchmark's name where there is no group.

    Args:
        benchmark: of the protocol pairs.
        texts_only: no image will be shown. Crops are refused otherwise, since a caption belongs to a whole image here;
            the crops of a photo have the photo's id, so that judges of texts hold them together.

    Raises:
        InputError: another protocol, or crops.
    """
    if benchmark.protocol != "pairs":
        raise InputError(
            f"{benchmark.name} must have true and false texts of an image for this, its protocol is "
            f"{benchmark.protocol}; give a benchmark of the protocol pairs."
        )
    is_cropped = "box" in benchmark.images.column_names
    if is_cropped and not texts_only:
        raise InputError(f"{benchmark.name} must have whole images for this, it asks about parts of images.")
    texts = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    files = dict(zip(benchmark.images["image_id"].to_pylist(), benchmark.images["image"].to_pylist(), strict=True))
    captions: dict[str, tuple[str, str, str]] = {}
    negatives: list[tuple[str, str, str, str]] = []
    for item in benchmark.key.to_pylist():
        item_id, image_id = item["item_id"], item["image_id"]
        caption_id = item.get("caption_id") or item_id
        photo = image_id.rpartition("@")[0] if is_cropped else image_id
        captions.setdefault(caption_id, (photo or image_id, files[image_id], texts[item["true"][0]]))
        several = len(item["false"]) > 1
        for number, text_id in enumerate(item["false"]):
            negative_id = f"{item_id}#{number}" if several else item_id
            negatives.append((caption_id, negative_id, texts[text_id], item["group"] or benchmark.name))
    return Pairs(
        _table(
            ("image_id", "image", "caption_id", "caption"), [(*row[:2], name, row[2]) for name, row in captions.items()]
        ),
        _table(("caption_id", "negative_id", "caption", "negative_type"), negatives),
        benchmark.root,
        sum(benchmark.left_out.values()),
    )


def select_captions(pairs: Pairs, wanted: pa.Array) -> Pairs:
    """The pairs of the captions at which `wanted`, one bool for each, is true."""
    captions = pairs.captions.filter(wanted)
    negatives = pairs.negatives
    own = pc.is_in(negatives["caption_id"], value_set=pc.unique(captions["caption_id"]))
    return replace(pairs, captions=captions, negatives=negatives.filter(own))


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> pa.Table:
    return pa.table(
        dict(zip(names, (pa.array(column, pa.string()) for column in zip(*rows, strict=True)), strict=True))
    )
