"""Which number stands for a benchmark: the one that its paper has, over the items that the paper takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.benchmarks import (
    ALL,
    BENCHMARKS,
    MEAN,
    PROTOCOLS,
    Benchmark,
    Logits,
    MetricName,
    main_metric,
    measure_benchmark,
    read_benchmark,
)
from datamodules.benchmarks.protocols import groups, labels, pairs, ratings
from tests.benchmark_files import write_parquet, write_vl_checklist
from tests.measured import group_key, group_logits, metric, pair_key, pair_logits, rating_key, row_logits
from tests.test_datamodules_benchmarks_readers_groups import bivlc, natural, winoground

PUBLISHED = {
    "tables": None,
    "own": None,
    # Hsieh et al., 2023: the seven types, and their means within replace, swap and add; the mean over all is ours
    "sugarcrepe": ("accuracy", MEAN),
    # Dumpala et al., 2024: image-to-text (ITT) of the five types; later papers print their mean (FSC-CLIP 67.9)
    "sugarcrepe_pp": ("accuracy", MEAN),
    # Parcalabescu et al., 2022: acc_r, mean over the 11 pieces
    "valse": ("accuracy", MEAN),
    # Yuksekgonul et al., 2023: means over relations and over pairs of attributes, shares of the captions of the orders
    "aro_relation": ("accuracy", MEAN),
    "aro_attribution": ("accuracy", MEAN),
    "aro_coco_order": ("accuracy", ALL),
    "aro_flickr30k_order": ("accuracy", ALL),
    # Zhao et al., 2022: means of Object, Attribute and Relation; the mean of the three is ours
    "vl_checklist": ("accuracy", "families"),
    # Alhamoud et al., 2025: total accuracy (CLIP B/32: 39.30 on COCO, 38.72 on VOC)
    "negbench_mcq_coco": ("accuracy", ALL),
    "negbench_mcq_voc": ("accuracy", ALL),
    "negbench_mcq_synthetic": ("accuracy", ALL),
    # Thrush et al., 2022: text, image and group over the 400 items
    "winoground": ("group", ALL),
    # Miranda et al., 2024: I2T, T2I and group over all items (CLIP B/32: 49.06)
    "bivlc": ("group", ALL),
    # Li et al., 2024: Acc, Q-Acc, I-Acc and G-Acc over all items, whatever the type of the questions
    "naturalbench": ("group_answers", ALL),
    "naturalbench_retrieval": ("group", ALL),
    # Tong et al., 2024: the image score of each of the nine patterns, and their mean (CLIP L/14: 19.3)
    "mmvp_vlm": ("image", MEAN),
    # Awal et al., 2024: AVG, the mean over text, image and group of the four categories (CLIP B/32: 41.15)
    "vismin": ("average", MEAN),
    "magicbrush": None,  # no paper says how it makes items of it
    # Ray et al., 2023: multi-object accuracy, which is the image score
    "cola": ("image", ALL),
    # Yarom et al., 2023: ROC-AUC of each source, and their mean
    "seetrue": ("roc_auc", MEAN),
    # Hu et al., 2023: Spearman and Kendall over all images (CLIPScore: 32.0 and 23.1)
    "tifa160": ("tau_b", ALL),
    # Lin et al., 2024: pairwise accuracy, Pearson and Kendall over all images
    "genai_bench": ("tau_b", ALL),
    # t2v_metrics' genai_image_ranking.py: ranking accuracy, beside ratings of the best of n from 1 to 5
    "genai_ranking": ("ranking_accuracy", ALL),
    # Hessel et al., 2021 (CLIPScore): tau-c on the experts' ratings, tau-b on the crowd's
    "flickr8k_expert": ("tau_c", ALL),
    "flickr8k_cf": ("tau_b", ALL),
    # LAVIS: the mean of the six recalls
    "coco_retrieval": ("recall_mean", ALL),
    "flickr30k_retrieval": ("recall_mean", ALL),
    "captions_retrieval": None,
    # Radford et al., 2021
    "cifar10": ("top1", ALL),
    "cifar100": ("top1", ALL),
    "imagenet": ("top1", ALL),
    "class_folders": None,
}
"""Benchmark -> metric and group of the published number, with whose table it is."""


def test_each_row_has_the_number_of_its_paper() -> None:
    assert {name: BENCHMARKS[name].main for name in PUBLISHED} == PUBLISHED
    assert len(PUBLISHED) >= 34, "all at hand; whoever adds a benchmark need not know of this list"


def _read(name: str, folder: Path) -> Benchmark:
    return read_benchmark(name, annotations=folder, texts_only=True)


def _values(benchmark: Benchmark, logits: Callable[[str, str], float], **kinds: bool) -> dict[tuple[str, str], float]:
    """(metric, group) -> value, and under "main" what stands for the benchmark; `logits` of an image and a text."""
    texts = dict(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))
    assert benchmark.pairs is not None
    numbers = [logits(pair["image_id"], texts[pair["text_id"]]) for pair in benchmark.pairs.to_pylist()]
    scores = Logits.from_table(benchmark.pairs.append_column("logit", pa.array(numbers, pa.float64())))
    measured = measure_benchmark(benchmark, scores, **kinds)
    values = dict(zip(measured.rows, measured.value().tolist(), strict=True))
    return {**values, ("main", ""): values[main_metric(benchmark, measured.rows)]}


def test_bivlc_goes_by_its_items_and_not_by_the_mean_over_its_types(tmp_path: Path) -> None:
    kinds = ["replace", "replace", "replace", "swap"]
    write_parquet(tmp_path / "test-0.parquet", [bivlc(n, type=kind) for n, kind in enumerate(kinds)])
    benchmark = _read("bivlc", tmp_path)
    # right of all but the last item
    found = _values(
        benchmark, lambda image, text: float(((image == "42") == text.startswith("a cat")) != ("3" in text))
    )
    assert found["main", ""] == found["group", ""] == 0.75
    assert found["group", "mean"] == 0.5


def test_tifas_clipscore_has_its_published_agreement(shared: Path) -> None:
    folder = shared / "data/tifa160"
    official = json.loads((folder / "human_annotations_with_scores.json").read_text(encoding="utf-8"))
    found = _values(_read("tifa160", folder), lambda image, _: official[image]["clipscore_vitb32"])
    assert 100 * found["main", ""] == pytest.approx(23.1, abs=0.06)
    assert 100 * found["tau_b", "mean"] == pytest.approx(26.7, abs=0.06)


def test_vl_checklists_families_count_alike_and_stand_for_it_where_all_are_there(tmp_path: Path) -> None:
    sources = {"Object/Size/small/vg": 1, "Attribute/color/vg": 0, "Attribute/color/vaw": 0, "Relation/action/vg": 1}
    write_vl_checklist(tmp_path, sources)
    values = {"good": 1.0, "other": 0.0, "bad": -1.0}
    found = _values(_read("vl_checklist", tmp_path), lambda _, text: values[text.split()[-1]])
    assert found["main", ""] == found["accuracy", "families"] == pytest.approx(2 / 3)
    assert found["accuracy", "mean"] == 0.5
    (tmp_path / "corpus/v1/Relation/action/vg.yaml").unlink()
    found = _values(_read("vl_checklist", tmp_path), lambda _, text: values[text.split()[-1]])
    assert ("accuracy", "families") not in found
    assert found["main", ""] == found["accuracy", "mean"]


def test_naturalbench_goes_by_its_answers_where_a_logit_has_a_threshold(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-0.parquet", [natural(0, "ynny"), natural(1, "abba", "multiple_choice")])
    benchmark = _read("naturalbench", tmp_path)
    own = {pair for row in benchmark.key.to_pylist() for pair in zip(row["image_ids"], row["text_ids"], strict=True)}
    ids = {
        text: name for name, text in zip(*(benchmark.texts[c].to_pylist() for c in ("text_id", "text")), strict=True)
    }
    logits = {True: 2.0, False: 1.0}
    found = _values(benchmark, lambda image, text: logits[(image, ids[text]) in own], calibrated=True)
    assert (found["main", ""], found["group", ""]) == (0.0, 1.0), "it says yes to everything"
    found = _values(benchmark, lambda image, text: logits[(image, ids[text]) in own])
    assert found["main", ""] == found["group", ""] == 1.0


def test_winoground_goes_by_all_items_with_tags_and_without(tmp_path: Path) -> None:
    tagged = _read("winoground", winoground(tmp_path))
    assert set(tagged.key["group"].to_pylist()) != {""}
    rows = [MetricName("group", group) for group in ("", "mean", "Object")]
    assert main_metric(tagged, rows) == ("group", "")
    assert main_metric(replace(tagged, main=None), rows) == ("group", "mean"), "older versions name no number"
    assert main_metric(replace(tagged, main=None), rows[:1]) == ("group", "")


@pytest.mark.parametrize("name", [name for name, row in BENCHMARKS.items() if row.main is not None])
def test_every_published_metric_is_one_of_its_protocol(name: str) -> None:
    row = BENCHMARKS[name]
    assert row.main is not None
    kinds = ["a", "a", "b", "b"]
    key: pa.Table
    if row.protocol == "pairs":
        key = pair_key([1] * 4, groups=kinds)
        logits = pair_logits(key, [[1]] * 4, [[0]] * 4)
    elif row.protocol == "groups":
        key = group_key(4, groups=kinds, yes_no=[True] * 4)
        logits = group_logits(key, np.zeros((4, 2, 2)))
    elif row.protocol in ("labels", "ratings"):
        key = rating_key([0, 1, 0, 1], group=kinds, prompt_id=kinds)
        key = key.append_column("label", pa.array([0, 1, 0, 1]))
        logits = row_logits(key, [0, 1, 2, 3])
    else:
        key = pa.table({"image_id": ["x", "y"], "text_id": ["s", "t"]})
        logits = Logits.from_matrix(pa.array(["x", "y"]), pa.array(["s", "t"]), np.eye(2, dtype=np.float32))
    measured = PROTOCOLS[row.protocol].measure(
        key, logits, calibrated=True, aggregates={"families": ("a", "b")} if row.main.group == "families" else {}
    )
    assert row.main in measured.rows


def test_chance_is_what_all_orders_reach_on_average() -> None:
    orders = np.array(list(permutations(range(4)))).reshape(24, 2, 2)
    key = group_key(24)
    found = groups.measure(key, group_logits(key, orders))
    for name in ("text", "image", "group", "average", "own_text", "own_image"):
        assert groups.chance(key, name) == pytest.approx(metric(found, name)), name
    signs = np.array(list(product((-1, 1), repeat=4))).reshape(16, 2, 2)
    key = group_key(16, yes_no=[True] * 16)
    found = groups.measure(key, group_logits(key, signs), calibrated=True)
    for name in ("answer", "question_answers", "image_answers", "group_answers"):
        assert groups.chance(key, name) == pytest.approx(metric(found, name)), name
    three = group_key(3, 3)
    assert groups.chance(three, "image") == pytest.approx((1 / 3) ** 3), "three texts that choose among three images"
    assert groups.chance(three, "own_image") == pytest.approx(1 / 3)
    assert groups.chance(three, "group") is None
    orders = np.array(list(permutations(range(4))))
    key = pair_key([2] * 24, true=2)
    found = pairs.measure(key, pair_logits(key, orders[:, :2].tolist(), orders[:, 2:].tolist()))
    for name in ("accuracy", "accuracy_1", "accuracy_2", "auroc"):
        assert pairs.chance(key, name) == pytest.approx(metric(found, name)), name
    assert pairs.chance(key, "p_c") is None
    assert [labels.chance(key, name) for name in ("roc_auc", "average_precision")] == [0.5, None]
    assert [ratings.chance(key, name) for name in ("tau_c", "ranking_accuracy", "best_of_n")] == [0.0, 0.5, None]
