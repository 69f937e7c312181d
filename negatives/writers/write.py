"""Captions -> negatives: by an offline writer, or from pairs that someone wrote beforehand.

Every row is validated, whatever wrote it: `rejected` is "" or the reason of `negatives.validate.rejection`, and those
who read the table skip the rows that have one.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from negatives.tables.captions import NEGATIVE_COLUMNS
from negatives.tables.columns import strings
from negatives.tables.files import InputError, StrPath, quoted, read_jsonl
from negatives.tables.randomness import generator_for
from negatives.types import check_is_registered
from negatives.validate import rejection
from negatives.word_forms import bare_words, words

CHUNK = 1000  # captions that a model reads at once
MAX_WORDS = 100  # of a caption: writers exchange any two of its phrases, which takes quadratic time and more
UNWRITTEN_SCHEMA = pa.schema([(name, pa.string()) for name in ("caption_id", "negative_type", "outcome", "detail")])
"""One row for each caption and type without any text, and why there is none; the type is "" where it holds for all."""
Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Attempt:
    """One negative that a writer wrote, or why it could not.

    Attributes:
        field: the writer's own name of what it did: a CE-CLIP field, a NegCLIP kind of phrase.
        negative_type: one of `negatives.types.NEGATIVE_TYPES`.
        text: the negative; "" where there is none.
        detail: why there is none; "" where there is one.
    """

    field: str
    negative_type: str
    text: str
    detail: str = ""


class Writer(Protocol):
    """Writes negatives of one caption; `name` and `version` are kept beside what it wrote."""

    name: str
    version: str

    def write(self, caption: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Negatives as (negative_type, negative caption)."""
        ...


class BatchWriter(Protocol):
    """Writes negatives of many captions at once, by the models that `model` names."""

    name: str
    version: str

    @property
    def model(self) -> str:
        """The models and their versions."""
        ...

    def attempts(self, captions: Sequence[tuple[str, str]], seed: int) -> list[list[Attempt]]:
        """For each (caption_id, caption) what was written and what could not be; independent of the others."""
        ...


class Written(NamedTuple):
    """What a writer made of captions.

    Attributes:
        negatives: a negatives table with `field`, `seed`, `settings` and `rejected`.
        unwritten: see `UNWRITTEN_SCHEMA`: captions of more than `MAX_WORDS` words, and what writers that read many
            captions could not write.
    """

    negatives: pa.Table
    unwritten: pa.Table


def _plain(items: Iterable[Any]) -> Iterable[Any]:
    return items


def write_negatives(
    captions: pa.Table,
    writer: Writer | BatchWriter,
    seed: int,
    progress: Progress = _plain,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Written:
    """Lets `writer` write negatives of every caption.

    What is written for a caption depends on the seed, the writer and the caption's row alone, not on the row's place.
    No writer sees a caption of more than `MAX_WORDS` words.

    Args:
        captions: a captions table.
        writer: an offline writer.
        seed: seeds the writer's draws.
        progress: wraps the iteration over captions to show how far it is.
        settings: what `table.build_writer` makes this writer of; the rows keep it as JSON.

    Returns:
        Rows with `negative_id` = `<caption_id>:<negative_type>:<k>`. With the caption they can be made again by the
        writer's name, version, models and settings, and the seed.

    Raises:
        InputError: if the writer has no negative for any caption, or writes a type that has no row.
    """
    captions_of = _captions_by_image(captions)
    columns: dict[str, list[Any]] = {name: [] for name in (*NEGATIVE_COLUMNS, "field", "seed", "settings", "rejected")}
    rows: list[tuple[str, str, str]] = []
    long: list[tuple[str, str, str]] = []
    for row in _caption_rows(captions):
        (long if len(words(row[2])) > MAX_WORDS else rows).append(row)
    unwritten = [(caption_id, "", "too_long", f"more than {MAX_WORDS} words") for _, caption_id, _ in long]
    shown = "" if settings is None else json.dumps(settings, sort_keys=True)
    # a `Writer` works without models, and has no such name
    model = getattr(writer, "model", "")
    for (image_id, caption_id, caption), attempts in _attempts(progress(rows), writer, seed):
        counts = Counter[str]()  # anew for each caption: an id does not depend on which other captions there are
        for attempt in attempts:
            negative_type, text = attempt.negative_type, attempt.text
            check_is_registered(negative_type, f"writer {writer.name}")
            if not text:
                unwritten.append((caption_id, negative_type, "nothing_to_write", attempt.detail))
                continue
            negative_id = f"{caption_id}:{negative_type}:{counts[negative_type]}"
            counts[negative_type] += 1
            reason = rejection(text, caption, negative_type, captions_of[image_id])
            made = (caption_id, negative_id, text, negative_type, writer.name, model, writer.version)
            for column, value in zip(columns.values(), (*made, attempt.field, seed, shown, reason), strict=True):
                column.append(value)
    if not columns["caption"]:
        raise InputError(_nothing_written(captions, writer.name, [detail for *_, detail in unwritten]))
    lacking = pa.Table.from_pylist(
        [dict(zip(UNWRITTEN_SCHEMA.names, row, strict=True)) for row in unwritten], UNWRITTEN_SCHEMA
    )
    return Written(pa.table(columns), lacking)


def _nothing_written(captions: pa.Table, writer: str, details: Sequence[str]) -> str:
    """The error of a writer that wrote nothing; `details` say why, where it says so."""
    counted = "1 caption" if len(captions) == 1 else f"{len(captions)} captions"
    # a writer of word lists says nothing: it knew none of the words
    why = Counter(details).most_common(1)[0][0] if details else "it must know words of the captions"
    shown = quoted(strings(captions, "caption")[:1])
    return (
        f"The writer `{writer}` wrote nothing for {counted}, such as {shown}: {why}. Use another generator for these."
    )


def _attempts(
    captions: Iterable[tuple[str, str, str]], writer: Writer | BatchWriter, seed: int
) -> Iterator[tuple[tuple[str, str, str], list[Attempt]]]:
    """Each (image_id, caption_id, caption) with what the writer made of it."""
    rows = iter(captions)
    if not hasattr(writer, "attempts"):
        for row in rows:
            written = writer.write(row[2], generator_for(seed, writer.name, row[1]))
            yield row, [Attempt("", negative_type, text) for negative_type, text in written]
        return
    # chunks: a masked LM fills many captions at once, and no more than these are held
    while chunk := list(islice(rows, CHUNK)):
        yield from zip(chunk, writer.attempts([row[1:] for row in chunk], seed), strict=True)


def join_pairs(captions: pa.Table, pairs_path: StrPath, folds: Sequence[int] = ()) -> pa.Table:
    """Negatives that someone wrote beforehand, joined to the captions by image and caption text.

    Case, white space and final punctuation may differ between the file and the table. Pairs of other images, captions
    or folds are skipped, as are repeated ones.

    Args:
        captions: a captions table.
        pairs_path: JSONL with `type, caption, negative_caption`, `coco_id` or `image_id`, and maybe `image_fold`.
        folds: only pairs whose `image_fold` is listed; all where empty.

    Returns:
        A negatives table with `negative_id` = `<caption_id>:<type>:<k>`, k counting in the file's order, with `source`,
        the file's name, and `rejected`.

    Raises:
        InputError: if the file is unreadable, a line lacks a key, a type is unknown, or no pair joins.
    """
    # by image too: "a man riding a wave" is the caption of many
    joined: dict[tuple[str, str], tuple[str, str]] = {}
    for image_id, caption_id, caption in _caption_rows(captions):
        # of captions of an image that differ in case or final marks only, the first takes the pairs
        joined.setdefault((image_id, join_key(caption)), (caption_id, caption))
    captions_of, seen, counts = _captions_by_image(captions), set(), Counter[tuple[str, str]]()
    source = Path(pairs_path).name
    rows, total = [], 0
    for image_id, negative_type, caption, negative in _pairs(pairs_path, folds):
        total += 1
        caption_id, own = joined.get((image_id, join_key(caption)), ("", ""))
        if not caption_id or (caption_id, negative_type, negative) in seen:
            continue
        seen.add((caption_id, negative_type, negative))
        negative_id = f"{caption_id}:{negative_type}:{counts[caption_id, negative_type]}"
        counts[caption_id, negative_type] += 1
        reason = rejection(negative, own, negative_type, captions_of[image_id])
        rows.append((caption_id, negative_id, negative, negative_type, "pairs", "", "", source, reason))
    if not rows:
        listed = f" of folds {list(folds)}" if folds else ""
        raise InputError(
            f"Pairs must join captions by image and text, and none of {total} pairs{listed} does ({pairs_path}). "
            "Give the captions that these pairs were written for, or other folds."
        )
    names = (*NEGATIVE_COLUMNS, "source", "rejected")
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


def join_key(caption: str) -> str:
    """A caption without case, surplus spaces and final punctuation.

    >>> join_key(" A  dog . ")
    'a dog'
    """
    return " ".join(caption.casefold().split()).rstrip(" .!?,;:")


def _caption_rows(captions: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(strings(captions, name) for name in ("image_id", "caption_id", "caption")), strict=True)


def _captions_by_image(captions: pa.Table) -> defaultdict[str, set[str]]:
    """Image id -> the bare words of each of its captions: a text that equals any of them is true of the image."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for image_id, _, caption in _caption_rows(captions):
        found[image_id].add(bare_words(caption))
    return found


def _pairs(path: StrPath, folds: Sequence[int]) -> Iterator[tuple[str, str, str, str]]:
    """(image_id, type, caption, negative caption) of every line whose fold is asked for."""
    for line, pair in read_jsonl(path):
        place = f"{path}, line {line}"
        image_id = pair.get("image_id", pair.get("coco_id"))
        # the first key is written as the error shows it, between backticks
        fields = {"image_id` or `coco_id": None if image_id is None else str(image_id)}
        fields |= {name: pair.get(name) for name in ("type", "caption", "negative_caption")}
        for name, value in fields.items():
            if not isinstance(value, str) or not value.strip():
                raise InputError(
                    f"`{name}` must be a text that is not blank, got {quoted(value)} ({place}). Fill it in."
                )
        if folds and "image_fold" not in pair:
            raise InputError(f"`folds` needs the key `image_fold` ({place}). Add it, or leave `folds` empty.")
        negative_type = str(pair["type"])
        check_is_registered(negative_type, place)
        if not folds or pair["image_fold"] in folds:
            yield str(image_id), negative_type, pair["caption"], pair["negative_caption"]
