"""Readers of true and false texts: official layouts and quirks, each on a small folder that the test writes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.pairs import as_pairs
from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.readers.pairs.aro import symmetric_relations
from datamodules.benchmarks.readers.pairs.aro_order import cleaned, shuffled
from datamodules.benchmarks.readers.pairs.vl_checklist import families_of
from negatives.tables import InputError
from tests.benchmark_files import files_of, items, photos, write_csv, write_json

COCO = "000000000042.jpg"


def crepe(number: int = 0, **changes: Any) -> dict[str, Any]:
    texts = {"caption": f"a cat {number}", "caption2": f"one feline {number}", "negative_caption": f"a dog {number}"}
    return {"id": number, "filename": COCO, **texts, **changes}


def test_sugarcrepe_has_its_published_means_and_keys_with_gaps(tmp_path: Path) -> None:
    for name in ("replace_obj", "replace_att", "swap_obj"):
        write_json(tmp_path / f"{name}.json", {"3": crepe(), "17": crepe(1)})
    benchmark = read_benchmark("sugarcrepe", annotations=tmp_path, image_root=photos(tmp_path / "val2017", COCO))
    assert benchmark.protocol == "pairs"
    assert [item["item_id"] for item in items(benchmark)][:2] == ["replace_obj:3", "replace_obj:17"]
    assert files_of(benchmark) == {"42": COCO}, "COCO's number"
    assert benchmark.aggregates["replace"] == ("replace_obj", "replace_att", "replace_rel")
    assert set(benchmark.aggregates) == {"replace", "swap", "add"}
    assert len(benchmark.pairs) == 4, "texts that several types share are asked once"
    note, of_groups = benchmark.notes
    assert of_groups.endswith("mean is over 3 of 7 groups")
    assert "replace_rel 0 instead of 1,406" in note


def test_sugarcrepe_pp_has_two_true_texts_in_a_list_of_items(tmp_path: Path) -> None:
    write_json(tmp_path / "swap_obj.json", [crepe(5)])
    benchmark = read_benchmark("sugarcrepe_pp", annotations=tmp_path, image_root=photos(tmp_path, COCO))
    (item,) = items(benchmark)
    assert (item["item_id"], item["group"]) == ("swap_obj:5", "swap_obj")
    assert (item["true"], item["false"]) == (["a cat 5", "one feline 5"], ["a dog 5"])
    assert set(benchmark.aggregates) == {"replace", "swap"}, "the mean over all five is the mean over its groups"
    assert as_pairs(benchmark).captions["caption"].to_pylist() == ["a cat 5"], "an audit takes the first true text"
    write_json(tmp_path / "swap_obj.json", {"0": crepe()})
    with pytest.raises(InputError, match=r"swap_obj\.json is no SugarCrepe\+\+ file .*for a list"):
        read_benchmark("sugarcrepe_pp", annotations=tmp_path, image_root=tmp_path)


def crop(number: int = 0, box: tuple[Any, ...] = (1, 2, 3, 3), **changes: Any) -> dict[str, Any]:
    sides = dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))
    texts = {"true_caption": f"the cat is on mat {number}", "false_caption": f"the mat is on cat {number}"}
    return {"image_path": "7.jpg", "relation_name": "to the left of", **sides, **texts, **changes}


def relations(folder: Path, *rows: dict[str, Any]) -> Any:
    write_json(folder / "visual_genome_relation.json", list(rows))
    return read_benchmark("aro_relation", annotations=folder, image_root=photos(folder, "7.jpg"))


def test_aro_asks_about_crops_which_are_called_by_image_and_box(tmp_path: Path) -> None:
    benchmark = relations(tmp_path, crop(), crop(1, box=(0, 0, 8, 6)), crop(2))
    assert files_of(benchmark) == {"7@1,2,3,3": "7.jpg", "7@0,0,8,6": "7.jpg"}
    assert benchmark.images["box"].to_pylist() == [[1, 2, 3, 3], [0, 0, 8, 6]]
    assert {item["group"] for item in items(benchmark)} == {"to_the_left_of"}


@pytest.mark.parametrize(
    "box", [(8, 0, 3, 3), (0, 6, 3, 3), (-4, 0, 4, 4), (1, 1, 0, 3), (1, 3, 3, 0), (1, 3, 3, -1)], ids=str
)
def test_a_crop_outside_its_image_is_left_out_and_counted(tmp_path: Path, box: tuple[int, ...]) -> None:
    benchmark = relations(tmp_path, crop(), crop(1, box=box))
    assert benchmark.left_out == {"crop outside the image": 1}
    assert len(benchmark.key) == len(benchmark.images) == 1


def test_crops_of_a_photo_stay_together_in_an_audit_and_are_no_whole_images(tmp_path: Path) -> None:
    benchmark = relations(tmp_path, crop(), crop(1, box=(0, 0, 8, 6)))
    assert as_pairs(benchmark, texts_only=True).captions["image_id"].to_pylist() == ["7", "7"]
    with pytest.raises(InputError, match="aro_relation must have whole images"):
        as_pairs(benchmark)


@pytest.mark.parametrize("box", [(7, 5, 30, 30), (-3, -3, 4, 4)], ids=str)
def test_a_crop_over_the_edge_of_its_image_is_asked_about(tmp_path: Path, box: tuple[int, ...]) -> None:
    assert relations(tmp_path, crop(box=box)).left_out == {}


def test_a_crop_needs_whole_pixels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.5 for bbox_x"):
        relations(tmp_path, crop(box=(0.5, 0, 3, 3)))


def test_157_relations_are_not_in_aros_mean(tmp_path: Path) -> None:
    assert len(symmetric_relations()) == 157
    assert {"near", "next to", "with", "adjusting"} <= symmetric_relations()
    assert not {"on", "to the left of", "behind"} & symmetric_relations()
    benchmark = relations(tmp_path, crop(), crop(1, relation_name="next to"), crop(2, relation_name="behind"))
    assert benchmark.left_out == {"relation is not in the mean": 1}
    assert [item["group"] for item in items(benchmark)] == ["to_the_left_of", "behind"]


def test_attributes_of_fewer_than_25_items_are_not_in_aros_mean(tmp_path: Path) -> None:
    rows = [crop(n, attributes=["white", "black"]) for n in range(25)]
    rows += [crop(n, attributes=["black", "white"]) for n in range(24)]
    write_json(tmp_path / "visual_genome_attribution.json", rows)
    benchmark = read_benchmark("aro_attribution", annotations=tmp_path, image_root=photos(tmp_path, "7.jpg"))
    assert Counter(item["group"] for item in items(benchmark)) == {"white_black": 25}
    assert benchmark.left_out == {"fewer than 25 items of its attributes": 24}


def test_the_25_rule_counts_the_files_not_the_images_that_someone_has(tmp_path: Path) -> None:
    rows = [crop(n, attributes=["a", "b"], image_path=f"{n}.jpg") for n in range(25)]
    write_json(tmp_path / "visual_genome_attribution.json", rows)
    benchmark = read_benchmark("aro_attribution", annotations=tmp_path, image_root=photos(tmp_path, "3.jpg"))
    assert benchmark.left_out == {"image missing": 24}
    assert len(benchmark.key) == 1


CAPTION = "A brown dog chases a red ball near the old man, in the park."


def test_orders_are_shuffles_that_depend_on_seed_and_caption_alone(tmp_path: Path) -> None:
    rows = [{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": [CAPTION, "Dog.", "a cat on a mat"]}]
    write_json(tmp_path / "coco_karpathy_test.json", rows)
    root = photos(tmp_path, rows[0]["image"])
    benchmark = read_benchmark("aro_coco_order", annotations=tmp_path, image_root=root)
    first, last = items(benchmark)
    assert first["true"] == ["a brown dog chases a red ball near the old man, in the park"]
    assert first["kinds"] == ["nouns_and_adjectives", "all_but_nouns_and_adjectives", "within_trigrams", "trigrams"]
    for text in first["false"]:
        assert Counter(text.split()) == Counter(first["true"][0].split())
        assert text != first["true"][0]
    assert benchmark.left_out == {"no other order of its words": 1}, "of one word"
    assert files_of(benchmark) == {"42": rows[0]["image"]}
    assert last["item_id"] == "0:2"
    write_json(tmp_path / "coco_karpathy_test.json", [{**rows[0], "caption": [CAPTION]}])
    assert items(read_benchmark("aro_coco_order", annotations=tmp_path, image_root=root)) == [first]
    other = read_benchmark("aro_coco_order", annotations=tmp_path, image_root=root, seed=1)
    assert items(other)[0]["false"] != first["false"]
    assert "seed 1" in other.notes[0]


def test_each_order_moves_what_it_is_called_by() -> None:
    words = cleaned(CAPTION).split()
    content = {"brown", "dog", "chases", "red", "ball", "old", "man,", "park"}
    orders = shuffled(cleaned(CAPTION), 0, "image", 0)
    for place, word in enumerate(orders["nouns_and_adjectives"].split()):
        assert (word == words[place]) or (word in content and words[place] in content)
    kept = [word for word in orders["all_but_nouns_and_adjectives"].split() if word in content]
    assert kept == [word for word in words if word in content]
    trigrams = [words[start : start + 3] for start in range(0, len(words), 3)]
    within = orders["within_trigrams"].split()
    assert [Counter(within[start : start + 3]) for start in range(0, len(words), 3)] == list(map(Counter, trigrams))
    whole = orders["trigrams"]
    assert all(" ".join(trigram) in whole for trigram in trigrams)
    assert len(cleaned("a " * 40).split()) == 30


def test_vl_checklist_pools_no_sources_and_means_over_types(tmp_path: Path) -> None:
    sources = {
        "Attribute/color/vaw": "vg",
        "Attribute/color/vg": "vg",
        "Attribute/size/vg": "vg/",
        "Object/Size/large/hake": "hake/",
    }
    for number, (source, images) in enumerate(sources.items()):
        data = f"data/{source}.json"
        path = tmp_path / f"corpus/v1/{source}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'ANNO_PATH: "{data}"\nIMG_ROOT: "{images}"\nTYPE: "TUPLE_JSON"\n')
        write_json(
            tmp_path / data, [[f"VG_100K/{number}.jpg", {"POS": [f"white {number}", "x"], "NEG": ["black"]}]] * 2
        )
    root = photos(tmp_path / "images", "vg/VG_100K/0.jpg", "vg/VG_100K/1.jpg", "vg/VG_100K/2.jpg")
    benchmark = read_benchmark("vl_checklist", annotations=tmp_path, image_root=root)
    assert [item["group"] for item in items(benchmark)][::2] == [
        "Attribute_color_vaw",
        "Attribute_color_vg",
        "Attribute_size_vg",
    ]
    assert items(benchmark)[0]["true"] == ["white 0"], "the first of each"
    assert benchmark.aggregates["Attribute_color"] == ("Attribute_color_vaw", "Attribute_color_vg")
    assert sorted(benchmark.aggregates["Attribute"]) == [
        "Attribute_color_vaw",
        "Attribute_color_vg",
        "Attribute_size_vg",
        "Attribute_size_vg",
    ]
    assert benchmark.left_out == {"image missing": 2}, "never skipped without a word"
    first = read_benchmark("vl_checklist", annotations=tmp_path, image_root=root, most_items=1)
    assert len(first.key) == 3
    assert families_of({"Relation_action": ["a", "b", "c"], "Relation_spatial": ["d"]}) == {
        "Relation": ["a", "b", "c", "d", "d", "d"]
    }


MCQ = ("correct_answer", "caption_0", "caption_1", "caption_2", "caption_3", "correct_answer_template", "image_path")


def test_negbench_names_the_kind_of_each_wrong_caption(tmp_path: Path) -> None:
    row = (0, "A, no B", "B, no A", "B", "no A", "hybrid", f"/data/coco/images/val2017/{COCO}")
    write_csv(tmp_path / "COCO_val_mcq_llama3.1_rephrased.csv", MCQ, row)
    benchmark = read_benchmark("negbench_mcq_coco", annotations=tmp_path, image_root=photos(tmp_path, COCO))
    (item,) = items(benchmark)
    assert (item["true"], item["false"]) == (["A, no B"], ["B, no A", "B", "no A"])
    assert (item["kinds"], item["group"]) == (["hybrid", "positive", "negative"], "hybrid")
    assert files_of(benchmark) == {"42": COCO}
    below = read_benchmark(
        "negbench_mcq_coco", annotations=tmp_path, image_root=photos(tmp_path / "b", f"val2017/{COCO}")
    )
    assert files_of(below) == {"42": f"val2017/{COCO}"}


def test_negbenchs_synthetic_part_has_its_true_caption_anywhere(tmp_path: Path) -> None:
    write_csv(tmp_path / "synthetic_mcq_v1.csv", MCQ, (2, "p", "h1", "h2", "n", "hybrid", "a/b/1.png"))
    benchmark = read_benchmark("negbench_mcq_synthetic", annotations=tmp_path, image_root=photos(tmp_path, "1.png"))
    (item,) = items(benchmark)
    assert (item["true"], item["false"]) == (["h2"], ["p", "h1", "n"])
    assert item["kinds"] == ["positive", "hybrid", "negative"]
    write_csv(tmp_path / "VOC2007_mcq_llama3.1_rephrased.csv", MCQ, (2, "p", "h", "q", "n", "hybrid", "a/b/1.png"))
    with pytest.raises(InputError, match="its true caption at 2"):
        read_benchmark("negbench_mcq_voc", annotations=tmp_path, image_root=tmp_path)


def test_another_versions_columns_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "VOC2007_mcq_llama3.1_rephrased.csv", ("caption_0", "image_path"), ("a", "1.jpg"))
    with pytest.raises(InputError, match="no column correct_answer, got caption_0, image_path") as error:
        read_benchmark("negbench_mcq_voc", annotations=tmp_path, image_root=tmp_path)
    assert "\n" not in str(error.value)


def test_real_sugarcrepe_is_a_part_of_the_official_files_and_says_so(shared: Path) -> None:
    data = shared / "data/sugarcrepe/data"
    benchmark = read_benchmark("sugarcrepe", annotations=data, texts_only=True)
    counts = Counter(item["group"] for item in benchmark.key.to_pylist())
    assert counts == {path.stem: len(json.loads(path.read_text())) for path in data.glob("*.json")}
    assert sum(counts.values()) == 4490
    assert "replace_obj 976 instead of 1,652" in benchmark.notes[0]


@pytest.mark.parametrize("image", ["..", "../1.jpg", "a/../../1.jpg", "/etc/passwd"])
def test_no_image_lies_outside_its_folder_wherever_it_stands(tmp_path: Path, image: str) -> None:
    write_json(tmp_path / "swap_obj.json", {"0": crepe(), "1": crepe(filename="a/1.jpg"), "2": crepe(filename=image)})
    with pytest.raises(InputError, match="must stay inside"):
        read_benchmark("sugarcrepe", annotations=tmp_path, texts_only=True)
