"""The order of the work: rows of one image with its texts, and units of rows that are written whole.

The plan depends on what is asked and on nothing else: not on ranks, batch size, or where a run was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.scoring.requests import Places

BLOCK = 16
"""Units whose rows are ordered by length together: the batches of a unit are of like lengths, and an image's rows stay
near each other."""


@dataclass(frozen=True)
class Plan:
    """Items in the order in which they are computed, cut into rows, and these into units.

    Attributes:
        order: [n] items.
        starts: [R + 1] where in `order` each row starts, and the end.
        unit_rows: rows in a unit.
    """

    order: Places
    starts: Places
    unit_rows: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    @property
    def units(self) -> int:
        """How many there are."""
        return -(-self.rows // self.unit_rows)

    def row(self, number: int) -> Places:
        """The items of a row."""
        return self.order[self.starts[number] : self.starts[number + 1]]

    def items(self, unit: int) -> Places:
        """The items of a unit, in order."""
        first, last = unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.rows)
        return self.order[self.starts[first] : self.starts[last]]

    def batches(self, unit: int, batch_size: int) -> Iterator[range]:
        """Rows of a unit in batches; none reaches into another unit, so that a unit never depends on its neighbours."""
        first, last = unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.rows)
        for start in range(first, last, batch_size):
            yield range(start, min(start + batch_size, last))


def plan_pairs(pairs: Places, items: Places, lengths: Places, *, max_captions: int, unit_rows: int) -> Plan:
    """Rows of one image with up to `max_captions` of its texts, of like lengths.

    Args:
        pairs: [n] image x T + text of all that is asked.
        items: places in `pairs` of what is left to score.
        lengths: [T] of the texts.
        max_captions: texts in a row, which bounds memory.
        unit_rows: rows in a unit.
    """
    images, texts = np.divmod(pairs[items], len(lengths))
    # the texts of an image by length: a row's texts are padded to the longest
    by_image = np.lexsort((texts, lengths[texts], images))
    items, images, sizes = items[by_image], images[by_image], lengths[texts[by_image]]
    place = np.arange(len(items))
    begins = np.flatnonzero(np.diff(images, prepend=-1))
    within = place - np.repeat(begins, np.diff(np.append(begins, len(items))))
    starts = np.flatnonzero(within % max_captions == 0)
    ends = np.append(starts[1:], len(items))
    totals = np.add.reduceat(sizes, starts) if len(starts) else sizes
    block = np.arange(len(starts)) // (BLOCK * unit_rows)
    rows = np.lexsort((-totals, block))
    counts = (ends - starts)[rows]
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # place k of the new order lies as far from its row's start as it did before
    order = np.repeat(starts[rows] - bounds[:-1], counts) + np.arange(len(items))
    return Plan(items[order], bounds, unit_rows)


def plan_singles(items: Places, lengths: Places | None, *, unit_rows: int) -> Plan:
    """Rows of one item each: images, or texts of like lengths."""
    if lengths is not None:
        block = np.arange(len(items)) // (BLOCK * unit_rows)
        items = items[np.lexsort((-lengths[items], block))]
    return Plan(items, np.arange(len(items) + 1), unit_rows)
