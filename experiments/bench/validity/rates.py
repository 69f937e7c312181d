"""Rates over texts, with intervals that know that texts of one image are not independent.

A caption is given as several kinds, and an image has several captions: they pass or fail together. So the interval is
Wilson's (1927) with the effective number of texts in place of their number (Korn and Graubard, 1998, who put it into
another interval): texts over the design effect, which is the variance between images (the linearised ratio estimator;
Cochran, Sampling Techniques, 1977, section 6.4) over that of independent texts. Rates here are near 0 and 1, where
resampled images leave an interval without width. There the variance between images is hardly seen, so the design effect
is that of the images and two more of average size, one of which has the property and one has not; Agresti and Coull
(1998) add such successes and failures to a rate.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964


@dataclass(frozen=True)
class Rate:
    """How many of some texts have a property.

    Attributes:
        images: different images among the texts.
        low, high: the interval at 95 %, clustered by image.
    """

    texts: int
    images: int
    count: int
    rate: float
    low: float
    high: float


def rate_of(found: Sequence[bool], images: Sequence[Hashable]) -> Rate:
    """The rate of a property, where each of N texts has it or not, and belongs to an image.

    Where no text has it, or each, an image counts about once: 0 of n texts have an upper end of 3.8 over the images.

    Raises:
        ValueError: if there is no text.

    >>> one = rate_of([False] * 300, [text // 3 for text in range(300)])
    >>> one.rate, round(one.high, 3)
    (0.0, 0.037)
    """
    if not found:
        raise ValueError("a rate needs texts, got none")
    rows = {image: row for row, image in enumerate(dict.fromkeys(images))}
    cells = [rows[image] for image in images]
    hits, sizes = np.bincount(cells, weights=np.asarray(found, dtype=float)), np.bincount(cells)
    texts, count = len(found), int(hits.sum())
    low, high = wilson(count / texts, _effective(hits, sizes))
    return Rate(texts, len(rows), count, count / texts, low, high)


def wilson(rate: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of a rate, at 95 %; the number of trials may be an effective one.

    >>> [round(end, 3) for end in wilson(0.0, 100)], [round(end, 3) for end in wilson(0.5, 100)]
    ([0.0, 0.037], [0.404, 0.596])
    """
    scale = 1 + Z * Z / trials
    middle = (rate + Z * Z / (2 * trials)) / scale
    half = Z * math.sqrt(rate * (1 - rate) / trials + (Z / (2 * trials)) ** 2) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def cell(rate: float, low: float, high: float) -> str:
    """A rate and its interval as tables show them.

    >>> cell(0.25, 0.2, 0.3)
    '0.250 [0.200, 0.300]'
    """
    return f"{rate:.3f} [{low:.3f}, {high:.3f}]"


def _effective(hits: np.ndarray, sizes: np.ndarray) -> float:
    """The number of independent texts that would know the rate as well as these do."""
    mean = sizes.mean()
    hits, sizes = np.append(hits, [mean, 0]), np.append(sizes, [mean, mean])
    rate, images = hits.sum() / sizes.sum(), len(sizes)
    between = images / (images - 1) * ((hits - rate * sizes) ** 2).sum() / sizes.sum()
    # at least 1: a few images that happen to agree do not make texts tell more
    return float(sizes[:-2].sum() / max(1.0, between / (rate * (1 - rate))))
