"""Captions -> negatives: by a writer, or from pairs that someone wrote beforehand."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from negatives.randomness import generator_for
from negatives.records import (
    NEGATIVE_COLUMNS,
    InputError,
    StrPath,
    check_negative_type,
    read_jsonl,
    show,
    strings,
)

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Writer(Protocol):
    """Writes negatives of one caption; `name` and `version` are kept beside what it wrote."""

    name: str
    version: str

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Negatives as (negative_type, negative caption), at most one for each type."""
        ...


def _plain(items: Iterable[Any]) -> Iterable[Any]:
    return items


def write_negatives(captions: pa.Table, writer: Writer, seed: int, progress: Progress = _plain) -> pa.Table:
    """Lets `writer` write negatives of every caption.

    What is written for a caption depends on the seed, the writer and the caption's row alone, not on the row's place.
    A negative that says what a caption of its image says (case, punctuation and spaces aside) is dropped.

    Args:
        captions: a captions table.
        writer: an offline writer.
        seed: seeds the writer's draws.
        progress: wraps the iteration over captions to show how far it is.

    Returns:
        A negatives table with `negative_id` = `<caption_id>:<negative_type>`, and a column `seed`: with the writer's
        name and version all that it takes to make a row again.

    Raises:
        InputError: if the writer has no negative for any caption.
    """
    said = _said(captions)
    rows = []
    for image_id, caption_id, caption in progress(list(_caption_rows(captions))):
        for negative_type, negative in writer.write(caption, generator_for(seed, writer.name, caption_id)):
            if bare_words(negative) not in said[image_id]:
                negative_id = f"{caption_id}:{negative_type}"
                rows.append((caption_id, negative_id, negative, negative_type, writer.name, "", writer.version))
    if not rows:
        raise InputError(
            f"The writer `{writer.name}` must know words of the captions, and knows none of {len(captions)} captions, "
            f"such as {show(strings(captions, 'caption')[:1])}. Use another generator for these captions."
        )
    return _negatives_table(rows).append_column("seed", pa.array([seed] * len(rows), pa.int64()))


def join_pairs(captions: pa.Table, pairs_path: StrPath, folds: Sequence[int] = ()) -> pa.Table:
    """Negatives that someone wrote beforehand, joined to the captions by image and caption text.

    Case, white space and final punctuation may differ between the file and the table. Pairs of other images, captions
    or folds are skipped, as are repeated ones and those whose negative says what a caption of the image says.

    Args:
        captions: a captions table.
        pairs_path: JSONL with `type, caption, negative_caption`, `coco_id` or `image_id`, and maybe `image_fold`.
        folds: only pairs whose `image_fold` is listed; all where empty.

    Returns:
        A negatives table with `negative_id` = `<caption_id>:<type>:<k>`, k counting in the file's order, and a column
        `source`: the file's name.

    Raises:
        InputError: if the file is unreadable, a line lacks a key, a type is unknown, or no pair joins.
    """
    caption_ids: dict[tuple[str, str], str] = {}
    for image_id, caption_id, caption in _caption_rows(captions):
        caption_ids.setdefault((image_id, join_key(caption)), caption_id)
    said, seen, counts = _said(captions), set(), Counter[tuple[str, str]]()
    rows, total = [], 0
    for image_id, negative_type, caption, negative in _pairs(pairs_path, folds):
        total += 1
        key = (caption_ids.get((image_id, join_key(caption))), negative_type, negative)
        if key[0] is None or key in seen or bare_words(negative) in said[image_id]:
            continue
        seen.add(key)
        number = counts[key[0], negative_type]
        counts[key[0], negative_type] += 1
        rows.append((key[0], f"{key[0]}:{negative_type}:{number}", negative, negative_type, "pairs", "", ""))
    if not rows:
        listed = f" of folds {list(folds)}" if folds else ""
        raise InputError(
            f"Pairs must join captions by image and text, and none of {total} pairs{listed} does ({pairs_path}). "
            "Give the captions that these pairs were written for, or other folds."
        )
    return _negatives_table(rows).append_column("source", pa.array([Path(pairs_path).name] * len(rows), pa.string()))


def bare_words(text: str) -> str:
    """The words of a text, without case, punctuation and spacing.

    >>> bare_words("A red-brown  Dog!") == bare_words("a red brown dog")
    True
    """
    return " ".join(re.findall(r"\w+", text.casefold()))


def join_key(caption: str) -> str:
    """A caption without case, surplus spaces and final punctuation.

    >>> join_key(" A  dog . ")
    'a dog'
    """
    return " ".join(caption.casefold().split()).rstrip(" .!?,;:")


def _caption_rows(captions: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(strings(captions, name) for name in ("image_id", "caption_id", "caption")), strict=True)


def _said(captions: pa.Table) -> defaultdict[str, set[str]]:
    """Image id -> the bare words of each of its captions."""
    said: defaultdict[str, set[str]] = defaultdict(set)
    for image_id, _, caption in _caption_rows(captions):
        said[image_id].add(bare_words(caption))
    return said


def _pairs(path: StrPath, folds: Sequence[int]) -> Iterator[tuple[str, str, str, str]]:
    """(image_id, type, caption, negative caption) of every line whose fold is asked for."""
    for line, pair in read_jsonl(path):
        place = f"{path}, line {line}"
        image_id = pair.get("image_id", pair.get("coco_id"))
        fields = {"image_id` or `coco_id": None if image_id is None else str(image_id)}
        fields |= {name: pair.get(name) for name in ("type", "caption", "negative_caption")}
        for name, value in fields.items():
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"`{name}` must be a text that is not blank, got {show(value)} ({place}). Fill it in.")
        if folds and "image_fold" not in pair:
            raise InputError(f"`folds` needs the key `image_fold` ({place}). Add it, or leave `folds` empty.")
        negative_type = str(pair["type"])
        check_negative_type(negative_type, place)
        if not folds or pair["image_fold"] in folds:
            yield str(image_id), negative_type, pair["caption"], pair["negative_caption"]


def _negatives_table(rows: Sequence[tuple[str, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table({name: pa.array(columns[i], pa.string()) for i, name in enumerate(NEGATIVE_COLUMNS)})
