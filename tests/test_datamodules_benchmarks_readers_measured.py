"""From official files to published numbers: what the readers return is what the protocols take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.logits import Logits
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.table import PROTOCOLS
from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.readers.own import COLUMNS as OWN_COLUMNS
from tests.benchmark_files import items, texts_of, write_json, write_vl_checklist
from tests.measured import metric, vectors


def measured(benchmark: Benchmark, logits: Any) -> dict[tuple[str, str], float]:
    """(metric, group) -> value; `logits` maps image and text to a number."""
    found = measure(benchmark, logits)
    return dict(zip(found.rows, found.value(), strict=True))


def measure(benchmark: Benchmark, logits: Any) -> Measured:
    """What the protocol finds of a number for each image and text."""
    assert benchmark.pairs is not None
    texts = texts_of(benchmark)
    asked = benchmark.pairs.to_pylist()
    numbers = [logits(pair["image_id"], texts[pair["text_id"]]) for pair in asked]
    scores = benchmark.pairs.append_column("logit", pa.array(numbers, pa.float64()))
    return PROTOCOLS[benchmark.protocol].measure(
        benchmark.key, Logits.from_table(scores), aggregates=benchmark.aggregates
    )


def test_a_table_of_ones_own_may_be_of_any_protocol() -> None:
    assert OWN_COLUMNS.keys() == PROTOCOLS.keys()


def test_flickr8ks_official_numbers_follow_from_its_raw_files(tmp_path: Path, shared: Path) -> None:
    block = vectors(shared, "flickr8k_expert_and_cf")
    given, rows = block["inputs"], block["outputs"]["expert_rows_list"]
    files = {
        "Flickr8k.token.txt": list(given["tokens"].items()),
        "ExpertAnnotations.txt": given["expert_lines"],
        "CrowdFlowerAnnotations.txt": given["crowdflower_lines"],
    }
    for name, lines in files.items():
        (tmp_path / name).write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    scores = {(image.removesuffix(".jpg"), caption): score for image, caption, score in given["scores"]}
    expert = read_benchmark("flickr8k_expert", annotations=tmp_path, texts_only=True)
    assert [[item["image_id"], item["text_id"], item["rating"]] for item in items(expert)] == [row[:3] for row in rows]
    exact = block["outputs"]["exact"]
    found = measured(expert, lambda image, text: scores[image, text])
    assert 100 * found["tau_c", ""] == pytest.approx(exact["expert_tau_c"], abs=1e-9)
    crowd = read_benchmark("flickr8k_cf", annotations=tmp_path, texts_only=True)
    found = measured(crowd, lambda image, text: scores[image, text])
    assert 100 * found["tau_b", ""] == pytest.approx(exact["cf_tau_b"], abs=1e-9)


@pytest.mark.parametrize(
    ("column", "spearman", "kendall"), [("tifa_mplug-large", 59.2, 47.2), ("clipscore_vitb32", 32.0, 23.1)]
)
def test_tifas_published_agreement_follows_from_its_file(
    shared: Path, column: str, spearman: float, kendall: float
) -> None:
    folder = shared / "data/tifa160"
    official = json.loads((folder / "human_annotations_with_scores.json").read_text(encoding="utf-8"))
    benchmark = read_benchmark("tifa160", annotations=folder, texts_only=True)
    found = measure(benchmark, lambda image, _: official[image][column])
    assert [round(100 * metric(found, name), 1) for name in ("spearman", "tau_b")] == [spearman, kendall]
    assert (len(found.clusters), found.images[0]) == (160, 800), "images of a prompt are resampled together"


def test_genais_best_of_three_is_a_slow_loop_over_threes_of_nine_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prompts: dict[str, Any] = {}
    for prompt in ("00001", "00002", "00003"):
        # not in the order of their numbers; the last prompt lacks an image, so that it has no three threes
        numbers = [3, 9, 1, 8, 2, 7, 4, 5, 6][: 8 if prompt == "00003" else 9]
        models = {model: {str(n): rng.integers(1, 6, 3).tolist() for n in numbers} for model in ("A", "B")}
        prompts[prompt] = {"prompt": f"a cup {prompt}", "models": models}
    write_json(tmp_path / "human_rating.json", prompts)
    write_json(tmp_path / "genai_skills.json", {"counting": [2, 3]})
    logits = {f"{m}/{p}_{n:02}": rng.normal() for p in prompts for m in ("A", "B") for n in range(1, 10)}
    found = measured(
        read_benchmark("genai_ranking", annotations=tmp_path, texts_only=True), lambda image, _: logits[image]
    )
    best: dict[str, list[float]] = {"": [], "counting": []}
    oracle: dict[str, list[float]] = {"": [], "counting": []}
    for prompt in ("00001", "00002"):
        for model, images in prompts[prompt]["models"].items():
            for start in (1, 4, 7):
                three = range(start, start + 3)
                first = max(three, key=lambda n: logits[f"{model}/{prompt}_{n:02}"])
                for skill in ("", "counting") if prompt == "00002" else ("",):
                    best[skill].append(np.mean(images[str(first)]))
                    oracle[skill].append(max(np.mean(images[str(n)]) for n in three))
    for skill in best:
        assert found["best_of_3", skill] == pytest.approx(np.mean(best[skill]))
        assert found["best_of_3_oracle", skill] == pytest.approx(np.mean(oracle[skill]))
    assert found["best_of_n", ""] != pytest.approx(found["best_of_3", ""])


def test_vl_checklists_families_are_means_of_types_whatever_their_sources(tmp_path: Path) -> None:
    right = {"Relation/action/hake": 1, "Relation/action/swig": 0, "Relation/action/vg": 0, "Relation/spatial/vg": 1}
    write_vl_checklist(tmp_path, right)
    benchmark = read_benchmark("vl_checklist", annotations=tmp_path, texts_only=True)
    values = {"good": 1.0, "other": 0.0, "bad": -1.0}
    found = measured(benchmark, lambda _, text: values[text.split()[-1]])
    assert found["accuracy", "Relation_action"] == pytest.approx(1 / 3)
    assert found["accuracy", "Relation"] == pytest.approx((1 / 3 + 1) / 2)


def test_a_part_of_sugarcrepe_has_the_means_that_are_whole(shared: Path) -> None:
    benchmark = read_benchmark("sugarcrepe", annotations=shared / "data/sugarcrepe/data", texts_only=True)
    found = measured(benchmark, lambda _, text: -float(len(text)))
    types = {
        group: value
        for (metric, group), value in found.items()
        if metric == "accuracy" and group in benchmark.key["group"].to_pylist()
    }
    assert len(types) == 7
    assert found["accuracy", "mean"] == pytest.approx(np.mean(list(types.values())))
    assert found["accuracy", "swap"] == pytest.approx((types["swap_obj"] + types["swap_att"]) / 2)
