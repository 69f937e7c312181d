"""Laws of retrieval and of zero-shot classes: ranks are those of a sort, ties are wrong, memory is bounded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score

from datamodules.benchmarks import PROTOCOLS, Logits, MetricName, find_protocol
from datamodules.benchmarks.protocols import classes, retrieval
from negatives.tables import InputError
from tests.measured import metric, metrics


def gallery(images: int = 12, texts: int = 40) -> tuple[pa.Table, Logits, np.ndarray]:
    """Two texts of each image, one text of two images, and texts of none."""
    logits = np.random.default_rng(0).integers(0, 30, size=(images, texts)) / 10
    pairs = [(i, 2 * i + k) for i in range(images) for k in range(2)] + [(5, 0)]
    names = [f"image{i:02}" for i in range(images)], [f"text{t:02}" for t in range(texts)]
    key = pa.table({"image_id": [names[0][i] for i, _ in pairs], "text_id": [names[1][t] for _, t in pairs]})
    return key, Logits.from_matrix(*names, logits), logits


def slow_ranks(logits: np.ndarray, relevant: list[set[int]]) -> list[int]:
    """Of each query the best rank of what is relevant, ties behind all others."""
    ranks = []
    for row, own in zip(logits, relevant, strict=True):
        if not own:
            continue
        order = sorted(range(len(row)), key=lambda place: (-row[place], place in own))
        ranks.append(1 + next(rank for rank, place in enumerate(order) if place in own))
    return ranks


def test_ranks_are_those_of_a_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    key, logits, matrix = gallery()
    own = [{2 * i, 2 * i + 1} for i in range(12)]
    own[5].add(0)
    i2t = slow_ranks(matrix, own)
    t2i = slow_ranks(matrix.T, [{i for i in range(12) if t in own[i]} for t in range(40)])
    expected = {
        **{f"i2t_r{k}": np.mean(np.array(i2t) <= k) for k in (1, 5, 10)},
        **{f"t2i_r{k}": np.mean(np.array(t2i) <= k) for k in (1, 5, 10)},
        "i2t_mean_rank": np.mean(i2t),
        "t2i_mean_rank": np.mean(t2i),
        "i2t_median_rank": np.median(i2t),
        "t2i_median_rank": np.median(t2i),
    }
    expected["recall_mean"] = np.mean(
        [value for name, value in expected.items() if "_r" in name and "_rank" not in name]
    )
    assert metrics(retrieval.measure(key, logits)) == pytest.approx(expected)
    monkeypatch.setattr(retrieval, "CELLS", 100)
    assert metrics(retrieval.measure(key, logits)) == pytest.approx(expected), "in blocks of 2 images"


def test_texts_are_resampled_with_their_image_among_all_that_is_searched() -> None:
    key, logits, _ = gallery()
    measured = retrieval.measure(key, logits)
    row = measured.rows.index(MetricName("t2i_mean_rank", ""))
    assert (measured.counts[row], measured.images[row], len(measured.clusters)) == (24, 12, 12)
    once, often = measured.values(np.stack([np.eye(12)[3], 4 * np.eye(12)[3]]))
    np.testing.assert_array_equal(once, often)


def test_a_constant_scorer_finds_nothing() -> None:
    key, logits, matrix = gallery()
    flat = Logits.from_matrix(logits.image_ids, logits.text_ids, np.zeros_like(matrix))
    found = metrics(retrieval.measure(key, flat))
    assert found["i2t_r10"] == found["t2i_r10"] == found["recall_mean"] == 0
    # 2 of 40 texts are its own, 3 of the sixth image
    assert (found["i2t_median_rank"], found["i2t_mean_rank"]) == (39, pytest.approx((11 * 39 + 38) / 12))


def test_retrieval_needs_every_image_with_every_text() -> None:
    key, logits, _ = gallery()
    rows = [
        (image, text, 0.0) for image, text in zip(*(key[name].to_pylist() for name in key.column_names), strict=True)
    ]
    table = pa.table(dict(zip(("image_id", "text_id", "logit"), map(list, zip(*rows, strict=True)), strict=True)))
    with pytest.raises(InputError, match="pairs have no logit, the first is image 'image00' and text 'text02'"):
        retrieval.measure(key, Logits.from_table(table))
    with pytest.raises(InputError, match="no relevant pair"):
        retrieval.measure(key.slice(0, 0), logits)


def shown_classes(images: int = 60, names: int = 7) -> tuple[pa.Table, Logits, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.integers(0, names, size=images)
    true[true == 3] = 2  # a class without an image
    logits = np.round(rng.normal(size=(images, names)) + 2 * np.eye(names)[true], 1)
    made = Logits.from_matrix([f"image{i:02}" for i in range(images)], [f"class{c}" for c in range(names)], logits)
    key = pa.table({"image_id": made.image_ids, "text_id": [f"class{c}" for c in true]})
    return key, made, logits, true


def test_classes_are_those_of_scikit_learn_and_a_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    key, logits, matrix, true = shown_classes()
    monkeypatch.setattr(classes, "CELLS", 50)
    measured = classes.measure(key, logits)
    weights = np.random.default_rng(1).integers(0, 3, size=(2, 60)).astype(float)
    weights[0], weights[1, true == 2] = 1, 0  # a resample without one of the classes
    for row, found in zip(weights.astype(int), measured.values(weights), strict=True):
        used = np.repeat(np.arange(60), row)
        ranks = np.array(slow_ranks(matrix[used], [{int(c)} for c in true[used]]))
        guesses = np.where(ranks == 1, true[used], -1)
        # a class that nobody is in warns: the guess -1
        recalls = [np.mean(guesses[true[used] == c] == c) for c in set(true[used])]
        expected = {"top1": np.mean(ranks <= 1), "top5": np.mean(ranks <= 5), "mean_per_class": np.mean(recalls)}
        assert dict(zip([name.metric for name in measured.rows], found, strict=True)) == pytest.approx(expected)
    distinct = Logits.from_matrix(logits.image_ids, logits.text_ids, matrix + np.arange(7) / 1000)
    expected_recall = balanced_accuracy_score(true, (matrix + np.arange(7) / 1000).argmax(1))
    assert metric(classes.measure(key, distinct), "mean_per_class") == pytest.approx(expected_recall)


def test_a_constant_scorer_knows_no_class() -> None:
    key, logits, matrix, _ = shown_classes()
    flat = Logits.from_matrix(logits.image_ids, logits.text_ids, np.ones_like(matrix))
    assert metrics(classes.measure(key, flat)) == {"top1": 0, "top5": 0, "mean_per_class": 0}


def test_five_classes_have_no_top_five() -> None:
    key, logits, _, _ = shown_classes(names=5)
    assert "top5" not in metrics(classes.measure(key, logits))


def test_classes_that_say_nothing_are_refused() -> None:
    key, logits, matrix, _ = shown_classes()
    with pytest.raises(InputError, match="one class, got several for 'image01'"):
        classes.measure(pa.concat_tables([key, key.slice(1, 1)]), logits)
    with pytest.raises(InputError, match="two or more, got 1"):
        classes.measure(key, Logits.from_matrix(logits.image_ids, ["class0"], matrix[:, :1]))
    with pytest.raises(InputError, match="no image"):
        classes.measure(key.slice(0, 0), logits)


def test_a_protocol_that_is_none_is_refused_with_the_nearest() -> None:
    assert find_protocol("groups") is PROTOCOLS["groups"]
    with pytest.raises(InputError, match=r"got 'rating'.*Did you mean ratings"):
        find_protocol("rating")
