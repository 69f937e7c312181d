"""Groups: K images with K texts, each image with its own. Winoground, BiVLC, VisMin, MMVP-VLM, NaturalBench."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.benchmarks.logits import Logits
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.rows import Groups, Rows, flat, joined
from negatives.tables import InputError, quoted


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
    ties: str = "strict",
) -> Measured:
    """Metrics of K x K logits whose diagonal is true; items that share an image are resampled together.

    `text`: each image scores its own text highest. `image`: each text scores its own image highest. `group`: both
    (Thrush et al., 2022). `average`: the mean of the three (VisMin's AVG is its "mean"). `own_text`: share of images
    whose own text wins, and `own_image`: share of texts whose own image wins (NaturalBench's questions without a
    threshold). A tie is wrong.

    Of calibrated logits, NaturalBench's accuracies (Li et al., 2024), over the items that the key marks by `yes_no`:
    text k is a question whose answer is yes on image k and no on the others. `answer`: right answers;
    `question_answers` and `image_answers`: questions, or images, whose answers are all right; `group_answers`: items
    whose answers are all right. A logit of 0 is no answer.

    Args:
        key: columns `item_id`, `group`, `image_ids` and `text_ids` (lists of one length), optional `tags` and `yes_no`
            (bools).
        logits: of each image of an item with each of its texts.
        calibrated: whether a logit of 0 means one half.
        aggregates: name -> groups whose unweighted mean is a row, too.
        ties: "strict", or "official": of two images that a text scores alike it takes the last, as MMVP's script does.

    Raises:
        InputError: lists of different lengths or of less than two, or a missing logit.
    """
    found = _per_item(key, logits, ties)
    images, owners = flat(key["image_ids"])
    rows = Rows(Groups.of_key(key, aggregates or {}), joined(owners, images, len(key)), key["image_ids"])
    text, image = found["own_text"] == 1, found["own_image"] == 1
    rows.mean("text", text)
    rows.mean("image", image)
    rows.mean("group", text & image)
    rows.mean("average", (text * 1.0 + image + (text & image)) / 3)
    rows.mean("own_text", found["own_text"])
    rows.mean("own_image", found["own_image"])
    asked = key["yes_no"].to_numpy() if "yes_no" in key.column_names else np.zeros(len(key), dtype=bool)
    if calibrated and asked.any():
        for metric in ("answer", "question_answers", "image_answers"):
            rows.share(metric, found[metric] * asked, asked)
        rows.share("group_answers", (found["answer"] == 1) & asked, asked)
    return rows.measured()


def chance(key: pa.Table, metric: str) -> float | None:
    """What random logits reach; None where items differ in size, and of `group` and `average` for more than two images.

    Winoground's are 1/4, 1/4 and 1/6 (Thrush et al., 2022), VisMin's average is 2/9 (Awal et al., 2024), NaturalBench's
    answers are 1/2, 1/4, 1/4 and 1/16 (Li et al., 2024).
    """
    sizes = pc.unique(pc.list_value_length(key["image_ids"])).to_pylist()
    if len(sizes) != 1:
        return None
    (size,) = sizes
    of_all = size**-size  # K rows, or columns, whose own logit is the highest of K
    known = {
        "text": of_all,
        "image": of_all,
        "own_text": 1 / size,
        "own_image": 1 / size,
        "answer": 1 / 2,
        "question_answers": 2**-size,
        "image_answers": 2**-size,
        "group_answers": 2 ** -(size * size),
    }
    # text and image score hang together; for two of each there are 4 of 24 orders in which both are right
    return {**known, "group": 1 / 6, "average": 2 / 9}.get(metric) if size == 2 else known.get(metric)


def _per_item(key: pa.Table, logits: Logits, ties: str) -> dict[str, NDArray[np.float64]]:
    """Shares of each item that all metrics are made of."""
    sizes = _sizes(key)
    image_lists, text_lists = key["image_ids"].combine_chunks(), key["text_ids"].combine_chunks()
    found: dict[str, NDArray[np.float64]] = {}
    for size in np.unique(sizes):
        items = np.flatnonzero(sizes == size)
        images, texts = (
            flat(lists.take(pa.array(items)))[0].take(pa.array(places.ravel()))
            for lists, places in zip((image_lists, text_lists), _cells(len(items), int(size)), strict=True)
        )
        shares = _shares(logits.of(images, texts).reshape(len(items), size, size), ties)
        for name, values in shares.items():
            found.setdefault(name, np.empty(len(key)))[items] = values
    return found


def _sizes(key: pa.Table) -> NDArray[np.int64]:
    images, texts = (pc.list_value_length(key[name]).to_numpy() for name in ("image_ids", "text_ids"))
    wrong = (images != texts) | (images < 2)
    if wrong.any():
        first = int(np.argmax(wrong))
        item = quoted(key["item_id"][first].as_py())
        raise InputError(
            f"groups: as many images as texts, two or more; {item} has {images[first]} and {texts[first]}."
        )
    sizes: NDArray[np.int64] = images
    return sizes


def _cells(items: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the image and of the text of each cell (items, images, texts) in lists laid out flat."""
    starts = np.arange(items)[:, None, None] * size
    shape = (items, size, size)
    places = np.arange(size)
    return np.broadcast_to(starts + places[:, None], shape), np.broadcast_to(starts + places, shape)


def _shares(logits: NDArray[np.float64], ties: str) -> dict[str, NDArray[np.float64]]:
    """Of logits (items, images, texts): what share of the K images, texts or cells of an item is right."""
    size = logits.shape[1]
    own = np.diagonal(logits, axis1=1, axis2=2)
    others = np.where(np.eye(size, dtype=bool), -np.inf, logits)
    text_wins = own > others.max(2)
    image_wins = own > others.max(1)
    if ties == "official":
        last = size - 1 - np.argmax(logits[:, ::-1], axis=1)
        image_wins = last == np.arange(size)
    answers = np.where(np.eye(size, dtype=bool), logits > 0, logits < 0)
    return {
        "own_text": text_wins.mean(1),
        "own_image": image_wins.mean(1),
        "answer": answers.mean((1, 2)),
        "question_answers": answers.all(1).mean(1),
        "image_answers": answers.all(2).mean(1),
    }
