"""How wrong a scorer is on each item of a set, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from datamodules.benchmarks import CELLS, Logits
from experiments.report.comparison.reading.evaluated import EvaluatedSet

Array = NDArray[np.float64]


class Outcomes(NamedTuple):
    """Of the items that examples are chosen among.

    Attributes:
        items: row of the key of each, (items,).
        wrong: from 0, right, to 1, wrong; between for what has no right and wrong, see `by_rank`.
        rivals: the false text that scores highest, where all texts are searched; (items,), None elsewhere.
        margins: how far that text is above the own one, (items,); None elsewhere.
    """

    items: NDArray[np.int64]
    wrong: Array
    rivals: pa.Array | None = None
    margins: Array | None = None


def outcomes(found: EvaluatedSet, metric: str) -> Outcomes:
    """How wrong the scorer is on each item; of retrieval and classes, on each image.

    Args:
        found: a set as the scorer answered it.
        metric: the one that stands for the set: of a group it says what is right.
    """
    return _groups(found, metric) if found.protocol == "groups" else OUTCOMES[found.protocol](found)


def _pairs(found: EvaluatedSet) -> Outcomes:
    sides = []
    for name, reduce in (("true", np.minimum), ("false", np.maximum)):
        lists = found.key[name].combine_chunks()
        owners = pc.list_parent_indices(lists)
        logits = found.logits.of(found.key["image_id"].combine_chunks().take(owners), pc.list_flatten(lists))
        lengths = pc.list_value_length(lists).to_numpy()
        sides.append(reduce.reduceat(logits, np.cumsum(lengths) - lengths))
    # a tie is wrong, as it is in the metrics
    return Outcomes(np.arange(len(found.key)), (sides[0] <= sides[1]).astype(np.float64))


def _groups(found: EvaluatedSet, metric: str) -> Outcomes:
    wrong = np.empty(len(found.key))
    for row, (images, texts) in enumerate(
        zip(*(found.key[n].to_pylist() for n in ("image_ids", "text_ids")), strict=True)
    ):
        logits = item_logits(found.logits, images, texts)
        is_own = np.eye(len(logits), dtype=bool)
        own, others = np.diagonal(logits), np.where(is_own, -np.inf, logits)
        image, text = (own > others.max(0)).all(), (own > others.max(1)).all()
        answers = np.where(is_own, logits > 0, logits < 0).all()
        wrong[row] = not {"image": image, "text": text, "group_answers": answers}.get(metric, image and text)
    return Outcomes(np.arange(len(found.key)), wrong)


def by_rank(found: EvaluatedSet) -> tuple[Array, Array]:
    """Where an item stands among all by its logit, and by its label or rating: from 0 to 1, (rows,) each."""
    name = "label" if found.protocol == "labels" else "rating"
    logits = found.logits.of(found.key["image_id"].combine_chunks(), found.key["text_id"].combine_chunks())
    numbers = found.key[name].cast(pa.float64()).to_numpy()
    # half ranks: of two labels one is in the middle of the lower, one of the upper part
    ranks = [(rankdata(values) - 0.5) / len(values) for values in (logits, numbers)]
    return ranks[0], ranks[1]


def _ranked(found: EvaluatedSet) -> Outcomes:
    own, wanted = by_rank(found)
    return Outcomes(np.arange(len(own)), np.abs(own - wanted))


def _searched(found: EvaluatedSet) -> Outcomes:
    images = found.key["image_id"].combine_chunks().cast(pa.string())
    codes = images.dictionary_encode()
    names, code_of = codes.dictionary, codes.indices.to_numpy(zero_copy_only=False)
    texts = found.logits.text_ids
    column_of = pc.index_in(found.key["text_id"].combine_chunks().cast(pa.string()), value_set=texts).to_numpy()
    own = np.full(len(names), -np.inf)
    np.maximum.at(own, code_of, found.logits.of(images, found.key["text_id"]))
    rival, best = np.empty(len(names), dtype=np.int64), np.empty(len(names))
    step = max(1, CELLS // len(texts))
    for start in range(0, len(names), step):
        block = found.logits.matrix(names[start : start + step], texts)
        inside = (code_of >= start) & (code_of < start + step)
        # relevant ones do not stand in each other's way
        block[code_of[inside] - start, column_of[inside]] = -np.inf
        rival[start : start + step] = block.argmax(1)
        best[start : start + step] = block.max(1)
    first = np.unique(code_of, return_index=True)[1]
    return Outcomes(first, (best >= own).astype(np.float64), texts.take(pa.array(rival)), best - own)


def item_logits(logits: Logits, images: list[str], texts: list[str]) -> Array:
    """(images, texts) of one item."""
    return logits.of(np.repeat(images, len(texts)).tolist(), texts * len(images)).reshape(len(images), len(texts))


OUTCOMES: dict[str, Callable[[EvaluatedSet], Outcomes]] = {
    "pairs": _pairs,
    "labels": _ranked,
    "ratings": _ranked,
    "retrieval": _searched,
    "classes": _searched,
}
