"""Reads any benchmark of the table, and checks what the readers do not: images, ids and negative types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.benchmarks.pairs import Pairs
from datamodules.benchmarks.table import find_benchmark
from datamodules.sources.images import check_images, image_path
from negatives.tables import TYPE_NAME_RULE, InputError, StrPath, is_type_name, quoted, read_captions


def read_benchmark(
    name: str,
    *,
    captions: StrPath | None = None,
    negatives: StrPath | None = None,
    annotations: StrPath | None = None,
    image_root: StrPath | None = None,
    image_ids: StrPath | None = None,
    texts_only: bool = False,
) -> Pairs:
    """The pairs of a benchmark whose images are there.

    Args:
        name: of a row of `BENCHMARKS`.
        captions, negatives, annotations: what its reader reads; the others are ignored.
        image_root: folder of the images; own tables have theirs beside the captions where None.
        image_ids: captions table whose images are the only ones used; all where None.
        texts_only: no image is looked for; all items that the benchmark counts as valid are there.

    Raises:
        InputError: an unknown benchmark, a missing or malformed input, missing images, ids or types that cannot be
            used, or no pair left.
    """
    benchmark = find_benchmark(name)
    inputs = {"captions": captions, "negatives": negatives, "annotations": annotations, "image_root": image_root}
    if missing := [key for key in benchmark.needs(images=not texts_only) if inputs[key] is None]:
        raise InputError(f"`{missing[0]}` must be given to read {name}.")
    given = {key: inputs[key] for key in (*benchmark.inputs, "image_root")}
    source = f"{name} ({inputs[benchmark.inputs[-1]]})"
    pairs = benchmark.load_reader()(**given)
    check_pairs(pairs, source)
    # People keep a part of COCO; of tables that someone made, a missing image is a wrong image_root, refused below.
    if benchmark.published and not texts_only:
        pairs = with_images(pairs, source)
    if image_ids is not None:
        allowed = pc.unique(read_captions(image_ids)["image_id"])
        pairs = select_captions(pairs, pc.is_in(pairs.captions["image_id"], value_set=allowed))
    if not pairs.negatives.num_rows:
        raise InputError(f"{source}: no pair is left to evaluate on; check `image_ids` and the tables.")
    if not texts_only:
        check_images(pairs.root, pairs.captions["image"].to_pylist())
    return pairs


def check_pairs(pairs: Pairs, source: str) -> None:
    """Refuses what would be scored wrongly without a word: scores are kept by id, and metrics by negative type.

    Raises:
        InputError: an image outside the folder, an id that is not unique, a negative of no caption, or a type that is
            no name.
    """
    # before any image is looked for: annotations may be anyone's
    for image in dict.fromkeys(pairs.captions["image"].to_pylist()):
        image_path(pairs.root, image)
    for table, column in ((pairs.captions, "caption_id"), (pairs.negatives, "negative_id")):
        if (twice := _first_repeated(table[column].to_pylist())) is not None:
            raise InputError(f"{source}: {column} must be unique, {quoted(twice)} is there more often.")
    known = set(pairs.captions["caption_id"].to_pylist())
    for caption_id in pairs.negatives["caption_id"].to_pylist():
        if caption_id not in known:
            raise InputError(f"{source}: a negative must name its caption, got {quoted(caption_id)}, which is none.")
    for negative_type in pc.unique(pairs.negatives["negative_type"]).to_pylist():
        if not isinstance(negative_type, str) or not is_type_name(negative_type):
            raise InputError(f"{source}: a negative type must be {TYPE_NAME_RULE}, got {quoted(negative_type)}.")


def with_images(pairs: Pairs, source: str) -> Pairs:
    """The pairs whose image is there; the others are counted in `left_out`.

    Raises:
        InputError: no image is there.
    """
    paths = pairs.captions["image"].to_pylist()
    there = {image: image_path(pairs.root, image).is_file() for image in dict.fromkeys(paths)}
    if not any(there.values()):
        raise InputError(f"{source}: none of its images lies in {pairs.root}; set image_root to their folder.")
    # negatives are counted, since an item is a pair; a caption may have several
    found = select_captions(pairs, pa.array([there[image] for image in paths]))
    absent = len(pairs.negatives) - len(found.negatives)
    return replace(found, left_out=pairs.left_out + absent)


def select_captions(pairs: Pairs, wanted: pa.Array) -> Pairs:
    """The pairs of the captions at which `wanted`, one bool for each, is true."""
    captions = pairs.captions.filter(wanted)
    negatives = pairs.negatives
    own = pc.is_in(negatives["caption_id"], value_set=pc.unique(captions["caption_id"]))
    return replace(pairs, captions=captions, negatives=negatives.filter(own))


def _first_repeated(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
