"""Flickr8k's ratings of captions (Hodosh et al., 2013): by three experts from 1 to 4, or by a crowd (CF).

`ExpertAnnotations.txt` has tab-separated rows of an image, a caption's id (`<image>#<k>` in `Flickr8k.token.txt`) and
three ratings; `CrowdFlowerAnnotations.txt` has the share of yes, and the two counts. CLIPScore's JSON holds the same:
`{"<id>": {"image_path": "..", "ground_truth": [..], "human_judgement": [{"caption": "..", "rating": 3.0}, ...]}}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.collect import Collected
from datamodules.benchmarks.official import (
    find_file,
    list_of,
    load_json,
    mapping_of,
    number_in,
    placed,
    reading,
    text_in,
)
from negatives.tables import InputError, StrPath, quoted

TOKENS = "Flickr8k.token.txt"
EXPERTS = 3


class Rated(NamedTuple):
    """A caption of an image with its ratings; `own`: the captions that people wrote of the image."""

    image: str
    caption_id: str
    caption: str
    ratings: list[float]
    own: frozenset[str]


def read_expert(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The experts' ratings, a row each: officially they are not averaged, and the agreement is tau-c.

    Captions that equal one of their image's own are left out and counted, as officially.

    Args:
        annotations: folder of `ExpertAnnotations.txt` and `Flickr8k.token.txt`, or `flickr8k.json` or its folder.
        image_root: folder of the photos.

    Raises:
        InputError: no annotation file, a malformed one, other than three raters, or no item.
    """
    path = find_file(annotations, "Flickr8k-Expert", "ExpertAnnotations.txt", "flickr8k.json")
    return _read(path, "flickr8k_expert", EXPERTS, image_root, drop_own=True)


def read_cf(annotations: StrPath, *, image_root: StrPath | None = None) -> Benchmark:
    """The crowd's ratings: the share of yes, one for each caption of an image; the agreement is tau-b.

    An image's own captions stay, as officially.

    Args:
        annotations: folder of `CrowdFlowerAnnotations.txt` and `Flickr8k.token.txt`, or `crowdflower_flickr8k.json` or
            its folder.
        image_root: folder of the photos.

    Raises:
        InputError: no annotation file, a malformed one, or no item.
    """
    path = find_file(annotations, "Flickr8k-CF", "CrowdFlowerAnnotations.txt", "crowdflower_flickr8k.json")
    return _read(path, "flickr8k_cf", 1, image_root, drop_own=False)


def _read(path: Path, name: str, raters: int, image_root: StrPath | None, *, drop_own: bool) -> Benchmark:
    found = Collected(name, "ratings", path, image_root)
    with reading(path, name):
        for row in _of_json(path, raters) if path.suffix == ".json" else _of_text(path, raters):
            if len(row.ratings) != raters:
                raise TypeError(f"{row.image} has {len(row.ratings)} ratings of one caption instead of {raters}")
            if drop_own and row.caption in row.own:
                found.left_out["caption is the image's own"] += 1
                continue
            # of three ratings officially one may be missing: it goes, and the others stay
            given = [rating for rating in row.ratings if not math.isnan(rating)]
            if missing := len(row.ratings) - len(given):
                found.left_out["missing ratings"] += missing
            if not given:
                continue
            image_id = found.image(placed(found.root, row.image, Path(row.image).name), image_id=Path(row.image).stem)
            item_id = f"{image_id}:{row.caption_id}"
            for rating in given:
                found.add(
                    item_id=item_id,
                    image_id=image_id,
                    text_id=found.text(row.caption),
                    rating=rating,
                    prompt_id=item_id,
                )
    return found.benchmark()


def _of_text(path: Path, raters: int) -> Iterator[Rated]:
    captions = {row[0]: row[1] for row in _lines(path.parent / TOKENS, 2)}
    own: dict[str, set[str]] = {}
    for caption_id, caption in captions.items():
        own.setdefault(caption_id.partition("#")[0], set()).add(_normal(caption))
    # the crowd's rows have their two counts behind the share
    for image, caption_id, *ratings in _lines(path, 2 + (raters if raters > 1 else 3)):
        if caption_id not in captions:
            raise TypeError(f"{quoted(caption_id)} is no caption of {TOKENS}")
        numbers = [number_in(ratings, place, caption_id) for place in range(raters)]
        yield Rated(image, caption_id, _normal(captions[caption_id]), numbers, frozenset(own.get(image, ())))


def _lines(path: Path, fields: int) -> Iterator[tuple[str, ...]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path.parent} holds no Flickr8k file {path.name}; give its data folder.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = tuple(line.split("\t"))
        if len(row) != fields:
            raise TypeError(f"line {number} of {path.name} has {len(row)} fields instead of {fields}")
        yield row


def _of_json(path: Path, raters: int) -> Iterator[Rated]:
    for key, image in mapping_of(load_json(path)).items():
        own = frozenset(_normal(text_in(image["ground_truth"], n, key)) for n in range(len(image["ground_truth"])))
        ratings: dict[str, list[float]] = {}
        for judgement in list_of(image["human_judgement"]):
            caption = _normal(text_in(judgement, "caption", key))
            ratings.setdefault(caption, []).append(number_in(judgement, "rating", key))
        name = text_in(image, "image_path", key)
        for number, (caption, given) in enumerate(ratings.items()):
            # captions of several photos may be equal: each was rated by all raters
            for start in range(0, len(given), raters):
                caption_id = f"{number}.{start // raters}"
                yield Rated(name, caption_id, caption, given[start : start + raters], own)


def _normal(caption: str) -> str:
    """Captions are compared without a regard to white space."""
    return " ".join(caption.split())
