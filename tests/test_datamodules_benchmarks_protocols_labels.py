"""Laws of logits against labels: scikit-learn's numbers, under any weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from datamodules.benchmarks import MEAN, MetricName
from datamodules.benchmarks.protocols.labels import measure
from datamodules.benchmarks.protocols.ranking import median
from negatives.tables import InputError
from tests.measured import metric, metrics, rating_key, row_logits


def label_key(labels: list[Any], **more: Any) -> pa.Table:
    return rating_key([0] * len(labels), label=labels, **more).drop_columns(["rating", "prompt_id"])


def drawn(rows: int = 80) -> tuple[pa.Table, np.ndarray]:
    """Several rows for an image, and ties."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=rows)
    logits = np.round(labels - 0.5 + rng.normal(size=rows), 1)
    images = [f"image{i // 3}" for i in range(rows)]
    return label_key(labels.tolist(), image_id=images, group=["a" if i % 6 < 3 else "b" for i in range(rows)]), logits


def test_metrics_are_those_of_scikit_learn_on_repeated_rows() -> None:
    key, logits = drawn()
    measured = measure(key, row_logits(key, logits), calibrated=True)
    labels, groups = np.array(key["label"].to_pylist()), np.array(key["group"].to_pylist())
    weights = np.random.default_rng(1).integers(0, 3, size=(3, len(measured.clusters)))
    weights[0] = 1
    for row, values in zip(weights, measured.values(weights.astype(float)), strict=True):
        times = row[[measured.clusters.index(image) for image in key["image_id"].to_pylist()]]
        for group in ("", "a", "b"):
            used = np.repeat(np.arange(len(key)), times * ((groups == group) | (group == "")))
            y, x = labels[used], logits[used]
            expected = {
                "roc_auc": roc_auc_score(y, x),
                "average_precision": average_precision_score(y, x),
                "accuracy": np.mean(np.where(y == 1, x > 0, x < 0)),
            }
            for name, value in expected.items():
                assert values[measured.rows.index(MetricName(name, group))] == pytest.approx(value, abs=1e-12)


def test_a_constant_scorer_gets_one_half_and_no_accuracy() -> None:
    key = label_key([0, 1, 1, 0])
    found = metrics(measure(key, row_logits(key, [0] * 4), calibrated=True))
    assert found == {"roc_auc": 0.5, "average_precision": 0.5, "accuracy": 0.0}
    assert "accuracy" not in metrics(measure(key, row_logits(key, [0] * 4)))


def test_a_group_of_one_class_has_no_auc() -> None:
    key = label_key([0, 1, 1, 1], group=["a", "a", "b", "b"])
    measured = measure(key, row_logits(key, [0, 1, 2, 3]))
    assert np.isnan(metric(measured, "roc_auc", "b"))
    assert np.isnan(metric(measured, "average_precision", "b"))
    assert metric(measured, "roc_auc", "a") == metric(measured, "roc_auc", MEAN) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2, 1], "must be 0 or 1, got 2 for '1'"),
        ([0, None, 1], "must be 0 or 1, got None for '1'"),
        ([1, 1, 1], "both classes must be there, got 3 items of label 1"),
    ],
)
def test_labels_that_say_nothing_are_refused(labels: list[Any], message: str) -> None:
    key = label_key(labels)
    with pytest.raises(InputError, match=message):
        measure(key, row_logits(key, [1, 2, 3]))


def test_a_median_is_that_of_repeated_numbers() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(1, 9, size=15).astype(float)
    weights = rng.integers(0, 3, size=(15, 20)).astype(float)
    expected = [np.median(np.repeat(numbers, column.astype(int))) for column in weights.T]
    assert median(numbers)(weights)[:, 0].tolist() == expected
    assert np.isnan(median(numbers)(np.zeros((15, 1)))[0, 0])
