"""What a run was trained on is recorded by content, and found again in the sets that it is evaluated on."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.benchmarks import Benchmark
from datamodules.benchmarks.pairs import Pairs
from datamodules.image_text import ImageTextDataModule
from experiments.__main__ import main
from experiments.runs import train_images
from experiments.runs.train_images import (
    EDGE,
    TRAIN_IMAGES_FILE,
    Overlap,
    SetImages,
    TrainImages,
    content_hash,
    find_overlap,
    hash_images,
    ids_in_tables,
    read_train_images,
    record_train_images,
)
from experiments.scoring.overlaps import set_images, training_items, without_training_images
from negatives.tables.captions import InputError, read_captions, read_negatives, text_table, write_table
from negatives.tables.verdicts import VERDICT_SCHEMA
from tests.measured import group_key, pair_key
from tests.tiny import TINY_OVERRIDES, tiny_tables
from tests.wandb_log import read_wandb

GENERATOR_COLUMNS = ("generator", "model", "prompt_version", "rejected")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training scenes and held-out ones, and verdicts that keep no caption of the first scene."""
    folder = tmp_path_factory.mktemp("scenes")
    captions, negatives = tiny_tables(folder)
    true = read_captions(captions)
    texts = text_table(true, read_negatives(negatives, true))
    keep = [row["image_id"] != "train-0" or row["label"] == 0 for row in texts.to_pylist()]
    columns = (texts["text_id"], texts["label"], [0] * len(keep), [0.5] * len(keep), [1.0] * len(keep), keep)
    verdicts = pa.table(dict(zip(VERDICT_SCHEMA.names, columns, strict=True)), schema=VERDICT_SCHEMA)
    write_table(verdicts, folder / "verdicts.parquet")
    return folder


def data_module(tables: Path, **settings: Any) -> ImageTextDataModule:
    train = tables / "train"
    module = ImageTextDataModule(train / "captions.parquet", train / "negatives.parquet", **settings)
    module.setup()
    return module


def read_pairs(captions: Path, negatives: Path) -> Pairs:
    """The tables with all their columns, so that they can be written again."""
    true = read_captions(captions)
    return Pairs(true, read_negatives(negatives, true), captions.parent)


def mixed_set(tables: Path) -> Pairs:
    """Two training images under other names, and two held-out images, one of them under a training image's id."""
    ids = {"train-0": "new", "train-1": "1", "balanced-0": "train-2", "balanced-1": "balanced-1"}
    captions, negatives = [], []
    for split in ("train", "balanced"):
        pairs = read_pairs(tables / split / "captions.parquet", tables / split / "negatives.parquet")
        images = {row["caption_id"]: row["image_id"] for row in pairs.captions.to_pylist()}
        captions += [
            {**row, "image_id": ids[row["image_id"]], "image": f"{split}/{row['image']}"}
            for row in pairs.captions.to_pylist()
            if row["image_id"] in ids
        ]
        negatives += [row for row in pairs.negatives.to_pylist() if images[row["caption_id"]] in ids]
    return Pairs(pa.Table.from_pylist(captions), pa.Table.from_pylist(negatives), tables)


def pairs_of(pairs: Pairs, *image_ids: str) -> int:
    captions = {row["caption_id"] for row in pairs.captions.to_pylist() if row["image_id"] in image_ids}
    return sum(row["caption_id"] in captions for row in pairs.negatives.to_pylist())


@pytest.mark.parametrize("size", [100, 2 * EDGE, 3 * EDGE])
def test_a_hash_tells_the_ends_of_files_apart_and_their_sizes(size: int, tmp_path: Path) -> None:
    content = bytes(place % 251 for place in range(size))
    changed = [bytes([9]) + content[1:], content[:-1] + bytes([255]), content + b"\0", content[:-1]]
    for number, version in enumerate([content, content, *changed]):
        (tmp_path / str(number)).write_bytes(version)
    hashes = [content_hash(tmp_path / str(number)) for number in range(len(changed) + 2)]
    assert hashes[0] == hashes[1], "whatever it is called"
    assert len(set(hashes[1:])) == len(changed) + 1
    assert [length for length, _ in hashes] == [size, size, size, size, size + 1, size - 1]


def test_small_files_are_hashed_whole_and_the_middle_of_large_ones_is_not(tmp_path: Path) -> None:
    for size, seen in ((2 * EDGE, True), (2 * EDGE + 2, False)):
        (tmp_path / "a").write_bytes(bytes(size))
        (tmp_path / "b").write_bytes(bytes(EDGE) + b"\1" + bytes(size - EDGE - 1))
        assert (content_hash(tmp_path / "a") != content_hash(tmp_path / "b")) == seen


def test_images_stay_inside_their_folder_and_have_to_be_readable(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(InputError, match="must stay inside"):
        hash_images(tmp_path / "inside", ["../outside.png"], "")
    with pytest.raises(InputError, match=r"image .*gone\.png' cannot be read \(No such file"):
        hash_images(tmp_path, ["gone.png"], "")


def test_the_record_has_the_images_that_a_training_can_draw(tables: Path, tmp_path: Path) -> None:
    kept = data_module(tables, verdicts=tables / "verdicts.parquet", subset="kept")
    record_train_images(kept, tmp_path)
    rows = pq.read_table(tmp_path / TRAIN_IMAGES_FILE).to_pylist()
    assert [row["image_id"] for row in rows] == [f"train-{number}" for number in range(1, 6)]
    first = tables / "train" / kept.images_to_train_on()["train-1"]
    assert (rows[0]["size"], rows[0]["content_hash"]) == content_hash(first)
    # the same folder goes on with more
    record_train_images(data_module(tables), tmp_path)
    assert len(pq.read_table(tmp_path / TRAIN_IMAGES_FILE)) == 6


def test_a_run_that_goes_on_keeps_what_it_was_trained_on_before(tables: Path, tmp_path: Path) -> None:
    record_train_images(data_module(tables), tmp_path)
    record_train_images(data_module(tables, verdicts=tables / "verdicts.parquet", subset="kept"), tmp_path)
    recorded = read_train_images(tmp_path)
    assert recorded is not None
    assert "train-0" in recorded.ids


def test_a_pipe_that_a_run_names_as_its_captions_is_not_opened(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, captions = tmp_path / "captions.jsonl", tables / "train" / "captions.parquet"
    os.mkfifo(pipe)
    read = train_images.read_captions
    monkeypatch.setattr(
        train_images, "read_captions", lambda path: pytest.fail("waits") if path == str(pipe) else read(path)
    )
    assert ids_in_tables([str(pipe), str(captions)]) == frozenset(read_captions(captions)["image_id"].to_pylist())


def test_a_damaged_record_is_no_empty_one(tmp_path: Path) -> None:
    assert read_train_images(tmp_path) is None
    (tmp_path / TRAIN_IMAGES_FILE).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is damaged"):
        read_train_images(tmp_path)
    whole = {"image_id": ["1"], "size": [1], "content_hash": ["ab"]}
    for columns in (
        {"other": [1]},
        {name: values for name, values in whole.items() if name != "content_hash"},
        whole | {"content_hash": pa.array([None], pa.string())},
        {name: pa.array([], pa.array(values).type) for name, values in whole.items()},
    ):
        pq.write_table(pa.table(columns), tmp_path / TRAIN_IMAGES_FILE)
        with pytest.raises(InputError, match="is damaged"):
            read_train_images(tmp_path)
    pq.write_table(pa.table(whole), tmp_path / TRAIN_IMAGES_FILE)
    assert read_train_images(tmp_path) is not None


def test_images_are_found_by_content_and_not_by_id(tables: Path, tmp_path: Path) -> None:
    record_train_images(data_module(tables), tmp_path)
    recorded, pairs = read_train_images(tmp_path), mixed_set(tables)
    assert recorded is not None
    found = find_overlap(recorded, SetImages.of_pairs("set", pairs))
    assert found.training_images == {"new", "1"}
    assert (found.images, found.items) == (4, len(pairs.negatives))
    assert found.training_items == pairs_of(pairs, "new", "1") > 0
    assert found.same_ids == 1, "train-2 names another image in the set"


def test_a_crop_has_the_id_of_its_photo(tables: Path) -> None:
    photo = next(iter(tables.rglob("*.png")))
    crops = {name: [photo.name] for name in ("7@0,0,4,4", "7@-1,2,4,4", "8@0,0,4,4", "me@home", "7")}
    images = SetImages("aro", photo.parent, crops, [[name] for name in crops])
    ids = frozenset({"7", "me"})
    other = find_overlap(TrainImages(ids, frozenset()), images)
    assert (other.same_ids, other.images) == (3, 5), "both crops of 7, and 7"
    same = find_overlap(TrainImages(ids, frozenset({content_hash(photo)[1]})), images)
    assert (same.same_ids, len(same.training_images)) == (0, 5)
    assert images.called({"me@home", "8"}) == {"me@home", "8@0,0,4,4"}


def test_a_validation_set_of_training_images_is_told_when_the_training_starts(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = read_pairs(tables / "balanced/captions.parquet", tables / "balanced/negatives.parquet")
    record_train_images(data_module(tables, validation=held_out), tmp_path)
    assert capsys.readouterr().out == ""
    pairs = mixed_set(tables)
    record_train_images(data_module(tables, validation=pairs), tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    count = f"2 of 4 images ({pairs_of(pairs, 'new', '1')} of {len(pairs.negatives)} items)"
    said = f"{count} are training images of the run, such as '1', 'new'; its curve is no measure of other images."
    assert line == f"data.validation: {said}"
    benchmarks = [SetImages.of_pairs("hard", pairs), SetImages.of_pairs("own", held_out)]
    record_train_images(data_module(tables, validation=held_out), tmp_path, benchmarks)
    assert capsys.readouterr().out.splitlines() == [f"hard: {said}"]


def counted(tmp_path: Path, protocol: str, key: pa.Table, trained: set[str], **more: Any) -> tuple[str, dict[str, int]]:
    """What is said of a benchmark of a run that was trained on some of its images, and group -> items of these."""
    column = key["image_ids" if "image_ids" in key.column_names else "image_id"].to_pylist()
    images = list(dict.fromkeys(one for row in column for one in ([row] if isinstance(row, str) else row)))
    for image in images:
        (tmp_path / f"{image}.png").write_text(image)
    table = pa.table({"image_id": images, "image": [f"{image}.png" for image in images]})
    benchmark = Benchmark(
        "b", protocol, table, pa.table({"text_id": ["t"], "text": ["t"]}), key, tmp_path, None, **more
    )
    hashes = frozenset(content_hash(tmp_path / f"{image}.png")[1] for image in trained)
    overlap = find_overlap(TrainImages(frozenset(), hashes), set_images("b", benchmark))
    counts = training_items(benchmark, overlap)
    assert counts is not None
    return str(overlap), counts


def test_an_item_of_several_images_is_counted_once(tmp_path: Path) -> None:
    # both images of the first item, one of the second, and none of the others
    said, counts = counted(tmp_path, "groups", group_key(4), {"image0_0", "image0_1", "image1_1"})
    assert counts == {"": 2}
    assert said.startswith("3 of 8 images (2 of 4 items) are")


def test_training_items_are_counted_in_every_group_that_a_metric_has(tmp_path: Path) -> None:
    groups, tags = ["replace_obj", "replace_att", "swap_obj", "swap_obj"], [["small"], [], ["small", "rare"], []]
    aggregates = {"replace": ("replace_obj", "replace_att"), "swap": ("swap_obj", "swap_att")}
    key = pair_key([1] * 4, groups=groups, tags=pa.array(tags))
    _, counts = counted(tmp_path, "pairs", key, {"image0", "image2", "image3"}, aggregates=aggregates)
    # "swap" lacks a group, so it is no metric
    of_groups = {"replace_obj": 1, "replace_att": 0, "swap_obj": 2, "small": 2, "rare": 1}
    assert counts == {"": 3, "mean": 3, "replace": 1, **of_groups}


def test_images_are_counted_where_texts_are_searched(tmp_path: Path) -> None:
    images = [f"image{number // 5}" for number in range(20)]
    key = pa.table({"image_id": images, "text_id": [str(number) for number in range(20)]})
    said, counts = counted(tmp_path, "retrieval", key, {"image2"})
    assert counts == {"": 1}
    assert said.startswith("1 of 4 images (1 of 4 items) are")


@pytest.fixture(scope="module")
def trained(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on the training scenes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    words = [f"data.{name}={tables / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    words += [*TINY_OVERRIDES, f"output_dir={run}", "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/llava_tiny_scenes.yaml", *words]) == 0
    return run


@pytest.fixture
def evaluate(tables: Path, trained: Path, tmp_path: Path) -> Any:
    """Evaluates the run on a set, with further words; the exit code, the set's summary and the rows of its metrics."""

    def call(pairs: Pairs, *words: str) -> tuple[int, dict[str, Any], list[dict[str, str]]]:
        out = tmp_path / "evaluation"
        write_table(pairs.captions, tmp_path / "captions.parquet")
        made_by = {name: pa.array([""] * len(pairs.negatives)) for name in GENERATOR_COLUMNS}
        negatives = pa.table(
            {**dict(zip(pairs.negatives.column_names, pairs.negatives.columns, strict=True)), **made_by}
        )
        write_table(negatives, tmp_path / "negatives.parquet")
        given = [f"evaluation.sets.own.{name}={tmp_path / f'{name}.parquet'}" for name in ("captions", "negatives")]
        given += [f"evaluation.sets.own.image_root={pairs.root}", f"output_dir={out}", "evaluation.bootstrap=100"]
        code = main(["evaluate", str(trained), *given, "accelerator=cpu", *words])
        if code or not (out / "metrics.csv").is_file():  # of several scorers, each has a folder
            return code, {}, []
        with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return code, json.loads((out / "summary.json").read_text())["sets"]["own"], list(csv.DictReader(file))

    return call


def test_an_evaluation_on_training_images_says_so_everywhere(
    evaluate: Any, trained: Path, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = mixed_set(tables)
    trained_pairs = pairs_of(pairs, "new", "1")
    _, summary, rows = evaluate(pairs, "logging.wandb=offline")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("own: ")]
    assert line == (
        f"own: 2 of 4 images ({trained_pairs} of {len(pairs.negatives)} items) are training images of the run, such as "
        "'1', 'new'; exclude_training_images=true leaves them out"
    )
    counts = summary["training_pairs"]
    kinds = counts.keys() - {"", "mean"}
    assert counts[""] == counts["mean"] == trained_pairs == sum(counts[kind] for kind in kinds)
    assert counts.keys() == {row["group"] for row in rows}
    assert summary["training_images"] == 2
    assert (summary["same_ids_other_content"], summary["excluded_pairs"]) == (1, 0)
    # in the run that the training would have, had it logged
    logged = read_wandb(trained).values
    assert logged["evaluate/own/training_images"] == 2
    assert logged["evaluate/own/training_pairs"] == trained_pairs


def test_images_of_a_set_are_hashed_once_for_several_scorers(
    evaluate: Any, trained: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "same").symlink_to(trained)
    hashed: list[Path] = []

    def counting(path: Path) -> tuple[int, str]:
        hashed.append(path)
        return content_hash(path)

    monkeypatch.setattr(train_images, "content_hash", counting)
    pairs = mixed_set(tables)
    evaluate(pairs, str(tmp_path / "same"), "logging.wandb=disabled")
    assert len(hashed) == len(set(pairs.captions["image"].to_pylist()))
    summaries = [json.loads((tmp_path / "evaluation" / name / "summary.json").read_text()) for name in ("run", "same")]
    assert [summary["sets"]["own"]["training_images"] for summary in summaries] == [2, 2]


def test_training_images_are_left_out_on_request(
    evaluate: Any, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = mixed_set(tables)
    left = pairs_of(pairs, "train-2", "balanced-1")
    _, summary, rows = evaluate(pairs, "exclude_training_images=true", "logging.wandb=disabled")
    assert f"own: {left} of {len(pairs.negatives)} pairs are left" in capsys.readouterr().out
    assert {row["image_id"] for row in pq.read_table(tmp_path / "evaluation/own/pairs.parquet").to_pylist()} == {
        "train-2",
        "balanced-1",
    }
    assert (summary["pairs"], summary["excluded_pairs"]) == (left, len(pairs.negatives) - left)
    assert summary["left_out"] == {"trained on": len(pairs.negatives) - left}
    assert (summary["training_images"], {*summary["training_pairs"].values()}) == (0, {0})
    assert {int(row["count"]) for row in rows if row["metric"] == "accuracy" and not row["group"]} == {left}


@pytest.mark.parametrize(("column", "values"), [("label", [1, 1, 0]), ("rating", [2.0, 2.0, 5.0])])
def test_what_is_left_without_training_images_is_checked_before_it_is_scored(column: str, values: list[Any]) -> None:
    names = [f"i{row}" for row in range(3)]
    key = pa.table({"item_id": names, "image_id": names, "text_id": ["t"] * 3, "group": [""] * 3, column: values})
    images, texts = pa.table({"image_id": names, "image": names}), pa.table({"text_id": ["t"], "text": ["a"]})
    one = Benchmark("own", f"{column}s", images, texts, key, Path(), key.select(["image_id", "text_id"]))
    kept = without_training_images({"own": one}, {"own": Overlap(frozenset({"i0"}), 3, 1, 3, 0)})
    assert kept["own"].key[column].to_pylist() == values[1:]
    with pytest.raises(InputError, match=f"own without the training images: {column}s .* leave exclude_training_im"):
        without_training_images({"own": one}, {"own": Overlap(frozenset({"i2"}), 3, 1, 3, 0)})


def test_a_set_of_training_images_alone_is_not_evaluated_without_them(
    evaluate: Any, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = read_pairs(tables / "train/captions.parquet", tables / "train/negatives.parquet")
    code, _, _ = evaluate(replace(own, root=tables / "train"), "exclude_training_images=true")
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        f"evaluation.sets.own must have images that the run was not trained on, all of its {len(own.negatives)}" in line
    )
    assert not (tmp_path / "evaluation").exists()


def test_a_training_records_its_images_before_its_first_step(trained: Path, tables: Path, tmp_path: Path) -> None:
    recorded = read_train_images(trained)
    assert recorded is not None
    assert recorded.ids == {f"train-{number}" for number in range(6)}
    shutil.copytree(tables / "train", tmp_path / "train")
    image = tmp_path / "train/images/train-0.png"
    image.write_bytes(b"no image")
    words = [f"data.{name}={tmp_path / 'train' / f'{name}.parquet'}" for name in ("captions", "negatives")]
    words += [*TINY_OVERRIDES, "data.batch_size=64", f"output_dir={tmp_path / 'run'}", "logging.wandb=disabled"]
    assert main(["train", "experiments/configs/llava_tiny_scenes.yaml", *words]) == 2, "no step is made"
    assert content_hash(image)[1] in pq.read_table(tmp_path / "run" / TRAIN_IMAGES_FILE)["content_hash"].to_pylist()
