"""Labels: does the logit tell matching from other pairs? SeeTRUE and other tables of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.benchmarks.logits import Logits
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.ranking import auc_and_precision
from datamodules.benchmarks.protocols.rows import Groups, Rows
from negatives.tables import InputError, quoted


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
) -> Measured:
    """Metrics of logits against labels; images are what is resampled.

    `roc_auc` and `average_precision`, both NaN in a group of one class. Of calibrated logits also `accuracy`: the share
    of items with a logit above 0 for label 1, below 0 for label 0; 0 itself is wrong.

    Args:
        key: columns `item_id`, `image_id`, `text_id`, `group` and `label` (0 or 1), optional `tags`.
        logits: of all these pairs.
        calibrated: whether a logit of 0 means one half.
        aggregates: name -> groups whose unweighted mean is a row, too.

    Raises:
        InputError: another label, only one class, or a missing logit.
    """
    images = key["image_id"].combine_chunks()
    found = logits.of(images, key["text_id"])
    labels = _labels(key)
    rows = Rows(Groups.of_key(key, aggregates or {}), images.to_pylist(), images)
    rows.weighted(["roc_auc", "average_precision"], lambda items: auc_and_precision(found[items], labels[items]))
    if calibrated:
        rows.mean("accuracy", np.where(labels, found > 0, found < 0))
    return rows.measured()


def chance(key: pa.Table, metric: str) -> float | None:
    """What random logits reach: half of the area; None of the others, which depend on how many labels are 1."""
    return 0.5 if metric == "roc_auc" else None


def _labels(key: pa.Table) -> NDArray[np.bool_]:
    labels = np.asarray(key["label"].to_pylist(), dtype=object)
    for item, label in zip(key["item_id"].to_pylist(), labels, strict=True):
        if label not in (0, 1):
            raise InputError(f"labels: a label must be 0 or 1, got {quoted(label)} for {quoted(item)}.")
    if len(set(labels.tolist())) < 2:
        raise InputError(f"labels: both classes must be there, got {len(labels)} items of label {labels[0]}.")
    return labels.astype(bool)
