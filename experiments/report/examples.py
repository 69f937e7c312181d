"""A few scored images for the page: thumbnails as data, captions, and what each run made of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules import read_rgb
from experiments.report.read_runs import EvaluatedRun

SIDE = 320  # longest side of a thumbnail, in pixels
SMALL = 96  # images up to this side are kept without loss and shown enlarged
PAIRS_SHOWN = 8


@dataclass(frozen=True)
class Verdict:
    """What one run says about one pair."""

    right: bool
    positive_score: float
    negative_score: float


@dataclass(frozen=True)
class ExamplePair:
    """A negative beside its positive, with one verdict for each run."""

    caption: str
    negative_caption: str
    negative_type: str
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Example:
    """One image; `thumbnail` is a data URI, None where the image cannot be shown."""

    image_id: str
    thumbnail: str | None
    small: bool
    captions: dict[str, list[ExamplePair]]
    left_out: int


def choose_examples(runs: Sequence[EvaluatedRun], set_name: str, count: int, seed: int) -> list[Example]:
    """`count` images of a set that all runs have, drawn at random by `seed` (all where there are fewer)."""
    first = runs[0].sets[set_name]
    image_ids = np.array(first.pairs["image_id"].to_pylist())
    images = np.unique(image_ids)
    # a permutation: of n + 1 examples, n are the same
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return [_example(runs, set_name, np.flatnonzero(image_ids == images[i])) for i in sorted(chosen)]


def _example(runs: Sequence[EvaluatedRun], set_name: str, rows: np.ndarray) -> Example:
    tables = [run.sets[set_name].pairs.take(rows[:PAIRS_SHOWN]).to_pylist() for run in runs]
    captions: dict[str, list[ExamplePair]] = {}
    for scored in zip(*tables, strict=True):
        pair = scored[0]
        verdicts = [_verdict(row) for row in scored]
        shown = ExamplePair(pair["caption"], pair["negative_caption"], pair["negative_type"], verdicts)
        captions.setdefault(pair["caption"], []).append(shown)
    first = tables[0][0]
    data, small = thumbnail(runs[0].sets[set_name].image_root, first["image"])
    return Example(first["image_id"], data, small, captions, max(0, len(rows) - PAIRS_SHOWN))


def _verdict(row: dict[str, Any]) -> Verdict:
    # by logits, as accuracies are: scores may tie by rounding
    return Verdict(row["positive_logit"] > row["negative_logit"], row["positive_score"], row["negative_score"])


def thumbnail(root: Path, image: str) -> tuple[str | None, bool]:
    """A re-encoded, downsized copy as a data URI, and whether the image is small; (None, False) if it cannot be read.

    Nothing of the file but its pixels reaches the page, and no file outside `root` is opened, links resolved.
    """
    try:
        path = (root / image).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            return None, False
        picture = read_rgb(path)  # as the model sees it
        small = max(picture.size) <= SMALL
        picture.thumbnail((SIDE, SIDE))
    except Exception:  # decoders raise whatever they like, and a page is worth more than a picture in it
        return None, False
    kind = "png" if small else "jpeg"
    encoded = io.BytesIO()
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(encoded, kind, quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}", small
