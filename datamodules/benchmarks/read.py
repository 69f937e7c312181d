"""Reads any benchmark of the table, and checks what the readers do not: images, ids, groups and official counts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.notes import count_note, doubt_note, group_note, search_note
from datamodules.benchmarks.select import of_images, with_items
from datamodules.benchmarks.table import find_benchmark
from datamodules.sources.images import check_images, image_path
from negatives.tables import TYPE_NAME_RULE, InputError, StrPath, is_type_name, quoted, read_captions

IMAGE_MISSING, CROP_OUTSIDE, NOT_ASKED = "image missing", "crop outside the image", "not among image_ids"
"""Reasons in `left_out`."""
REFERENCES = {
    "pairs": {"image_id": "images", "true": "texts", "false": "texts"},
    "groups": {"image_ids": "images", "text_ids": "texts"},
}
"""Protocol -> columns of its key that hold ids, and where these are; `image_id` and `text_id` for any other."""


def read_benchmark(
    name: str,
    *,
    captions: StrPath | None = None,
    negatives: StrPath | None = None,
    annotations: StrPath | Mapping[str, Any] | None = None,
    image_root: StrPath | None = None,
    image_ids: StrPath | None = None,
    texts_only: bool = False,
    **options: Any,
) -> Benchmark:
    """A benchmark as far as its images are there.

    Args:
        name: of a row of `BENCHMARKS`.
        captions, negatives, annotations: what its reader reads; the others are ignored.
        image_root: folder of the images; own tables have theirs beside the captions where None.
        image_ids: captions table whose images are the only ones used; all where None.
        texts_only: no image is looked for; all items that the benchmark counts as valid are there.
        options: of the reader, by keyword.

    Returns:
        The benchmark; `left_out` counts items whose image is missing, `notes` say where counts are not official, of
        which groups nothing is left, and how many items no scorer can answer.

    Raises:
        InputError: an unknown benchmark or option, a missing or malformed input, missing images, ids or groups that
            cannot be used, labels or ratings that say nothing, or no item left.
    """
    row = find_benchmark(name)
    inputs = {"captions": captions, "negatives": negatives, "annotations": annotations, "image_root": image_root}
    if missing := [key for key in row.needs(images=not texts_only) if inputs[key] is None]:
        raise InputError(f"`{missing[0]}` must be given to read {name}.")
    reader = row.load_reader()
    if unknown := options.keys() - inspect.signature(reader).parameters.keys():
        known = inspect.signature(reader).parameters.keys() - inputs.keys()
        listed = ", ".join(sorted(known)) or "none"
        raise InputError(f"{name} must be read with its own options ({listed}), got {quoted(min(unknown))}.")
    place = inputs[row.inputs[-1]]
    source = name if isinstance(place, Mapping) else f"{name} ({place})"
    benchmark = reader(**{key: inputs[key] for key in (*row.inputs, "image_root")}, **options)
    check_benchmark(benchmark, source)
    official = [*row.counts, *(benchmark.key["group"].to_pylist() if "group" in benchmark.key.column_names else ())]
    benchmark = replace(benchmark, main=row.main)
    if note := count_note(benchmark, row.counts):
        benchmark = replace(benchmark, notes=(*benchmark.notes, note))
    # People keep a part of COCO; of tables that someone made, a missing image is a wrong image_root, refused below.
    if row.published and not texts_only:
        benchmark = with_images(benchmark, source)
    if image_ids is not None:
        allowed = set(read_captions(image_ids)["image_id"].to_pylist())
        # a crop is of the photo before the @
        own = [image for image in benchmark.images["image_id"].to_pylist() if image.partition("@")[0] in allowed]
        benchmark = with_items(benchmark, of_images(benchmark, own), NOT_ASKED)
    if not benchmark.key.num_rows:
        raise InputError(f"{source}: no pair is left to evaluate on; check `image_ids` and the tables.")
    check_answers(benchmark, source)
    notes = [note for note in (group_note(benchmark, official), doubt_note(benchmark), search_note(benchmark)) if note]
    benchmark = replace(benchmark, notes=(*benchmark.notes, *notes))
    if not row.published and not texts_only:
        check_images(benchmark.root, benchmark.images["image"].to_pylist())
    return benchmark


def check_benchmark(benchmark: Benchmark, source: str) -> None:
    """Refuses what would be scored wrongly without a word: scores are kept by id, and metrics by group.

    Raises:
        InputError: an image outside the folder, an id that is not unique or not known, or a group that is no name.
    """
    _check_paths(benchmark)
    unique = [("image_id", benchmark.images["image_id"])]
    rule = ""
    if "item_id" in benchmark.key.column_names:
        key = benchmark.key
        if benchmark.protocol == "ratings":
            # several raters are several rows of one item
            key = key.group_by(["item_id", "image_id", "text_id"], use_threads=False).aggregate([])
            rule = "; the raters of an item share its image and text"
        unique.append(("item_id", key["item_id"]))
    for column, values in unique:
        counts = pc.value_counts(values)
        if len(counts) < len(values):
            twice = next(count["values"] for count in counts.to_pylist() if count["counts"] > 1)
            raise InputError(f"{source}: {column} must be unique, {quoted(twice)} is there more often{rule}.")
    default = {"image_id": "images", "text_id": "texts"}
    for column, table in REFERENCES.get(benchmark.protocol, default).items():
        known = getattr(benchmark, table)[f"{table[:-1]}_id"]
        ids = benchmark.key[column]
        ids = pc.list_flatten(ids) if pa.types.is_list(ids.type) else ids
        unknown = ids.filter(pc.invert(pc.is_in(ids, value_set=pc.unique(known))))
        if len(unknown):
            raise InputError(f"{source}: `{column}` must name one of the {table}, got {quoted(unknown[0].as_py())}.")
    for group in dict.fromkeys(groups_of(benchmark)):
        if group != "" and (not isinstance(group, str) or not is_type_name(group)):
            raise InputError(f"{source}: a group must be {TYPE_NAME_RULE}, got {quoted(group)}.")


def _check_paths(benchmark: Benchmark) -> None:
    """Before any image is looked for: annotations may be anyone's."""
    paths = benchmark.images["image"].to_pylist()
    if _has_other_names(benchmark):
        paths += pc.list_flatten(benchmark.images["other_names"]).to_pylist()
    folders: set[str] = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        # a folder is resolved once, since that takes time; the link that a file may be is followed where it is loaded
        if folder not in folders or name == "..":
            image_path(benchmark.root, path)
            folders.add(folder)


def groups_of(benchmark: Benchmark) -> list[str]:
    """The groups that the items are in, tags included, each once."""
    groups = []
    if "group" in benchmark.key.column_names:
        groups += pc.unique(benchmark.key["group"]).to_pylist()
    if "tags" in benchmark.key.column_names:
        groups += pc.unique(pc.list_flatten(benchmark.key["tags"])).to_pylist()
    return groups


def check_answers(benchmark: Benchmark, source: str) -> None:
    """Refuses labels and ratings that no score can agree with.

    Raises:
        InputError: labels of one class only, or ratings that are all equal or no finite numbers.
    """
    if benchmark.protocol == "labels":
        labels = set(benchmark.key["label"].to_pylist())
        if labels != {0, 1}:
            raise InputError(f"{source}: labels must be both 0 and 1, got {quoted(sorted(labels, key=str))} alone.")
    if benchmark.protocol == "ratings":
        ratings = benchmark.key["rating"].to_numpy()
        if not np.isfinite(ratings).all() or len(np.unique(ratings)) < 2:
            got = quoted(np.unique(ratings).tolist())
            raise InputError(f"{source}: ratings must be finite numbers of at least two values, got {got}.")
    if benchmark.protocol == "classes" and len(pc.unique(benchmark.texts["text_id"])) < 2:
        raise InputError(
            f"{source}: there must be at least two classes, got one; an image has nothing to be told from."
        )


def with_images(benchmark: Benchmark, source: str) -> Benchmark:
    """The items all of whose images are there; the others are counted in `left_out`.

    Raises:
        InputError: no image is there.
    """
    images = benchmark.images
    names = images["other_names"].to_pylist() if _has_other_names(benchmark) else [[]] * len(images)
    files, ids = [], []
    for image_id, first, others in zip(images["image_id"].to_pylist(), images["image"].to_pylist(), names, strict=True):
        there = next((name for name in (first, *others) if (benchmark.root / name).is_file()), None)
        files.append(there or first)
        ids += [image_id] if there else []
    if not ids:
        raise InputError(f"{source}: none of its images lies in {benchmark.root}; set image_root to their folder.")
    column = images.column_names.index("image")
    images = images.set_column(column, "image", pa.array(files, pa.string()))
    found = replace(benchmark, images=images.drop_columns(["other_names"]) if _has_other_names(benchmark) else images)
    found = with_items(found, of_images(found, ids), IMAGE_MISSING)
    if "box" in images.column_names:
        outside = set(_crops_outside(found))
        inside = [image for image in found.images["image_id"].to_pylist() if image not in outside]
        found = with_items(found, of_images(found, inside), CROP_OUTSIDE)
    return found


def _has_other_names(benchmark: Benchmark) -> bool:
    return "other_names" in benchmark.images.column_names


def _crops_outside(benchmark: Benchmark) -> list[str]:
    """Crops that show nothing of their image. One that reaches over its edge is shown, black outside, as officially."""
    sizes: dict[str, tuple[int, int] | None] = {}
    outside = []
    for row in benchmark.images.to_pylist():
        if row["box"] is None:
            continue
        x, y, width, height = row["box"]
        if row["image"] not in sizes:
            sizes[row["image"]] = None
            # what cannot be opened is told where images are scored
            with suppress(OSError, ValueError), Image.open(image_path(benchmark.root, row["image"])) as image:
                sizes[row["image"]] = image.size
        size = sizes[row["image"]]
        within = size is None or (x < size[0] and y < size[1] and x + width > 0 and y + height > 0)
        if width < 1 or height < 1 or not within:
            outside.append(row["image_id"])
    return outside
