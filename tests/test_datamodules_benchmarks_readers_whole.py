"""Readers that ask every image with every text: captions to retrieve, and classes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.readers.classes.templates import templates_of
from negatives.tables import InputError
from tests.benchmark_files import files_of, photos, texts_of, write_csv, write_json

VAL = "val2014/COCO_val2014_000000000042.jpg"


def karpathy(split: str, image: int, *captions: str) -> dict[str, Any]:
    sentences = [{"raw": text, "tokens": [], "sentid": 10 * image + n} for n, text in enumerate(captions)]
    name = f"COCO_val2014_{image:012}.jpg"
    return {"filepath": "val2014", "filename": name, "split": split, "cocoid": image, "sentences": sentences}


def relevant(benchmark: Any) -> set[tuple[str, str]]:
    texts = texts_of(benchmark)
    return {(row["image_id"], texts[row["text_id"]]) for row in benchmark.key.to_pylist()}


def test_karpathys_test_split_is_asked_whole(tmp_path: Path) -> None:
    images = [karpathy("test", 42, "a cat", "a pet"), karpathy("test", 7, "a dog"), karpathy("val", 8, "a bird")]
    write_json(tmp_path / "dataset_coco.json", {"images": images})
    root = photos(tmp_path, VAL, "val2014/COCO_val2014_000000000007.jpg")
    benchmark = read_benchmark("coco_retrieval", annotations=tmp_path, image_root=root)
    assert benchmark.pairs is None, "every image with every text"
    assert relevant(benchmark) == {("42", "a cat"), ("42", "a pet"), ("7", "a dog")}
    assert benchmark.notes == ("counts are not the official ones: items 2 instead of 5,000",)
    both = read_benchmark("coco_retrieval", annotations=tmp_path, texts_only=True, splits=["val", "test"])
    assert len(both.images) == 3


def test_lavis_json_is_read_too_and_equal_captions_are_one_text(tmp_path: Path) -> None:
    rows = [{"image": VAL, "caption": ["a cat", "a pet", "a cat"]}, {"image": "flickr/9.jpg", "caption": ["a cat"]}]
    write_json(tmp_path / "coco_karpathy_test.json", rows)
    root = photos(tmp_path, VAL, "flickr/9.jpg")
    benchmark = read_benchmark("coco_retrieval", annotations=tmp_path, image_root=root)
    assert relevant(benchmark) == {("42", "a cat"), ("42", "a pet"), ("9", "a cat")}
    assert len(benchmark.key) == 3
    assert "2 of 4 captions equal another one" in benchmark.notes[0]


def test_texts_of_missing_images_are_not_searched(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "caption": ["a cat"]}, {"image": "2.jpg", "caption": ["a dog", "a pet"]}]
    write_json(tmp_path / "flickr30k_test.json", rows)
    root = photos(tmp_path, "1.jpg")
    benchmark = read_benchmark("flickr30k_retrieval", annotations=tmp_path, image_root=root)
    assert relevant(benchmark) == {("1", "a cat")}
    assert (len(benchmark.texts), benchmark.left_out) == (1, {"image missing": 1}), "an item is an image here"


def test_any_captions_table_can_be_retrieved_from(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "captions.csv", ("image", "caption"), ("1.jpg", "a cat"), ("1.jpg", "a pet"), ("2.jpg", "a dog")
    )
    benchmark = read_benchmark("captions_retrieval", annotations=table, image_root=photos(tmp_path, "1.jpg", "2.jpg"))
    assert relevant(benchmark) == {("1", "a cat"), ("1", "a pet"), ("2", "a dog")}


def class_folders(folder: Path) -> Path:
    return photos(folder, "great_cat/1.jpg", "great_cat/2.png", "dog/1.jpg", "dog/notes.txt")


def wordings(benchmark: Any) -> list[tuple[str, str]]:
    return list(zip(benchmark.texts["text_id"].to_pylist(), benchmark.texts["text"].to_pylist(), strict=True))


def test_any_folder_of_classes_can_be_classified(tmp_path: Path) -> None:
    benchmark = read_benchmark("class_folders", annotations=class_folders(tmp_path), image_root=tmp_path)
    assert wordings(benchmark) == [("dog", "a photo of a dog."), ("great_cat", "a photo of a great cat.")]
    classes = {row["image_id"]: row["text_id"] for row in benchmark.key.to_pylist()}
    assert classes == {"great_cat/1": "great_cat", "great_cat/2": "great_cat", "dog/1": "dog"}
    assert benchmark.pairs is None
    two = read_benchmark("class_folders", annotations=tmp_path, image_root=tmp_path, templates=["a {c}", "the {c}"])
    assert wordings(two)[:2] == [("dog", "a dog"), ("dog", "the dog")], "wordings of one text"


def test_all_classes_are_asked_about_of_some_of_the_images(tmp_path: Path) -> None:
    line = {"image_id": "dog/1", "image": "dog/1.jpg", "caption_id": "1", "caption": "a dog"}
    (tmp_path / "ids.jsonl").write_text(json.dumps(line))
    root = class_folders(tmp_path / "images")
    benchmark = read_benchmark("class_folders", annotations=root, image_root=root, image_ids=tmp_path / "ids.jsonl")
    assert benchmark.key.to_pylist() == [{"image_id": "dog/1", "text_id": "dog"}]
    assert len(benchmark.texts) == 2


def test_templates_are_the_published_ones_or_sentences_with_the_slot() -> None:
    assert (len(templates_of("imagenet")), len(templates_of("cifar"))) == (80, 18)
    assert len(set(templates_of("imagenet"))) == 80
    assert templates_of("imagenet")[0] == "a bad photo of a {c}."
    assert templates_of("cifar")[-1] == "a photo of the big {c}."
    assert all(template.count("{c}") == 1 for template in templates_of("imagenet"))
    for wrong in ("imagnet", ["a cat"], []):
        with pytest.raises(InputError, match=r"one of plain, cifar, imagenet, or sentences with \{c\}"):
            templates_of(wrong)


@pytest.mark.parametrize(
    "names",
    [
        {"n01": "tench", "n02": "goldfish", "n03": "shark"},
        {"0": ["n01", "tench"], "1": ["n02", "goldfish"], "2": ["n03", "shark"]},
    ],
    ids=["by folder", "by number"],
)
def test_imagenet_asks_about_all_classes_whatever_images_are_there(tmp_path: Path, names: Any) -> None:
    path = write_json(tmp_path / "imagenet_classnames.json", names)
    root = photos(tmp_path / "val", "n02/ILSVRC2012_val_00000001.JPEG")
    benchmark = read_benchmark("imagenet", annotations=path, image_root=root)
    assert len(benchmark.texts) == 3 * 80
    assert benchmark.key.to_pylist() == [{"image_id": "n02/ILSVRC2012_val_00000001", "text_id": "n02"}]
    assert benchmark.notes == ("counts are not the official ones: items 1 instead of 50,000",)


def test_names_of_keras_have_spaces_and_equal_ones_are_noted(tmp_path: Path) -> None:
    rows = {"0": ["n01", "great_white_shark"], "1": ["n02", "crane"], "2": ["n03", "crane"]}
    path = write_json(tmp_path / "imagenet_class_index.json", rows)
    root = photos(tmp_path / "val", "n02/1.JPEG")
    benchmark = read_benchmark("imagenet", annotations=tmp_path, image_root=root, templates="plain")
    assert wordings(benchmark)[0] == ("n01", "a photo of a great white shark.")
    assert benchmark.notes[0] == (
        "classes of one name always tie, so that their images count as wrong: 'crane' (n02, n03)"
    )
    # the name of a folder of one's own is given as it is meant
    write_json(path, {"n01": "snake_case", "n02": "a", "n03": "b"})
    other = read_benchmark("imagenet", annotations=tmp_path, image_root=root, templates="plain")
    assert wordings(other)[0] == ("n01", "a photo of a snake_case.")
    assert len(other.notes) == 1, "the official count alone"


def test_a_list_of_names_goes_by_the_sorted_folders_which_have_to_be_whole(tmp_path: Path) -> None:
    root = photos(tmp_path / "val", "n02/1.JPEG", "n01/1.JPEG")
    path = write_json(tmp_path / "imagenet_classnames.json", ["tench", "goldfish"])
    benchmark = read_benchmark("imagenet", annotations=tmp_path, image_root=root, templates="plain")
    assert wordings(benchmark) == [("n01", "a photo of a tench."), ("n02", "a photo of a goldfish.")]
    write_json(path, ["tench", "goldfish", "shark"])
    with pytest.raises(InputError, match="3 names in a list for 2 folders"):
        read_benchmark("imagenet", annotations=tmp_path, image_root=root)
    write_json(path, {"n01": "tench"})
    with pytest.raises(InputError, match=r"every class folder must have a name in .*, n02 has none"):
        read_benchmark("imagenet", annotations=tmp_path, image_root=root)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        read_benchmark("class_folders", annotations=photos(tmp_path, "cat/1.jpg"), image_root=tmp_path)


def cifar(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    pixels[1, 2] = 200  # all of blue
    labels, files = [1, 0], [b"cat_s_01.png", b"../dog_s_02.png"]
    batch = {b"data": pixels.reshape(2, -1), b"filenames": files}
    names = [b"dog", b"great_cat"]
    ten = kind == "cifar10"
    batch[b"labels" if ten else b"fine_labels"] = labels
    (folder / ("test_batch" if ten else "test")).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names" if ten else b"fine_label_names": names}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return folder


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifars_batch_is_saved_as_images_once(tmp_path: Path, kind: str) -> None:
    folder, root = cifar(tmp_path / "batches", kind), tmp_path / "images"
    benchmark = read_benchmark(kind, annotations=folder, image_root=root)
    assert {row["image_id"]: row["text_id"] for row in benchmark.key.to_pylist()} == {
        "cat_s_01": "great_cat",
        "dog_s_02": "dog",
    }
    assert files_of(benchmark)["dog_s_02"] == "dog_s_02.png", "no name leads out of the folder"
    assert Image.open(root / "dog_s_02.png").getpixel((3, 4)) == (0, 0, 200)
    assert len(benchmark.texts) == 2 * 18
    assert ("great_cat", "a photo of a great_cat.") in wordings(benchmark), "underscores stay"
    saved = (root / "dog_s_02.png").stat().st_mtime_ns
    read_benchmark(kind, annotations=folder, image_root=root)
    assert (root / "dog_s_02.png").stat().st_mtime_ns == saved
    # as the other CIFAR's, whose files are called alike
    Image.new("RGB", (32, 32), (1, 2, 3)).save(root / "dog_s_02.png")
    with pytest.raises(InputError, match=r"dog_s_02\.png must be the benchmark's own picture, and is another one"):
        read_benchmark(kind, annotations=folder, image_root=root)


def test_cifar_in_folders_of_classes_is_read_too(tmp_path: Path) -> None:
    photos(tmp_path / "test", "cat/0001.png", "dog/0001.png")
    benchmark = read_benchmark("cifar10", annotations=tmp_path, image_root=tmp_path / "test")
    assert {row["image_id"] for row in benchmark.key.to_pylist()} == {"cat/0001", "dog/0001"}
    assert len(benchmark.texts) == 2 * 18


class Danger:
    def __reduce__(self) -> Any:
        return print, ("a pickle ran",)


def test_a_pickle_that_would_run_a_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cifar(tmp_path, "cifar10")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Danger()}, protocol=2))
    with pytest.raises(InputError, match=r"test_batch is no CIFAR file \(it asks for"):
        read_benchmark("cifar10", annotations=folder, texts_only=True)
    assert "ran" not in capsys.readouterr().out


def test_real_captions_are_a_retrieval_set(shared: Path) -> None:
    folder = shared / "data/coco_val2017"
    benchmark = read_benchmark("captions_retrieval", annotations=folder / "captions.jsonl", image_root=folder)
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(benchmark.images) == len({json.loads(line)["image"] for line in lines})
    assert benchmark.left_out == {}
