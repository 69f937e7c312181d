"""Retrieval: is an image's own text among the K texts that score highest, and the other way round? COCO, Flickr30k."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.benchmarks.logits import CELLS, Logits, coded, places_among
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.ranking import median
from datamodules.benchmarks.protocols.rows import Groups, Rows, Weighted
from negatives.tables import InputError

RECALLS = (1, 5, 10)
I2T, T2I = "i2t", "t2i"


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
) -> Measured:
    """Recall at 1, 5 and 10, mean and median rank, from image to text (`i2t_...`) and from text to image (`t2i_...`).

    Every image of `logits` is compared with every text of it. What counts is the best rank of the relevant ones: 1 and
    the number of others that score at least as high, so that a tie is wrong. `recall_mean` is the mean of the six
    recalls (as in LAVIS). Images are what is resampled, and their texts with them; what is searched stays as it is.

    Args:
        key: columns `image_id` and `text_id`: the relevant pairs.
        logits: of all images with all texts.
        calibrated: no metric here depends on it.
        aggregates: there are no groups, hence none.

    Raises:
        InputError: no relevant pair, or a missing logit.
    """
    if not len(key):
        raise InputError("retrieval: the key has no relevant pair; nothing can be measured.")
    image_ranks, text_ranks, images, image_of_text = _ranks(key, logits)
    queries = len(image_ranks)
    owners = images.take(pa.array(np.concatenate([np.arange(queries), image_of_text])))
    places = np.arange(queries + len(text_ranks))
    rows = Rows(Groups.one(len(places)), owners.to_pylist(), owners)
    recalls = []
    for name, ranks, is_query in (
        (I2T, np.r_[image_ranks, np.zeros(len(text_ranks))], places < queries),
        (T2I, np.r_[np.zeros(queries), text_ranks], places >= queries),
    ):
        for k in RECALLS:
            recalls.append(f"{name}_r{k}")
            rows.share(recalls[-1], is_query & (ranks <= k), is_query)
        rows.share(f"{name}_mean_rank", ranks * is_query, is_query)
        rows.weighted([f"{name}_median_rank"], partial(_median, ranks), is_query)
    rows.combined("recall_mean", recalls, lambda values: values.mean(1))
    return rows.measured()


def _median(ranks: NDArray[np.float64], items: NDArray[np.intp]) -> Weighted:
    return median(ranks[items])


def _ranks(
    key: pa.Table, logits: Logits
) -> tuple[NDArray[np.float64], NDArray[np.float64], pa.Array, NDArray[np.int64]]:
    """Best ranks of the images and texts that have something relevant, these images, and each text's first one."""
    images, image_codes = coded(key["image_id"])
    texts, text_codes = coded(key["text_id"])
    relevant = logits.of(key["image_id"], key["text_id"])
    best_of_image, best_of_text = np.full(len(images), -np.inf), np.full(len(texts), -np.inf)
    np.maximum.at(best_of_image, image_codes, relevant)
    np.maximum.at(best_of_text, text_codes, relevant)
    # relevant ones do not stand in each other's way
    image_ranks, text_ranks = np.ones(len(images)), np.ones(len(texts))
    image_ranks -= np.bincount(image_codes, relevant >= best_of_image[image_codes])
    text_ranks -= np.bincount(text_codes, relevant >= best_of_text[text_codes])
    # a block of images at a time: all of COCO's logits would take 1 GB, and sorting them a minute
    row_of_image = places_among(logits.image_ids, images)
    column_of_text = places_among(logits.text_ids, texts)
    step = max(1, CELLS // len(logits.text_ids))
    for start in range(0, len(logits.image_ids), step):
        block = logits.matrix(logits.image_ids[start : start + step], logits.text_ids)
        rows = row_of_image[start : start + step]
        queried = rows >= 0
        image_ranks[rows[queried]] += (block[queried] >= best_of_image[rows[queried], None]).sum(1)
        columns = np.flatnonzero(column_of_text >= 0)
        text_ranks[column_of_text[columns]] += (block[:, columns] >= best_of_text[column_of_text[columns]]).sum(0)
    first = np.unique(text_codes, return_index=True)[1]
    return image_ranks, text_ranks, images, image_codes[first]
