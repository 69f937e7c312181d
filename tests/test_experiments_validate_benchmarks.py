"""Benchmarks during training: the numbers of an evaluation, in the validations that are due, and nothing else moves."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from datamodules.benchmarks import read_benchmark
from experiments.__main__ import main
from experiments.config.load import load_config
from experiments.config.schemas import ExperimentConfig
from experiments.report.comparison.reading.curves import read_curves
from experiments.scoring.engine import EngineSettings
from experiments.scoring.models import answer_pairs
from experiments.scoring.ranks import World
from experiments.scoring.requests import join
from experiments.scoring.sets import ask
from experiments.scoring.store import Memory
from experiments.validate_benchmarks import ValidateBenchmarks, ValidationBenchmarks, read_validation_benchmarks
from lightning_modules.kept_weights import read_kept
from tests.benchmark_files import photos
from tests.launch import log_tail, start_ranks
from tests.test_experiments_resume import DROPOUT, assert_same_run, train_until_killed
from tests.test_experiments_train import train_words
from tests.tiny import tiny_backbone, tiny_tables

ITEMS = 7
BEST = "val/own/auroc"
CLIP = [f"model.{word}" for word in ("backbone=clip", "loss=null", "system=null", "question=null", "train_vision=null")]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and a Winoground whose photos and captions are of a training's vocabulary."""
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    sides = [f"ex_{number}_img_{side}" for number in range(ITEMS) for side in (0, 1)]
    photos(folder / "winoground", *(f"images/{name}.png" for name in sides))
    captions = ("a red circle left of a blue square", "a blue square left of a red circle")
    lines = [
        {
            **{"id": number, "tag": "", "num_main_preds": 1, "collapsed_tag": ["Object", "Both"][number % 2]},
            **{"image_0": f"ex_{number}_img_0", "image_1": f"ex_{number}_img_1", "secondary_tag": ""},
            **{f"caption_{side}": f"{caption} {'a ' * number}" for side, caption in enumerate(captions)},
        }
        for number in range(ITEMS)
    ]
    (folder / "winoground/examples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def plain_words(tables: Path, run: Path, *words: str) -> list[str]:
    """A training of six steps with dropout, validated after each."""
    held_out = {name: tables / "balanced" / f"{name}.parquet" for name in ("captions", "negatives")}
    pairs = [f"data.validation.{name}={path}" for name, path in held_out.items()]
    length = ["trainer.max_steps=6", "trainer.validate_every=1", "trainer.log_every=1", "optim.lr=0.05"]
    return train_words(tables, run, *DROPOUT, *pairs, *length, "trainer.checkpoint_every=1", *words)


def words_for(tables: Path, run: Path, *words: str) -> list[str]:
    """The same with two benchmarks in every second validation, one of which decides which weights are the best."""
    sets = {"format": "winoground", "annotations": tables / "winoground", "image_root": tables / "winoground/images"}
    benchmarks = [f"evaluation.sets.hard.{key}={value}" for key, value in sets.items()]
    benchmarks += [
        f"evaluation.sets.own.{name}={tables / f'balanced/{name}.parquet'}" for name in ("captions", "negatives")
    ]
    benchmarks += ["trainer.validate_benchmarks=[hard,own]", "trainer.validate_benchmarks_every=2"]
    return plain_words(tables, run, *benchmarks, "trainer.keep_best=1", f"trainer.best_metric={BEST}", *words)


@pytest.fixture(scope="module")
def trained(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with (run.parent / "said.txt").open("w", encoding="utf-8") as said, redirect_stdout(said):
        assert main(words_for(tables, run)) == 0
    return run


def evaluated(run: Path, folder: Path) -> dict[str, float]:
    """What `itm evaluate` finds, by the names of a training's log."""
    assert main(["evaluate", str(run), f"output_dir={folder}", "logging.wandb=disabled", "accelerator=cpu"]) == 0
    rows = [row for row in csv.DictReader((folder / "metrics.csv").open()) if row["group"] in ("", "mean")]
    return {
        f"val/{row['set']}/{row['group']}{'_' if row['group'] else ''}{row['metric']}": float(row["value"])
        for row in rows
    }


def last_of(run: Path) -> dict[str, float]:
    """What the last validation found of the benchmarks."""
    curves = read_curves(run / "logs")
    # a validation is logged with the number of the step before
    return {name: points[5] for name, points in curves.items() if name.startswith(("val/hard/", "val/own/"))}


def test_the_last_validation_has_the_metrics_of_an_evaluation(trained: Path, tmp_path: Path) -> None:
    found = evaluated(trained, tmp_path / "evaluation")
    assert found.keys() >= {"val/hard/average", "val/hard/mean_group", "val/own/mean_accuracy"}
    assert last_of(trained) == pytest.approx(found)
    assert len({*found.values()}) > 3, "or they would show nothing"
    said = (trained.parent / "said.txt").read_text(encoding="utf-8")
    # Winoground's is over its items, the tables' is the mean over their types
    for main_metric in ("hard/group", "own/mean_accuracy"):
        assert f"step 6, {main_metric} {found[f'val/{main_metric}']:.3f}\n" in said


@pytest.mark.slow  # two ranks are two processes
@pytest.mark.parametrize(
    ("strategy", "own", "tolerance"),
    # half precision moves neighbouring logits past each other
    [("ddp", [], 1e-6), ("fsdp", ["trainer.precision=bf16-mixed"], 0.1), ("fsdp", CLIP, 1e-6)],
    ids=["ddp", "fsdp_mixed", "fsdp_clip"],
)
def test_two_ranks_share_a_validation_and_find_what_one_process_finds(
    strategy: str, own: list[str], tolerance: float, tables: Path, tmp_path: Path
) -> None:
    """Sixteen images in batches of six: three units, so that one rank has a batch more than the other."""
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["data.batch_size=6", "trainer.devices=2", f"trainer.strategy={strategy}", *own]
    ranks = start_ranks(log, main, words_for(tables, run, *words))
    ranks.join(120)
    assert ranks.exitcode == 0, log_tail(log)
    assert last_of(run) == pytest.approx(evaluated(run, tmp_path / "evaluation"), abs=tolerance)
    assert read_kept(run / "checkpoints").metric == BEST


def test_benchmarks_are_scored_in_validations_that_are_due_and_one_of_these_is_the_best(trained: Path) -> None:
    curves = read_curves(trained / "logs")
    assert [*curves[BEST]] == [*curves["val/hard/group"]] == [1, 3, 5]
    assert [*curves["val/mean/accuracy"]] == [0, 1, 2, 3, 4, 5]
    assert len({*curves[BEST].values()}) > 1, "or the order would show nothing"
    (kept,) = read_kept(trained / "checkpoints").kept
    assert kept.step - 1 == max(curves[BEST], key=lambda step: (curves[BEST][step], -step))
    assert kept.value == pytest.approx(curves[BEST][kept.step - 1])


def test_a_training_has_the_weights_that_it_has_without_benchmarks_and_leaves_no_scores(
    trained: Path, tables: Path, tmp_path: Path
) -> None:
    assert main(plain_words(tables, tmp_path / "plain")) == 0
    plain, files = tmp_path / "plain", {"best.json", *(path.name for path in trained.rglob("step-*"))}
    assert (trained / "weights.safetensors").read_bytes() == (plain / "weights.safetensors").read_bytes()
    one, two = read_curves(trained / "logs"), read_curves(plain / "logs")
    assert {name: one[name] for name in two} == two
    # of an evaluation of the same run, which another test may have made, nothing
    names = [{path.name for path in run.rglob("*") if "evaluation" not in path.parts} for run in (trained, plain)]
    assert names[0] - names[1] == files


def test_an_interrupted_training_goes_on_with_the_same_benchmarks(
    trained: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words_for(tables, tmp_path / "parts")
    train_until_killed(command, 3, monkeypatch)
    assert main([*command, "--resume"]) == 0
    assert_same_run(trained, tmp_path / "parts")
    kept = [(run / "checkpoints/best.json").read_text() for run in (trained, tmp_path / "parts")]
    assert kept[0] == kept[1]


def test_a_benchmark_of_training_images_is_told_before_the_first_step(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(tables / "winoground/images", images)
    for number in range(2):
        shutil.copy(tables / f"train/images/train-{number}.png", images / f"ex_{number}_img_0.png")
    monkeypatch.setattr("experiments.verbs.train.fit", lambda *_: pytest.fail("a step"))
    with pytest.raises(pytest.fail.Exception, match="a step"):
        main(words_for(tables, tmp_path / "run", f"evaluation.sets.hard.image_root={images}"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "training images" in line]
    assert lines == [
        f"hard: 2 of {2 * ITEMS} images (2 of {ITEMS} items) are training images of the run, such as 'ex_0_img_0', "
        "'ex_1_img_0'; its curve is no measure of other images."
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["trainer.validate_benchmarks=[hart]"],
            "must name `evaluation.sets` (hard, own), got 'hart'. Did you mean hard?",
        ),
        (["data.validation=null", "trainer.keep_best=0"], "`data.validation` must be given where `trainer.validate_"),
        (["trainer.max_steps=-1", "trainer.validate_every=null"], "must be at most `trainer.max_epochs`, got 2 and 1"),
        (["trainer.best_metric=val/hard/grup"], "Did you mean val/hard/group?"),
        (["trainer.best_metric=val/own/wrong_word"], "data.validation and trainer.validate_benchmarks give ("),
        (["evaluation.sets.mean=${evaluation.sets.own}", "trainer.validate_benchmarks=[mean]"], "rename the set in"),
        ([*CLIP, "trainer.best_metric=val/own/p_c"], "must be one that needs no threshold, got val/own/p_c"),
        (["evaluation.sets.hard.image_root=tests"], "none of its images lies in tests; set image_root"),
        (["evaluation.sets.hard.annotations=tests"], "tests holds no Winoground file"),
    ],
)
def test_what_cannot_be_validated_is_one_line_before_the_first_step(
    words: list[str], why: str, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_for(tables, tmp_path / "run", *words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert why in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def benchmarks(tables: Path) -> ValidationBenchmarks:
    _, recipe, *words = words_for(tables, tables / "run")
    found = read_validation_benchmarks(load_config(ExperimentConfig, Path(recipe), words))
    assert found is not None
    return found


def test_a_validation_with_workers_leaves_the_random_state_of_the_training_alone(
    benchmarks: ValidationBenchmarks,
) -> None:
    trainer: Any = SimpleNamespace(global_rank=0, world_size=1, precision="32-true", global_step=0)
    module, before = tiny_backbone("clip"), torch.get_rng_state()
    callback = ValidateBenchmarks(benchmarks, EngineSettings(workers=1), every=1)
    found = callback._score(trainer, module)
    assert found.keys() >= {"val/hard/group", "val/own/mean_accuracy"}
    assert torch.equal(torch.get_rng_state(), before)


def test_where_there_is_one_validation_in_an_epoch_every_second_epoch_is_due(benchmarks: ValidationBenchmarks) -> None:
    callback = ValidateBenchmarks(benchmarks, EngineSettings(), every=2)
    epochs: list[Any] = [SimpleNamespace(check_val_every_n_epoch=1, current_epoch=epoch) for epoch in range(4)]
    assert [callback.due(trainer) for trainer in epochs] == [False, True, False, True]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_validation_computes_in_the_precision_of_the_training_and_a_sharded_network_by_its_forward(
    sharded: bool, benchmarks: ValidationBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, modes = tiny_backbone("clip"), {}
    module._device_mesh = "a mesh" if sharded else None
    for name in ("logits", "encode_images"):
        compute = getattr(module, name)

        def watched(inputs: Any, name: str = name, compute: Any = compute) -> torch.Tensor:
            modes[name] = (torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())
            return compute(inputs)

        monkeypatch.setattr(module, name, watched)
    plugin = MixedPrecision("bf16-mixed", "cpu")
    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=1, precision="bf16-mixed", precision_plugin=plugin, global_step=0
    )
    assert ValidateBenchmarks(benchmarks, EngineSettings(), every=1)._score(trainer, module)
    assert modes == {"logits" if sharded else "encode_images": (True, False)}


@pytest.mark.parametrize(("in_step", "batches"), [(False, 1), (True, 2)])
def test_ranks_with_sharded_weights_compute_equally_many_batches(
    in_step: bool, batches: int, benchmarks: ValidationBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, store, sizes = tiny_backbone("clip"), Memory(), []
    logits = module.logits
    monkeypatch.setattr(module, "logits", lambda batch: sizes.append(len(batch.image_ids)) or logits(batch))
    # sixteen images are four units: the first of three ranks has two
    settings = EngineSettings(batch_size=4, unit_rows=4, in_step=in_step)
    assert answer_pairs(module, torch.device("cpu"), benchmarks.requests, store, settings, World(1, 3)) is None
    assert sizes == [4, 1][:batches], "what is computed for nobody is small"
    assert len(store.files("pairs")) == 1


def test_metrics_that_are_better_when_lower_choose_no_weights(tables: Path) -> None:
    captions = tables / "balanced/captions.parquet"
    retrieval = read_benchmark("captions_retrieval", annotations=captions, image_root=captions.parent)
    names = ValidationBenchmarks({"all": retrieval}, join([ask(retrieval)])).metrics()
    assert "val/all/recall_mean" in names
    assert not [name for name in names if name.endswith("_rank")]
