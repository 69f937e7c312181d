"""What sets have in common with the images that a run was trained on, by content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from datamodules.benchmarks import Benchmark, Groups, check_answers, counted_rows, group_note, of_images, with_items
from experiments.runs.progress import say
from experiments.runs.train_images import (
    TRAIN_IMAGES_FILE,
    Overlap,
    SetImages,
    files_by_image,
    find_overlap,
    ids_in_tables,
    read_train_images,
)
from experiments.scoring.scorer import Trained
from negatives.tables import InputError, quoted


def find_overlaps(trained: Trained, sets: Mapping[str, SetImages], *, excluded: bool) -> dict[str, Overlap]:
    """What each set has in common with the images that a run was trained on, printed too; empty where not known.

    Args:
        trained: the run; its captions tables are asked where it has no record of its images.
        sets: name -> the images of a benchmark.
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
        for name, images in sets.items():
            # a hint and no number: equal ids may name other images, and other ids the same
            same = sorted(images.called(ids))
            hint = f"; its captions have {len(same)} of the set's image ids, such as {quoted(same[0])}" if same else ""
            say(f"{name}: {unknown}{hint}")
        return {}
    overlaps = {name: find_overlap(recorded, images) for name, images in sets.items()}
    remedy = "" if excluded else "; exclude_training_images=true leaves them out"
    for name, overlap in overlaps.items():
        if overlap.training_images:
            say(f"{name}: {overlap}{remedy}")
    return overlaps


def without_training_images(sets: dict[str, Benchmark], overlaps: dict[str, Overlap]) -> dict[str, Benchmark]:
    """The sets without the items of images that the run was trained on; says how many are left.

    Raises:
        InputError: none is left of a set, or nothing that a score can agree with.
    """
    kept = {}
    for name, benchmark in sets.items():
        known = overlaps[name].training_images
        others = [image for image in benchmark.images["image_id"].to_pylist() if image not in known]
        kept[name] = with_items(benchmark, of_images(benchmark, others), "trained on")
        before = len(benchmark.key)
        if not (left := len(kept[name].key)):
            raise InputError(
                f"evaluation.sets.{name} must have images that the run was not trained on, all of its {before} pairs "
                "are of training images; give another set, or leave exclude_training_images out."
            )
        try:
            check_answers(kept[name], f"evaluation.sets.{name} without the training images")
        except InputError as error:
            raise InputError(f"{error} Give another set, or leave exclude_training_images out.") from None
        say(f"{name}: {left} of {before} pairs are left without the training images")
        groups = benchmark.key["group"].to_pylist() if "group" in benchmark.key.column_names else []
        if note := group_note(kept[name], groups):
            kept[name] = replace(kept[name], notes=(*kept[name].notes, note))
    return kept


def set_images(name: str, benchmark: Benchmark) -> SetImages:
    """The images of a benchmark, and which of them its items are of."""
    rows = zip(*(benchmark.images[column].to_pylist() for column in ("image_id", "image")), strict=True)
    return SetImages(name, benchmark.root, files_by_image(rows), _images_of_items(counted_rows(benchmark.key)))


def training_items(benchmark: Benchmark, overlap: Overlap | None) -> dict[str, int] | None:
    """Group -> how many of its items have an image that was trained on, "" for all; None where that is not known.

    The groups are those that metrics are taken over: tags, aggregates and "mean" are among them. In retrieval images
    are counted.
    """
    if overlap is None:
        return None
    rows = counted_rows(benchmark.key)
    groups = Groups.of_key(rows, benchmark.aggregates) if "group" in rows.column_names else Groups.one(len(rows))
    trained = np.array([not overlap.training_images.isdisjoint(images) for images in _images_of_items(rows)])
    return {group: int(trained[places].sum()) for group, places in groups.places.items()}


def _images_of_items(rows: pa.Table) -> list[list[str]]:
    if "image_ids" in rows.column_names:
        lists: list[list[str]] = rows["image_ids"].to_pylist()
        return lists
    return [[image] for image in rows["image_id"].to_pylist()]
