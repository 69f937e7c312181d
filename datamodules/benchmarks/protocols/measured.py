"""What a protocol finds: metrics that can be taken again under any weights of the images, hence with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # the table of benchmarks names metrics, and every verb reads that table
    from scipy.sparse import csr_array

ALL = ""
"""The group of all items, each with the same weight (micro average)."""
MEAN = "mean"
"""The group that is the unweighted mean over the groups of the key (macro average)."""

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Multiplicities of clusters (R, clusters) -> values (R, rows)."""


class MetricName(NamedTuple):
    """What a row is: a metric, and the items that it is taken over."""

    metric: str
    group: str

    @property
    def logged(self) -> str:
        """As a training logs it.

        >>> MetricName("accuracy", "mean").logged, MetricName("image", "").logged
        ('mean_accuracy', 'image')
        """
        return f"{self.group}{'_' if self.group else ''}{self.metric}"


@dataclass(frozen=True)
class Measured:
    """Metric rows of one scorer on one benchmark.

    Attributes:
        rows: their names, in the order of everything below.
        clusters: names of what is resampled: images, or what holds several (items, prompts).
        item_counts, image_counts: items and distinct images of each row in each cluster, (clusters, rows); sparse,
            since a benchmark may have thousands of groups.
        statistic: what `values` calls.
    """

    rows: tuple[MetricName, ...]
    clusters: tuple[str, ...]
    item_counts: csr_array
    image_counts: csr_array
    statistic: Statistic

    @property
    def counts(self) -> NDArray[np.int64]:
        """Items of each row, (rows,)."""
        return np.asarray(self.item_counts.sum(0), dtype=np.int64)

    @property
    def images(self) -> NDArray[np.int64]:
        """Distinct images of each row, (rows,)."""
        return np.asarray(self.image_counts.sum(0), dtype=np.int64)

    @property
    def spread(self) -> NDArray[np.int64]:
        """Clusters that have items of each row, (rows,)."""
        return np.asarray((self.item_counts > 0).sum(0), dtype=np.int64)

    def values(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metrics where cluster c counts `weights[r, c]` times.

        Args:
            weights: (R, clusters), whole numbers of at least 0; all ones give the metrics of the benchmark.

        Returns:
            (R, rows); NaN where a row is not defined, such as a mean over nothing.
        """
        return self.statistic(np.asarray(weights, dtype=np.float64))

    def value(self) -> NDArray[np.float64]:
        """The metrics of the benchmark as it is, (rows,)."""
        return self.values(np.ones((1, len(self.clusters))))[0]

    def restricted(self, clusters: NDArray[np.bool_]) -> Measured:
        """The metrics of some of the clusters, alone."""
        kept = np.flatnonzero(clusters)

        def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            every = np.zeros((len(weights), len(self.clusters)))
            every[:, kept] = weights
            return self.statistic(every)

        return replace(
            self,
            clusters=tuple(self.clusters[place] for place in kept),
            item_counts=self.item_counts[kept],
            image_counts=self.image_counts[kept],
            statistic=statistic,
        )
