"""Classes: zero-shot classification; the texts are class names in templates. CIFAR, ImageNet, any folder of classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array

from datamodules.benchmarks.logits import CELLS, Logits, coded
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.rows import Groups, Rows, Weighted
from negatives.tables import InputError, quoted


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
) -> Measured:
    """`top1` and `top5` accuracy, and `mean_per_class`, the unweighted mean of the classes' recalls.

    The true class has rank 1 and the number of others that score at least as high, so that a tie is wrong. `top5` is
    there where there are more than five classes. Images are what is resampled.

    Args:
        key: columns `image_id` and `text_id`: the class of each image.
        logits: of all images with all classes.
        calibrated: no metric here depends on it.
        aggregates: there are no groups, hence none.

    Raises:
        InputError: no image, an image of two classes, less than two classes, or a missing logit.
    """
    if not len(key):
        raise InputError("classes: the key has no image; nothing can be measured.")
    if len(logits.text_ids) < 2:
        raise InputError(f"classes: there must be two or more, got {len(logits.text_ids)}.")
    images = key["image_id"].combine_chunks()
    if len(images.unique()) < len(images):
        counts = images.value_counts().to_pylist()
        twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
        raise InputError(f"classes: an image must have one class, got several for {quoted(twice)}.")
    ranks = _ranks(images, key["text_id"].combine_chunks(), logits)
    rows = Rows(Groups.one(len(key)), images.to_pylist(), images)
    rows.mean("top1", ranks <= 1)
    if len(logits.text_ids) > 5:
        rows.mean("top5", ranks <= 5)
    classes = coded(key["text_id"])[1]
    rows.weighted(["mean_per_class"], lambda items: _mean_recall(classes[items], ranks[items] <= 1))
    return rows.measured()


def _ranks(images: pa.Array, classes: pa.Array, logits: Logits) -> NDArray[np.int64]:
    own = logits.of(images, classes)
    ranks = np.empty(len(images), dtype=np.int64)
    step = max(1, CELLS // len(logits.text_ids))
    for start in range(0, len(images), step):
        block = logits.matrix(images[start : start + step], logits.text_ids)
        # the class itself is one of those that score at least as high
        ranks[start : start + step] = (block >= own[start : start + step, None]).sum(1)
    return ranks


def _mean_recall(classes: NDArray[np.intp], right: NDArray[np.bool_]) -> Weighted:
    shape = (int(classes.max()) + 1, len(classes))
    of_class = coo_array((np.ones(len(classes)), (classes, np.arange(len(classes)))), shape=shape).tocsr()
    of_right = coo_array((right * 1.0, (classes, np.arange(len(classes)))), shape=shape).tocsr()

    def values(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = of_class @ weights
        recalls = np.divide(of_right @ weights, counts, out=np.zeros_like(counts), where=counts > 0)
        there = (counts > 0).sum(0)
        return np.divide(recalls.sum(0), there, out=np.full(len(there), np.nan), where=there > 0)[:, None]

    return values
