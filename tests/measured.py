"""Keys and logits of made-up benchmarks, and slow ways to say what a metric is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.stats

from datamodules.benchmarks import ALL, Logits, Measured, MetricName


def vectors(shared: Path, block: str) -> dict[str, Any]:
    """A block of what official scripts gave on synthetic scores."""
    found: dict[str, Any] = json.loads((shared / "vectors/benchmark_vectors.json").read_text(encoding="utf-8"))[block]
    return found


def slow_ends(drawn: Sequence[float] | np.ndarray[Any, Any], clusters: int) -> tuple[float, float]:
    """The ends of an expanded percentile interval: what Student's t is to the normal, with the variance over n - 1."""
    out = np.sqrt(clusters / (clusters - 1)) * scipy.stats.t(clusters - 1).isf(0.025)
    low, high = np.percentile(drawn, [100 * scipy.stats.norm.cdf(-out), 100 * scipy.stats.norm.cdf(out)])
    return float(low), float(high)


def metric(measured: Measured, name: str, group: str = ALL) -> float:
    """The value of one row."""
    return float(measured.value()[measured.rows.index(MetricName(name, group))])


def metrics(measured: Measured, group: str = ALL) -> dict[str, float]:
    """Metric -> value of a group's rows."""
    return {
        row.metric: float(value)
        for row, value in zip(measured.rows, measured.value(), strict=True)
        if row.group == group
    }


def pair_key(false: Sequence[int], *, true: int = 1, groups: Sequence[str] | None = None, **more: Any) -> pa.Table:
    """Item i is about image i, has `true` true texts and `false[i]` false ones."""
    items = range(len(false))
    columns = {
        "item_id": [f"item{i}" for i in items],
        "image_id": [f"image{i}" for i in items],
        "group": list(groups or [""] * len(false)),
        "true": [[f"true{i}_{j}" for j in range(true)] for i in items],
        "false": [[f"false{i}_{j}" for j in range(false[i])] for i in items],
    }
    return pa.table({**columns, **more})


def pair_logits(key: pa.Table, true: Sequence[Sequence[float]], false: Sequence[Sequence[float]]) -> Logits:
    """Logits of the texts of each item."""
    rows = [
        (image, text, float(logit))
        for column, values in (("true", true), ("false", false))
        for image, texts, numbers in zip(key["image_id"].to_pylist(), key[column].to_pylist(), values, strict=True)
        for text, logit in zip(texts, numbers, strict=True)
    ]
    return scores(rows)


def scores(rows: Sequence[tuple[str, str, float]]) -> Logits:
    """Logits of (image_id, text_id, logit)."""
    names = ("image_id", "text_id", "logit")
    return Logits.from_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))


def group_key(items: int, size: int = 2, groups: Sequence[str] | None = None, **more: Any) -> pa.Table:
    """Item i has images and texts of its own."""
    columns = {
        "item_id": [f"item{i}" for i in range(items)],
        "group": list(groups or [""] * items),
        "image_ids": [[f"image{i}_{k}" for k in range(size)] for i in range(items)],
        "text_ids": [[f"text{i}_{k}" for k in range(size)] for i in range(items)],
    }
    return pa.table({**columns, **more})


def group_logits(key: pa.Table, logits: Any) -> Logits:
    """Logits (items, images, texts) of an item's images and texts."""
    return scores(
        [
            (image, text, float(logits[item][k][j]))
            for item, (images, texts) in enumerate(
                zip(key["image_ids"].to_pylist(), key["text_ids"].to_pylist(), strict=True)
            )
            for k, image in enumerate(images)
            for j, text in enumerate(texts)
        ]
    )


def rating_key(ratings: Sequence[float], **more: Any) -> pa.Table:
    """Row i is about image i and text i, and ranked against nothing."""
    names = [str(i) for i in range(len(ratings))]
    columns: Mapping[str, Any] = {
        "item_id": names,
        "image_id": [f"image{name}" for name in names],
        "text_id": [f"text{name}" for name in names],
        "group": [""] * len(names),
        "rating": np.asarray(ratings, dtype=float),
        "prompt_id": names,
    }
    return pa.table({**columns, **more})


def row_logits(key: pa.Table, logits: Sequence[float]) -> Logits:
    """A logit for each row of a key that has one text; equal pairs are kept once."""
    found = dict(zip(zip(key["image_id"].to_pylist(), key["text_id"].to_pylist(), strict=True), logits, strict=True))
    return scores([(*pair, float(logit)) for pair, logit in found.items()])


def repeated(key: pa.Table, measured: Measured, weights: Sequence[int], clusters: Sequence[str]) -> pa.Table:
    """The key with each row as often as its cluster counts."""
    times = [int(weights[measured.clusters.index(cluster)]) for cluster in clusters]
    return key.take(pa.array(np.repeat(np.arange(len(key)), times)))
