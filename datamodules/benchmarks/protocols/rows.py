"""How a protocol's metrics become rows: every metric over all items, over each group, and averaged over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from datamodules.benchmarks.logits import CELLS, coded
from datamodules.benchmarks.protocols.measured import ALL, MEAN, Measured, MetricName
from negatives.tables import InputError, quoted

Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Multiplicities of items (items, R) -> values (R, metrics)."""
Combination = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Values of some rows (R, rows) -> the value made of them (R,)."""


@dataclass(frozen=True)
class Groups:
    """Which items a metric is taken over.

    Attributes:
        members: group -> places of its items in ascending order; "" has all.
        averages: "mean" and the aggregates -> the groups whose unweighted mean they are.
    """

    members: Mapping[str, NDArray[np.intp]]
    averages: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_key(cls, key: pa.Table, aggregates: Mapping[str, tuple[str, ...]]) -> Groups:
        """The groups of a key's columns `group` and, where it is there, `tags`.

        "mean" is over the values of `group`. An aggregate that lacks one of its groups is left out: a mean over the
        others would look like the published one.

        Raises:
            InputError: no item, or a group that has the name of a mean.
        """
        if not len(key):
            raise InputError("the key has no item; nothing can be measured.")
        named = _members(key["group"], np.arange(len(key)))
        means = {MEAN: tuple(name for name in named if name != ALL)}
        if "tags" in key.column_names:
            tags, owners = flat(key["tags"])
            for tag, items in _members(tags, owners).items():
                named[tag] = np.union1d(named.get(tag, items), items)
        for name in (MEAN, *aggregates):
            if name in named:
                raise InputError(f"a group of the key must not have the name of a mean, got {quoted(name)}; rename it.")
        means = {**{name: of for name, of in aggregates.items() if named.keys() >= set(of)}, **means}
        members = {ALL: np.arange(len(key)), **{name: named[name] for name in sorted(named) if name != ALL}}
        return cls(members, {name: of for name, of in means.items() if of})

    @classmethod
    def one(cls, items: int) -> Groups:
        """All items, and no other group."""
        return cls({ALL: np.arange(items)}, {})

    @property
    def places(self) -> dict[str, NDArray[np.intp]]:
        """Every group and every mean -> places of the items that it is taken over, in ascending order."""
        means = {
            name: np.unique(np.concatenate([self.members[group] for group in groups]))
            for name, groups in self.averages.items()
        }
        return {**self.members, **means}


class Rows:
    """Metric rows, added one metric after another; `measured` gives the result.

    Items are what metrics count. Each belongs to one cluster; clusters are what is resampled.
    """

    def __init__(self, groups: Groups, clusters: ArrayLike, images: pa.Array | pa.ChunkedArray):
        """Has no row yet.

        Args:
            groups: of items.
            clusters: name of the cluster of each item, (items,).
            images: id of the image of each item, or a list of ids for each.
        """
        self.groups = groups
        # sorted names: two scorers whose tables have another order are resampled alike
        self._clusters, self._cluster_of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        ids, self._image_owners = flat(images)
        self._image_codes = coded(ids)[1]
        self._names: list[MetricName] = []
        self._counted: list[NDArray[np.intp]] = []
        self._shares: list[tuple[int, NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]] = []
        self._weighted: list[tuple[list[int], NDArray[np.intp], Weighted]] = []
        self._combined: list[tuple[int, list[int], Combination]] = []

    def mean(self, metric: str, values: ArrayLike) -> None:
        """The mean of a value of each item, (items,)."""
        numbers = np.asarray(values, dtype=np.float64)
        self.share(metric, numbers, np.ones_like(numbers))

    def share(self, metric: str, parts: ArrayLike, wholes: ArrayLike) -> None:
        """The sum of parts over the sum of wholes, (items,) each; an item whose whole is 0 is not counted."""
        above, below = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
        for group, items in self.groups.members.items():
            counted = items[below[items] > 0]
            self._shares.append((self._row(metric, group, counted), counted, above[counted], below[counted]))
        self._average(metric)

    def weighted(
        self,
        metrics: Sequence[str],
        of: Callable[[NDArray[np.intp]], Weighted],
        counted: NDArray[np.bool_] | None = None,
    ) -> None:
        """Metrics that are no mean, such as a correlation: `of(items)` gives all of them under weights of the items.

        Only items that are `counted` come in, all where it is None.
        """
        members = {
            group: items if counted is None else items[counted[items]] for group, items in self.groups.members.items()
        }
        rows: dict[str, list[int]] = {group: [] for group in members}
        for metric in metrics:
            for group, items in members.items():
                rows[group].append(self._row(metric, group, items))
            self._average(metric)
        self._weighted += [(rows[group], items, of(items)) for group, items in members.items()]

    def combined(self, metric: str, of: Sequence[str], how: Combination) -> None:
        """A metric made of others in the same group."""
        for group, items in self.groups.members.items():
            sources = [self._names.index(MetricName(name, group)) for name in of]
            self._combined.append((self._row(metric, group, items), sources, how))
        self._average(metric)

    def measured(self) -> Measured:
        """The rows, ready to be taken under weights."""
        shape = (len(self._clusters), len(self._names))
        parts, wholes = [], []
        for row, items, above, below in self._shares:
            cells = (self._cluster_of[items], np.full(len(items), row))
            parts.append((above, *cells))
            wholes.append((below, *cells))
        sums = _sparse(parts, shape), _sparse(wholes, shape)
        ones = [
            (np.ones(len(items)), self._cluster_of[items], np.full(len(items), row))
            for row, items in enumerate(self._counted)
        ]
        return Measured(
            rows=tuple(self._names),
            clusters=tuple(self._clusters.tolist()),
            item_counts=_sparse(ones, shape),
            image_counts=self._image_counts(shape),
            statistic=lambda weights: self._values(weights, *sums),
        )

    def _row(self, metric: str, group: str, items: NDArray[np.intp]) -> int:
        self._names.append(MetricName(metric, group))
        self._counted.append(items)
        return len(self._names) - 1

    def _average(self, metric: str) -> None:
        for name, groups in self.groups.averages.items():
            sources = [self._names.index(MetricName(metric, group)) for group in groups]
            items = np.unique(np.concatenate([self._counted[source] for source in sources]))
            self._combined.append((self._row(metric, name, items), sources, _mean_of_present))

    def _image_counts(self, shape: tuple[int, int]) -> csr_array:
        cells = []
        cluster_of_image = np.zeros(self._image_codes.max(initial=0) + 1, dtype=np.intp)
        cluster_of_image[self._image_codes] = self._cluster_of[self._image_owners]
        counted = np.zeros(len(self._cluster_of), dtype=bool)
        for row, items in enumerate(self._counted):
            counted[:] = False
            counted[items] = True
            images = np.unique(self._image_codes[counted[self._image_owners]])
            cells.append((np.ones(len(images)), cluster_of_image[images], np.full(len(images), row)))
        return _sparse(cells, shape)

    def _values(self, weights: NDArray[np.float64], parts: csr_array, wholes: csr_array) -> NDArray[np.float64]:
        sums = np.asarray(weights @ wholes)
        values = np.divide(np.asarray(weights @ parts), sums, out=np.full(sums.shape, np.nan), where=sums > 0)
        for rows, items, statistic in self._weighted:
            clusters = self._cluster_of[items]
            step = max(1, CELLS // max(1, len(items)))
            for start in range(0, len(weights), step):
                block = weights[start : start + step]
                # items first: rows of memory are resamples, so that what follows adds and gathers whole rows
                values[start : start + step, rows] = statistic(np.ascontiguousarray(block.T)[clusters])
        for row, sources, how in self._combined:
            values[:, row] = how(values[:, sources])
        return values


def flat(values: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.intp]]:
    """The entries of a column, lists laid out one after another, and the row that each belongs to."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
        return values, np.arange(len(values))
    return pc.list_flatten(values), pc.list_parent_indices(values).to_numpy().astype(np.intp)


def joined(owners: NDArray[np.intp], members: pa.Array, owner_count: int) -> NDArray[np.str_]:
    """A cluster for each of N owners, such that owners that share a member, or a chain of them, are in one.

    Args:
        owners: who has each entry, (entries,).
        members: what it has: ids.
        owner_count: N.

    Returns:
        The names, (N,): each is the first id, in alphabetical order, of what its cluster has.
    """
    names, codes = np.unique(np.asarray(members.to_pylist(), dtype=str), return_inverse=True)
    size = owner_count + len(names)
    edges = coo_array((np.ones(len(owners)), (owners, owner_count + codes)), shape=(size, size))
    labels = connected_components(edges, directed=False)[1]
    first = np.full(labels.max() + 1, len(names))
    np.minimum.at(first, labels[owner_count:], np.arange(len(names)))
    return names[first[labels[:owner_count]]]


def _members(names: pa.Array | pa.ChunkedArray, owners: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    found, codes = np.unique(np.asarray(names.to_pylist(), dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    parts = np.split(owners[order], np.cumsum(np.bincount(codes, minlength=len(found)))[:-1])
    return {str(name): np.unique(part) for name, part in zip(found, parts, strict=False)}


def _sparse(
    cells: Sequence[tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]], shape: tuple[int, int]
) -> csr_array:
    """Sums of (values, rows, columns)."""
    if not cells:
        return csr_array(shape)
    values, rows, columns = (np.concatenate(part) for part in zip(*cells, strict=True))
    return coo_array((values, (rows, columns)), shape=shape).tocsr()


def _mean_of_present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A resample without a single item of a group says nothing about it, and averages the others."""
    present = ~np.isnan(values)
    sums, counts = np.where(present, values, 0.0).sum(1), present.sum(1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
