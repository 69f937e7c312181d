"""Texts of which it is known whether they are true of a photo, and what each is given to validation as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.validity.true_texts import additions, drawn, made_from
from negatives import NEGATIVE_TYPES, PARAPHRASE, bare_words, changed_span
from negatives.tables import read_jsonl

LONGEST_REPLACEMENT = 3  # words of a span in which two texts of one photo differ
CHATGPT, PEOPLE, ADDITIONS = "replacements by ChatGPT", "replacements by people", "additions"
"""Sources whose words do not come from WordNet: a paraphrase or another caption that differs from the caption in one
short span, and a caption with a phrase of place of another caption of its photo."""


@dataclass(frozen=True)
class Text:
    """A text that is given to validation.

    Attributes:
        source: where it comes from, such as "true swap_obj" or "deletions".
        kinds: what it is given as, each in turn: negative types, or "paraphrase".
        image: the image of its caption, by which intervals are clustered.
        others: bare words of the captions of its image.
    """

    source: str
    text: str
    caption: str
    kinds: tuple[str, ...]
    image: Any
    others: frozenset[str]


def read_records(path: Path, folds: Sequence[int]) -> list[dict[str, Any]]:
    """The pairs of some folds; what the file says of others is dropped on reading."""
    return [record for _, record in read_jsonl(str(path)) if record["image_fold"] in folds]


def texts_of(records: Sequence[dict[str, Any]], most: int, seed: int) -> Iterator[Text]:
    """Written negatives and paraphrases, captions of other images, and true texts that were made or found."""
    captions_of: dict[Any, dict[str, None]] = {}
    images_of: dict[str, Any] = {}
    for record in records:
        captions_of.setdefault(record["coco_id"], {})[record["caption"]] = None
        images_of.setdefault(record["caption"], record["coco_id"])
    others = {image: frozenset(map(bare_words, captions)) for image, captions in captions_of.items()}
    every, captions = (*NEGATIVE_TYPES, PARAPHRASE), sorted(images_of)
    rng = np.random.default_rng(seed)
    for record in records:
        caption, image, name = record["caption"], record["coco_id"], record["type"]
        yield Text(f"true {name}", record["negative_caption"], caption, (name, PARAPHRASE), image, others[image])
        if record.get("llm_paraphrase"):
            yield Text("true paraphrase", record["llm_paraphrase"], caption, every, image, others[image])
    for caption, place in zip(captions, rng.permutation(len(captions)), strict=True):
        text, image = captions[int(place)], images_of[caption]
        if images_of[text] != image:
            yield Text("random caption", text, caption, (PARAPHRASE,), image, others[image])
    made = [(*item, others[images_of[item[1]]]) for item in made_from(captions, most, seed)]
    made += [(*item, others[images_of[item[1]]]) for item in _found(records, captions_of, most, seed)]
    for source, caption, text, known in made:
        # a text is no negative of any kind because it is true, whatever made it; that people wrote it of this photo
        # is what validation must not know
        known = known - {bare_words(text)} if source == PEOPLE else known
        yield Text(source, text, caption, tuple(NEGATIVE_TYPES), images_of[caption], known)


def _found(
    records: Sequence[dict[str, Any]], captions_of: Mapping[Any, Iterable[str]], most: int, seed: int
) -> Iterator[tuple[str, str, str]]:
    """(source, caption, true text) of what does not come from WordNet, at most `most` of each source, at random."""
    written = {(record["caption"], record["llm_paraphrase"]) for record in records if record.get("llm_paraphrase")}
    pairs = [pair for captions in captions_of.values() for pair in permutations(captions, 2)]
    added = [(caption, text) for caption, other in pairs for text in additions(caption, other)]
    rng = np.random.default_rng(seed)
    for source, found in (
        (CHATGPT, sorted(pair for pair in written if _is_replacement(*pair))),
        (PEOPLE, [pair for pair in pairs if _is_replacement(*pair)]),
        (ADDITIONS, list(dict.fromkeys(added))),
    ):
        yield from ((source, *pair) for pair in drawn(found, most, rng))


def _is_replacement(caption: str, text: str) -> bool:
    """Whether two texts differ in one short span of other words: one that has moved is none."""
    before, after = changed_span(text, caption)
    short, long = sorted((len(before), len(after)))
    return short > 0 and long <= LONGEST_REPLACEMENT and set(before).isdisjoint(after)
