"""What sets have in common with the images that a run was trained on, by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks import Benchmark, Pairs, of_images, with_items
from experiments.runs.progress import say
from experiments.runs.train_images import (
    TRAIN_IMAGES_FILE,
    Overlap,
    find_overlap,
    ids_in_tables,
    images_of_pairs,
    read_train_images,
)
from experiments.scoring.scorer import Trained
from negatives.tables import InputError, quoted


def find_overlaps(trained: Trained, sets: Mapping[str, Benchmark], *, excluded: bool) -> dict[str, Overlap]:
    """What each set has in common with the images that a run was trained on, printed too; empty where not known.

    Args:
        trained: the run; its captions tables are asked where it has no record of its images.
        sets: name -> benchmark.
        excluded: whether training images are to be left out.

    Raises:
        InputError: the record is damaged, or there is none and training images are to be excluded.
    """
    recorded = read_train_images(trained.run)
    if recorded is None:
        unknown = f"{trained.run} has no {TRAIN_IMAGES_FILE}, which images it was trained on is not known"
        if excluded:
            raise InputError(f"{unknown}; leave exclude_training_images out, or train the run again.")
        ids = ids_in_tables(trained.captions)
        for name, benchmark in sets.items():
            # a hint and no number: equal ids may name other images, and other ids the same
            same = sorted(ids.intersection(images_of_pairs(items_of(benchmark))))
            hint = f"; its captions have {len(same)} of the set's image ids, such as {quoted(same[0])}" if same else ""
            say(f"{name}: {unknown}{hint}")
        return {}
    overlaps = {name: find_overlap(recorded, items_of(benchmark), name) for name, benchmark in sets.items()}
    remedy = "" if excluded else "; exclude_training_images=true leaves them out"
    for name, overlap in overlaps.items():
        if overlap.training_images:
            say(f"{name}: {overlap}{remedy}")
    return overlaps


def without_training_images(sets: dict[str, Benchmark], overlaps: dict[str, Overlap]) -> dict[str, Benchmark]:
    """The sets without the items of images that the run was trained on; says how many are left.

    Raises:
        InputError: none is left of a set.
    """
    kept = {}
    for name, benchmark in sets.items():
        known = overlaps[name].training_images
        others = [image for image in benchmark.images["image_id"].to_pylist() if image not in known]
        kept[name] = with_items(benchmark, of_images(benchmark, others))
        before = len(benchmark.key)
        if not (left := len(kept[name].key)):
            raise InputError(
                f"evaluation.sets.{name} must have images that the run was not trained on, all of its {before} pairs "
                "are of training images; give another set, or leave exclude_training_images out."
            )
        say(f"{name}: {left} of {before} pairs are left without the training images")
    return kept


def items_of(benchmark: Benchmark) -> Pairs:
    """A row of `negatives` for every item and each of its images, with the item's group as type."""
    key, names = benchmark.key, benchmark.images["image_id"]
    groups = key["group"] if "group" in key.column_names else pa.array([""] * len(key))
    images = key["image_id"] if "image_id" in key.column_names else pc.list_flatten(key["image_ids"])
    if "image_id" not in key.column_names:
        groups = groups.take(pc.list_parent_indices(key["image_ids"].combine_chunks()))
    captions = pa.table({"image_id": names, "image": benchmark.images["image"], "caption_id": names, "caption": names})
    negatives = pa.table({"caption_id": images, "negative_id": images, "caption": images, "negative_type": groups})
    return Pairs(captions, negatives, benchmark.root)


def training_items(benchmark: Benchmark, overlap: Overlap | None) -> dict[str, int] | None:
    """How many items of each group are of images that were trained on, of all for "mean"; None where not known."""
    if overlap is None:
        return None
    items = items_of(benchmark).negatives
    images, groups = items["caption_id"].to_pylist(), items["negative_type"].to_pylist()
    trained = [group for image, group in zip(images, groups, strict=True) if image in overlap.training_images]
    return {group: Counter(trained)[group] for group in dict.fromkeys(groups)} | {"mean": len(trained)}
