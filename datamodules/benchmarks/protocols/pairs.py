"""Pairs: is every true text of an image scored above every false one? SugarCrepe, VALSE, NegBench and the like."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.benchmarks.logits import Logits
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.ranking import auc
from datamodules.benchmarks.protocols.rows import Groups, Rows, Weighted, flat
from negatives.tables import InputError, quoted


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
    ties: str = "strict",
) -> Measured:
    """Metrics of true against false texts; images are what is resampled.

    `accuracy`: share of items whose true texts all score higher than all their false ones; a tie is wrong. Where items
    have several true texts, `accuracy_1`, `accuracy_2` ... take each alone (SugarCrepe++). `auroc` compares all true
    texts with all false ones, whatever the image. With the column `kinds`, `wrong_<kind>` is the share of wrong items
    whose best false text is of the kind; of equal ones the first counts, as in NegBench.

    Of calibrated logits (VALSE, Parcalabescu et al., 2022): `p_c`, the share of true texts above 0, `p_f`, the share of
    false ones at or below 0, and `p_mean` and `p_min` of the two.

    Args:
        key: columns `item_id`, `image_id`, `group`, `true` and `false` (lists of text ids), optional `tags` and `kinds`
            (a list as long as `false`).
        logits: of all these pairs.
        calibrated: whether a logit of 0 means one half.
        aggregates: name -> groups whose unweighted mean is a row, too.
        ties: "strict", or "official": a tie of true and false is right, as in NegBench's script.

    Raises:
        InputError: an item without a true or a false text, or a missing logit.
    """
    images = key["image_id"].combine_chunks()
    true, false = _Texts(key, "true", logits), _Texts(key, "false", logits)
    best_false = np.maximum.reduceat(false.logits, false.starts)
    above = np.greater_equal if ties == "official" else np.greater
    right = above(np.minimum.reduceat(true.logits, true.starts), best_false)
    rows = Rows(Groups.of_key(key, aggregates or {}), images.to_pylist(), images)
    rows.mean("accuracy", right)
    for place in range(true.lengths.max() if true.lengths.max() > 1 else 0):
        there = true.lengths > place
        one = true.logits[np.where(there, true.starts + place, true.starts)]
        rows.share(f"accuracy_{place + 1}", there & above(one, best_false), there)
    if "kinds" in key.column_names:
        _add_wrong_kinds(rows, key, false, best_false, ~right)
    rows.weighted(["auroc"], lambda items: _pooled_auc(true, false, items))
    if calibrated:
        rows.share("p_c", np.add.reduceat(true.logits > 0, true.starts, dtype=np.float64), true.lengths)
        rows.share("p_f", np.add.reduceat(false.logits <= 0, false.starts, dtype=np.float64), false.lengths)
        rows.combined("p_mean", ["p_c", "p_f"], lambda values: values.mean(1))
        rows.combined("p_min", ["p_c", "p_f"], lambda values: values.min(1))
    return rows.measured()


def chance(key: pa.Table, metric: str) -> float | None:
    """What random scores reach; None where items differ in size, and of metrics with a threshold.

    Of `accuracy`: the true texts come first in any order of all. Of `accuracy_1` and the like: one does.
    """
    if metric == "auroc":
        return 0.5
    true, false = (pc.list_value_length(key[name]).to_pylist() for name in ("true", "false"))
    sizes = set(zip(true, false, strict=True))
    if len(sizes) != 1:
        return None
    ((trues, falses),) = sizes
    if metric == "accuracy":
        return 1 / comb(trues + falses, trues)
    return 1 / (1 + falses) if metric.startswith("accuracy_") else None


class _Texts:
    """True or false texts of all items, one after another, with their logits."""

    def __init__(self, key: pa.Table, column: str, logits: Logits):
        texts, self.owners = flat(key[column])
        self.lengths = np.bincount(self.owners, minlength=len(key))
        if not self.lengths.all():
            item = key["item_id"][int(np.argmin(self.lengths))].as_py()
            raise InputError(f"pairs: each item must have a {column} text, got none for {quoted(item)}; leave it out.")
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.logits = logits.of(key["image_id"].combine_chunks().take(pa.array(self.owners)), texts)


def _add_wrong_kinds(
    rows: Rows, key: pa.Table, false: _Texts, best_false: NDArray[np.float64], wrong: NDArray[np.bool_]
) -> None:
    kinds, owners = flat(key["kinds"])
    if not np.array_equal(owners, false.owners):
        raise InputError("pairs: `kinds` must name the kind of each false text; it has other lengths than `false`.")
    places = np.flatnonzero(false.logits == best_false[false.owners])
    _, first = np.unique(false.owners[places], return_index=True)
    chosen = np.asarray(kinds.to_pylist(), dtype=str)[places[first]]
    for kind in sorted(set(kinds.to_pylist())):
        rows.share(f"wrong_{kind}", wrong & (chosen == kind), wrong)


def _pooled_auc(true: _Texts, false: _Texts, items: NDArray[np.intp]) -> Weighted:
    # an item brings all its texts along
    place = np.full(len(true.lengths), -1)
    place[items] = np.arange(len(items))
    owners = np.concatenate([place[true.owners], place[false.owners]])
    labels = np.repeat([True, False], [len(true.logits), len(false.logits)])
    scores, used = np.concatenate([true.logits, false.logits]), owners >= 0
    area = auc(scores[used], labels[used])
    return lambda weights: area(weights[owners[used]])
