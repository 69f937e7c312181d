"""Readers of what people said of pairs, labels and ratings: official layouts and quirks, on small folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.read import read_benchmark
from negatives.tables import InputError
from tests.benchmark_files import files_of, items, photos, texts_of, write_csv, write_json

SEETRUE = ("image", "text", "label", "original_dataset_id", "dataset_source")


def seetrue(folder: Path, *labels: Any) -> Path:
    rows = [(f"{n}.png", f"text {n}", label, f"id_{n}", "drawbench") for n, label in enumerate(labels)]
    write_csv(folder / "SeeTRUE.csv", SEETRUE, *rows)
    return photos(folder / "images", *(row[0] for row in rows))


def test_seetrue_rows_are_labels_by_source(tmp_path: Path) -> None:
    root = seetrue(tmp_path, 1, 0)
    benchmark = read_benchmark("seetrue", annotations=tmp_path, image_root=root)
    first, second = items(benchmark)
    assert (first["text_id"], first["label"], second["label"]) == ("text 0", 1, 0)
    assert (first["image_id"], first["group"]) == ("0.png", "drawbench")
    assert files_of(read_benchmark("seetrue", annotations=tmp_path, image_root=tmp_path))["0.png"] == "images/0.png"


def test_labels_of_one_class_and_other_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels must be both 0 and 1, got \[1\] alone"):
        read_benchmark("seetrue", annotations=tmp_path, image_root=seetrue(tmp_path, 1, 1))
    root = seetrue(tmp_path, 1, 0)
    (root / "1.png").unlink()
    with pytest.raises(InputError, match="labels must be both 0 and 1"):
        read_benchmark("seetrue", annotations=tmp_path, image_root=root)
    with pytest.raises(InputError, match="row 0 has 'yes' for a label"):
        read_benchmark("seetrue", annotations=tmp_path, image_root=seetrue(tmp_path, "yes", 0))


def test_real_seetrue_has_the_official_counts(shared: Path) -> None:
    benchmark = read_benchmark("seetrue", annotations=shared / "data/seetrue", texts_only=True)
    labels = Counter(zip(benchmark.key["group"].to_pylist(), benchmark.key["label"].to_pylist(), strict=True))
    assert len(benchmark.key) == 6930
    assert [labels["editbench", 1], labels["coco_t2i", 1], labels["drawbench", 1]] == [2133, 1163, 488]
    assert [labels["editbench", 0], labels["coco_t2i", 0], labels["drawbench", 0]] == [1694, 628, 824]
    assert benchmark.notes == ()


def tifa(number: int, *scores: Any, model: str = "mini_dalle") -> dict[str, dict[str, Any]]:
    key = f"coco_{number}_{model}"
    return {
        key: {"text_id": f"coco_{number}", "image_path": f"{key}.jpg", "text": "a tree", "human_scores": list(scores)}
    }


def test_tifa_averages_its_raters_and_counts_what_nobody_rated(tmp_path: Path) -> None:
    found = {**tifa(1, 5, 4), **tifa(2, 3), **tifa(3), **tifa(4, None)}
    write_json(tmp_path / "human_annotations_with_scores.json", found)
    root = photos(tmp_path, *(f"{key}.jpg" for key in found))
    benchmark = read_benchmark("tifa160", annotations=tmp_path, image_root=root)
    first, second = items(benchmark)
    assert (first["rating"], second["rating"]) == (4.5, 3.0)
    assert (first["prompt_id"], first["group"], first["item_id"]) == ("coco_1", "coco", "coco_1_mini_dalle")
    assert benchmark.left_out == {"not rated": 2}


def test_tifa_takes_dsgs_ratings_under_dsgs_names_of_models(tmp_path: Path) -> None:
    found = {**tifa(1, 1, model="stable_diffusion_v1_5"), **tifa(2, 1)}
    write_json(tmp_path / "tifa160.json", found)
    header = ("data_type", "model_type", "item_id", "source_id", "worker_id", "question", "answer")
    answers = [("tifa160", "sd1dot5", "x", "coco_1", 1, "?", 3), ("tifa160", "sd1dot5", "x", "coco_1", 2, "?", 4)]
    write_csv(tmp_path / "dsg_tifa160_anns.csv", header, *answers, ("tifa160", "mini-dalle", "x", "coco_2", 1, "?", 5))
    root = photos(tmp_path, *(f"{key}.jpg" for key in found))
    ratings = [item["rating"] for item in items(read_benchmark("tifa160", annotations=tmp_path, image_root=root))]
    assert ratings == [3.5, 5.0]


def test_real_tifa_is_whole(shared: Path) -> None:
    benchmark = read_benchmark("tifa160", annotations=shared / "data/tifa160", texts_only=True)
    assert (len(benchmark.key), benchmark.notes) == (800, ())
    assert Counter(benchmark.key["group"].to_pylist()) == {
        "coco": 420,
        "partiprompt": 255,
        "paintskill": 75,
        "drawbench": 50,
    }
    assert set(Counter(benchmark.key["prompt_id"].to_pylist()).values()) == {5}


def test_genai_bench_ranks_the_models_of_a_prompt_and_has_skills_as_tags(tmp_path: Path) -> None:
    models = {"DALLE_3": [5, 4, 5], "SDXL_Base": [1, None, 2]}
    write_json(tmp_path / "genai_image.json", {"00007": {"prompt": "two cups", "models": models}})
    write_json(tmp_path / "genai_skills.json", {"counting": [7, 8], "part relation": [7]})
    root = photos(tmp_path, "DALLE_3/00007.jpeg", "SDXL_Base/00007.jpeg")
    first, second = items(read_benchmark("genai_bench", annotations=tmp_path, image_root=root))
    assert first["rating"] == pytest.approx(14 / 3)
    assert second["rating"] == 1.5, "what a rater left out does not count"
    assert first["prompt_id"] == second["prompt_id"] == "00007"
    assert first["tags"] == ["counting", "part_relation"]
    assert (first["item_id"], first["image_id"]) == ("DALLE_3/00007", "DALLE_3/00007")


def test_genais_ranking_set_ranks_the_images_of_a_prompt_and_model(tmp_path: Path) -> None:
    models = {"DALLE_3": {"1": [5, 4], "9": [2, 2]}, "SDXL_Base": {"1": [1, 1]}}
    write_json(tmp_path / "human_rating.json", {"00001": {"id": "00001", "prompt": "a cup", "models": models}})
    root = photos(tmp_path, "DALLE_3/00001_01.jpeg", "DALLE_3/00001_09.jpeg", "SDXL_Base/00001_01.jpeg")
    rows = items(read_benchmark("genai_ranking", annotations=tmp_path, image_root=root))
    assert [row["prompt_id"] for row in rows] == ["00001:DALLE_3", "00001:DALLE_3", "00001:SDXL_Base"]
    assert [row["rating"] for row in rows] == [4.5, 2.0, 1.0]


def flickr(folder: Path, expert: list[tuple[Any, ...]], crowd: list[tuple[Any, ...]] = []) -> Path:  # noqa: B006
    tokens = [(f"{image}.jpg#{n}", f"A caption  {image} {n} .") for image in "ab" for n in range(2)]
    for name, rows in (
        ("Flickr8k.token.txt", tokens),
        ("ExpertAnnotations.txt", expert),
        ("CrowdFlowerAnnotations.txt", crowd),
    ):
        (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return photos(folder / "photos", "a.jpg", "b.jpg")


def test_flickr8ks_experts_are_not_averaged_and_own_captions_are_dropped(tmp_path: Path) -> None:
    root = flickr(
        tmp_path, [("a.jpg", "b.jpg#1", 1, 2, 4), ("a.jpg", "a.jpg#0", 4, 4, 4), ("b.jpg", "a.jpg#1", 1, 1, 2)]
    )
    benchmark = read_benchmark("flickr8k_expert", annotations=tmp_path, image_root=root)
    rows = items(benchmark)
    assert [row["rating"] for row in rows] == [1, 2, 4, 1, 1, 2], "each rating is a row"
    assert [row["item_id"] for row in rows[::3]] == ["a:b.jpg#1", "b:a.jpg#1"]
    assert rows[0]["text_id"] == "A caption b 1 .", "white space is made one"
    assert benchmark.left_out == {"caption is the image's own": 1}
    assert len(benchmark.pairs) == 2, "a pair is asked once, however many rated it"
    assert benchmark.notes == ("counts are not the official ones: items 2 instead of 5,664",)


def test_flickr8ks_crowd_gives_one_share_of_yes_and_keeps_own_captions(tmp_path: Path) -> None:
    crowd = [("a.jpg", "b.jpg#1", 0.25, 1, 3), ("a.jpg", "a.jpg#0", 1.0, 3, 0)]
    root = flickr(tmp_path, [], crowd)
    benchmark = read_benchmark("flickr8k_cf", annotations=tmp_path, image_root=root)
    assert [row["rating"] for row in items(benchmark)] == [0.25, 1.0]
    assert benchmark.left_out == {}


def test_flickr8ks_ratings_come_as_json_too_and_a_rating_that_is_nan_goes_alone(tmp_path: Path) -> None:
    other = [{"caption": "A  dog", "rating": rating} for rating in (1, 2, 3)]
    own = [{"caption": "A cat", "rating": 4.0}] * 3
    missing = [{"caption": "A bird", "rating": rating} for rating in (1, float("nan"), 2)]
    missing += [{"caption": "A bus", "rating": float("nan")}] * 3
    image = {"image_path": "flickr8k/a.jpg", "ground_truth": ["A  cat"], "human_judgement": other + own + missing}
    write_json(tmp_path / "flickr8k.json", {"a": image})
    root = photos(tmp_path, "a.jpg")
    benchmark = read_benchmark("flickr8k_expert", annotations=tmp_path, image_root=root)
    rated = [(row["text_id"], row["rating"]) for row in items(benchmark)]
    assert rated == [("A dog", 1), ("A dog", 2), ("A dog", 3), ("A bird", 1), ("A bird", 2)]
    assert benchmark.left_out == {"caption is the image's own": 1, "missing ratings": 4}
    assert "A bus" not in texts_of(benchmark).values()
    assert files_of(benchmark) == {"a": "a.jpg"}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([("a.jpg", "b.jpg#1", 3)], "has 3 fields instead of 5"),
        ([("a.jpg", "c.jpg#1", 1, 2, 3)], "is no caption of Flickr8k"),
        ([("a.jpg", "b.jpg#1", 1, "x", 3)], "'x' for a number"),
        ([("a.jpg", "b.jpg#1", 2, 2, 2)], "ratings must be finite numbers of at least two values, got"),
    ],
    ids=["one rater only", "no caption", "no number", "all ties"],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path: Path, rows: list[tuple[Any, ...]], fault: str) -> None:
    root = flickr(tmp_path, rows)
    with pytest.raises(InputError, match=fault) as error:
        read_benchmark("flickr8k_expert", annotations=tmp_path, image_root=root)
    assert "\n" not in str(error.value)


def test_equal_captions_of_two_photos_are_two_items_in_json(tmp_path: Path) -> None:
    judgements = [{"caption": "A dog", "rating": rating} for rating in (1, 2, 3, 4, 4, 4)]
    image = {"image_path": "a.jpg", "ground_truth": ["A cat"], "human_judgement": judgements}
    write_json(tmp_path / "flickr8k.json", {"a": image})
    rows = items(read_benchmark("flickr8k_expert", annotations=tmp_path, texts_only=True))
    assert [row["item_id"] for row in rows] == ["a:0.0"] * 3 + ["a:0.1"] * 3
    assert [row["rating"] for row in rows] == [1, 2, 3, 4, 4, 4]


def test_one_rater_of_a_caption_is_refused_in_json(tmp_path: Path) -> None:
    image = {"image_path": "a.jpg", "ground_truth": ["A cat"], "human_judgement": [{"caption": "A dog", "rating": 2}]}
    write_json(tmp_path / "flickr8k.json", {"a": image})
    with pytest.raises(InputError, match="has 1 ratings of one caption instead of 3"):
        read_benchmark("flickr8k_expert", annotations=tmp_path, texts_only=True)
