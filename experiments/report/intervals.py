"""95 % bootstrap intervals over images: captions of one image stand or fall together, so images are what is resampled.

Percentile intervals of the cluster bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13;
clusters as in Cameron, Gelbach and Miller, 2008). Where every pair is right, or every one wrong, no resample differs
and the interval has no width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MEAN = "mean"
PERCENTILES = (2.5, 97.5)
CELLS = 4_000_000  # of resamples x images held in memory at a time: 32 MB each


class Interval(NamedTuple):
    """A measured value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def is_right(positive_logit: ArrayLike, negative_logit: ArrayLike) -> NDArray[np.bool_]:
    """Whether each positive scores strictly higher than its negative; a tie is wrong, and so is NaN.

    >>> is_right([2.0, 1.0, 0.0], [1.0, 1.0, float("nan")]).tolist()
    [True, False, False]
    """
    return np.asarray(positive_logit) > np.asarray(negative_logit)


def differences(right_a: ArrayLike, right_b: ArrayLike) -> NDArray[np.float64]:
    """+1 where only a is right, -1 where only b is, 0 elsewhere: what `type_intervals` takes for a difference."""
    a, b = np.asarray(right_a, dtype=np.float64), np.asarray(right_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same pairs on both sides, got {a.shape} and {b.shape}")
    return a - b


def type_intervals(
    values: ArrayLike, image_ids: ArrayLike, negative_types: ArrayLike, *, resamples: int, seed: int
) -> dict[str, Interval]:
    """The average of `values` for each negative type, and "mean", the unweighted mean of these averages.

    Images are resampled once for all types, so that the interval of the mean knows how the types move together. A
    resample without a single pair of some type says nothing about it, and averages the other types for the mean.

    Args:
        values: One for each of N pairs: 1 or 0 for an accuracy, `differences(...)` for a difference.
        image_ids: The image of each pair.
        negative_types: The type of each pair.
        resamples: Draws of as many images as there are.
        seed: Seeds the draws.

    Returns:
        Type -> interval, types in alphabetical order, "mean" last.

    Raises:
        ValueError: If there is no pair, the lengths differ, or a type is called "mean".
    """
    types, columns = np.unique(np.asarray(negative_types, dtype=str), return_inverse=True)
    if MEAN in types:
        raise ValueError(f"a negative type cannot be called {MEAN!r}: the mean over the types is")
    sums, counts = _per_image(values, columns, image_ids, len(types))
    averages = sums.sum(0) / counts.sum(0)  # over pairs, so that an image with many captions weighs more
    drawn = np.concatenate([_ratio(w @ sums, w @ counts) for w in _weights(len(sums), resamples, seed)])
    result = {str(name): _interval(averages[k], drawn[:, k]) for k, name in enumerate(types)}
    return result | {MEAN: _interval(averages.mean(), np.nanmean(drawn, axis=1))}


def _per_image(
    values: ArrayLike, columns: NDArray[np.intp], image_ids: ArrayLike, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of values and numbers of pairs, both (images, types): all that resampling needs to know."""
    numbers, ids = np.asarray(values, dtype=np.float64), np.asarray(image_ids)
    if not len(numbers) == len(columns) == len(ids):
        raise ValueError(f"one value, type and image for each pair, got {len(numbers)}, {len(columns)}, {len(ids)}")
    if not len(numbers):
        raise ValueError("an interval needs pairs, got none")
    images, rows = np.unique(ids, return_inverse=True)
    # one bincount for all: a cell is an image and a type
    cells = rows * width + columns
    shape, size = (len(images), width), len(images) * width
    sums = np.bincount(cells, weights=numbers, minlength=size).astype(np.float64).reshape(shape)
    return sums, np.bincount(cells, minlength=size).reshape(shape).astype(np.float64)


def _weights(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each resample draws each image, (resamples, images) in parts of bounded size."""
    generator = np.random.default_rng(seed)
    # the stream of draws is the same however it is cut, so results do not depend on memory
    part = max(1, CELLS // images)
    for start in range(0, resamples, part):
        rows = min(part, resamples - start)
        # every resample has a range of numbers of its own, so that one bincount counts them all
        drawn = generator.integers(0, images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    # NaN: the resample has no pair of the type
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    present = drawn[~np.isnan(drawn)]
    # if no resample has a pair, there is no interval to show
    low, high = np.percentile(present, PERCENTILES) if len(present) else (value, value)
    return Interval(float(value), float(low), float(high))
