"""Laws of true against false texts, and what the official scripts of SugarCrepe++ and NegBench print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from datamodules.benchmarks import MEAN, PROTOCOLS, MetricName
from datamodules.benchmarks.protocols.pairs import chance, measure
from negatives.tables import InputError
from tests.measured import metric, metrics, pair_key, pair_logits, vectors


def test_sugarcrepe_pp_is_its_official_script(shared: Path) -> None:
    block = vectors(shared, "sugarcrepe_pp")
    first, second, false = (block["inputs"][name] for name in ("image_p1", "image_p2", "image_neg"))
    key = pair_key([1] * 8, true=2)
    found = metrics(measure(key, pair_logits(key, list(zip(first, second, strict=True)), [[x] for x in false])))
    for name, official in {"accuracy": "itt", "accuracy_1": "image_p1_neg", "accuracy_2": "image_p2_neg"}.items():
        assert found[name] == pytest.approx(block["outputs"][official], abs=1e-9)


def test_negbench_is_its_official_script_where_ties_pass(shared: Path) -> None:
    block = vectors(shared, "negbench_mcq_coco_voc")
    rows, templates = block["inputs"]["scores"], block["inputs"]["correct_answer_template"]
    key = pair_key([3] * 12, groups=templates, kinds=[["hybrid", "positive", "negative"]] * 12)
    logits = pair_logits(key, [row[:1] for row in rows], [row[1:] for row in rows])
    measured, expected = measure(key, logits, ties="official"), block["outputs"]
    assert metric(measured, "accuracy") == pytest.approx(expected["total_accuracy"], abs=1e-9)
    for kind in ("positive", "negative", "hybrid"):
        assert metric(measured, "accuracy", kind) == pytest.approx(expected[f"{kind}_accuracy"], abs=1e-9)
        share = expected["wrong_answer_percentages"][kind] / 100
        assert metric(measured, f"wrong_{kind}") == pytest.approx(share, abs=1e-9)
        for template, counts in expected["wrong_answers_by_question_type"].items():
            assert metric(measured, f"wrong_{kind}", template) == pytest.approx(
                counts[kind] / sum(counts.values()), abs=1e-9
            )
    strict = measure(key, logits)
    assert metric(strict, "accuracy") == pytest.approx(2 / 12), "the item that is all ties is wrong"


def test_every_metric_is_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, size=30)
    key = pair_key(sizes.tolist(), true=2, groups=rng.choice(["a", "b"], size=30).tolist())
    true = rng.integers(-2, 4, size=(30, 2)) / 2
    false = [(rng.integers(-4, 2, size=size) / 2).tolist() for size in sizes]
    measured = measure(key, pair_logits(key, true.tolist(), false), calibrated=True)
    for group in ("", "a", "b"):
        items = [i for i in range(30) if group in ("", key["group"][i].as_py())]
        right = [min(true[i]) > max(false[i]) for i in items]
        p_c = sum(sum(true[i] > 0) for i in items) / (2 * len(items))
        p_f = sum(logit <= 0 for i in items for logit in false[i]) / sum(len(false[i]) for i in items)
        positives = [float(logit) for i in items for logit in true[i]]
        negatives = [logit for i in items for logit in false[i]]
        auroc = roc_auc_score([1] * len(positives) + [0] * len(negatives), positives + negatives)
        expected = {
            "accuracy": np.mean(right),
            "accuracy_1": np.mean([true[i][0] > max(false[i]) for i in items]),
            "accuracy_2": np.mean([true[i][1] > max(false[i]) for i in items]),
            "auroc": auroc,
            "p_c": p_c,
            "p_f": p_f,
            "p_mean": (p_c + p_f) / 2,
            "p_min": min(p_c, p_f),
        }
        assert metrics(measured, group) == pytest.approx(expected, abs=1e-12)
        assert measured.counts[measured.rows.index(MetricName("accuracy", group))] == len(items)
    assert metric(measured, "p_min", MEAN) == pytest.approx(
        (metric(measured, "p_min", "a") + metric(measured, "p_min", "b")) / 2
    )


def test_a_constant_scorer_gets_nothing() -> None:
    key = pair_key([1, 2, 3], true=2, kinds=[["a"], ["a", "b"], ["b", "b", "a"]])
    found = metrics(measure(key, pair_logits(key, [[0, 0]] * 3, [[0], [0, 0], [0, 0, 0]]), calibrated=True))
    assert [found[name] for name in ("accuracy", "accuracy_1", "accuracy_2", "p_c", "p_min")] == [0] * 5
    assert (found["auroc"], found["p_f"]) == (0.5, 1.0), "a logit of 0 says no"
    assert found["wrong_a"] + found["wrong_b"] == pytest.approx(1)


def test_metrics_with_a_threshold_are_absent_where_logits_have_none() -> None:
    key = pair_key([1, 1])
    found = metrics(measure(key, pair_logits(key, [[1], [2]], [[0], [3]])))
    assert found == {"accuracy": 0.5, "auroc": 0.5}


def test_aggregates_are_unweighted_means_and_absent_without_one_of_their_groups() -> None:
    groups = ["replace_obj"] * 3 + ["replace_att"] + ["swap_obj"] * 2
    key = pair_key([1] * 6, groups=groups)
    logits = pair_logits(key, [[1]] * 6, [[0], [2], [2], [0], [0], [2]])
    aggregates = {"replace": ("replace_obj", "replace_att"), "swap": ("swap_obj", "swap_att")}
    measured = measure(key, logits, aggregates=aggregates)
    assert metric(measured, "accuracy", "replace") == pytest.approx((1 / 3 + 1) / 2)
    assert metric(measured, "accuracy", MEAN) == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)
    assert metric(measured, "accuracy") == pytest.approx(3 / 6)
    assert "swap" not in {row.group for row in measured.rows}


def test_an_item_counts_in_its_tags_too() -> None:
    key = pair_key([1] * 3, groups=["a", "a", "b"], tags=[["hard"], [], ["hard", "odd"]])
    measured = measure(key, pair_logits(key, [[1]] * 3, [[0], [0], [2]]))
    assert (metric(measured, "accuracy", "hard"), metric(measured, "accuracy", "odd")) == (0.5, 0.0)
    assert metric(measured, "accuracy", MEAN) == 0.5, "of groups, not of tags"


def test_images_and_not_items_are_counted_and_resampled() -> None:
    key = pair_key([1] * 4, groups=["a", "a", "b", "b"])
    key = key.set_column(1, "image_id", [["x", "x", "x", "y"]])
    measured = measure(key, pair_logits(key, [[1]] * 4, [[0], [0], [2], [2]]))
    assert measured.clusters == ("x", "y")
    places = [measured.rows.index(MetricName("accuracy", group)) for group in ("", "a", "b")]
    assert measured.counts[places].tolist() == [4, 2, 2]
    assert measured.images[places].tolist() == [2, 1, 2]
    values = measured.values(np.array([[0.0, 3.0], [2.0, 1.0]]))[:, places]
    np.testing.assert_allclose(values, [[0.0, np.nan, 0.0], [4 / 7, 1.0, 0.0]])


def test_chance_is_that_of_random_order() -> None:
    assert PROTOCOLS["pairs"].chance(pair_key([1, 1]), "accuracy") == 0.5
    assert chance(pair_key([1, 1], true=2), "accuracy") == pytest.approx(1 / 3)
    assert chance(pair_key([3, 3]), "accuracy") == 0.25
    assert chance(pair_key([3, 1]), "accuracy") is None


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(InputError, match="item1"):
        measure(pair_key([1, 0, 1]), pair_logits(pair_key([1, 1, 1]), [[1]] * 3, [[0]] * 3))
    key = pair_key([1, 1], groups=["mean", "b"])
    with pytest.raises(InputError, match="name of a mean, got 'mean'"):
        measure(key, pair_logits(key, [[1]] * 2, [[0]] * 2))
    with pytest.raises(InputError, match="no item"):
        measure(key.slice(0, 0), pair_logits(key, [[1]] * 2, [[0]] * 2))
    key = pair_key([2, 1], kinds=[["a"], ["b", "c"]])
    with pytest.raises(InputError, match="`kinds`"):
        measure(key, pair_logits(key, [[1]] * 2, [[0, 0], [0]]))


def test_an_empty_true_list_of_the_last_item_is_named() -> None:
    key = pair_key([1, 1])
    key = key.set_column(3, "true", pa.array([["true0_0"], []]))
    with pytest.raises(InputError, match="true text, got none for 'item1'"):
        measure(key, pair_logits(pair_key([1, 1]), [[1]] * 2, [[0]] * 2))
