"""Sweeps of W&B: their YAML, and the trials that its agents start."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from experiments.__main__ import main
from experiments.config.layers import ConfigError, Layers
from experiments.runs.wandb_id import recorded_id
from experiments.sweeping.wandb_export import wandb_files
from experiments.verb_table import Verb
from experiments.verbs import sweep
from tests.sweeps import settings_of, write_sweep
from tests.tiny import tiny_tables
from tests.wandb_log import read_offline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tables(tmp_path / "scenes")
    return tmp_path


def words_of_agents(file: Path) -> list[list[str]]:
    """What W&B's agents would write behind `itm`, for every point of a grid."""
    content = yaml.safe_load(file.read_text())
    assert content["method"] == "grid"
    parameters = content["parameters"]
    points = itertools.product(*(one["values"] for one in parameters.values()))
    env, itm, *words, last = content["command"]
    assert (env, itm, last) == ("${env}", "itm", "${args}")
    return [[*words, *(f"--{key}={value}" for key, value in zip(parameters, point, strict=True))] for point in points]


def test_a_trial_trains_what_a_run_of_the_sweep_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": {}, "b": {"optim.weight_decay": 0.5}}
    variants = {"size": {"small": {"model.tiny.layers": 2}, "large": {"model.tiny.layers": 3}}}
    path = write_sweep(folder, runs=runs, variants=variants, grid={"optim.lr": [0.1, 1e-05], "seed": [0, 1]})
    assert main(["sweep", str(path), "--wandb-export"]) == 0
    words = words_of_agents(folder / "out-wandb/sweep.yaml")
    given: list[Any] = []
    monkeypatch.setattr("experiments.verbs.train.run", lambda config, **flags: given.append((config, flags)))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setattr("experiments.runs.tracking.check_logging", lambda _: None)
    for number, line in enumerate(words):
        monkeypatch.setenv("WANDB_RUN_ID", f"trial{number}")
        assert main(line) == 0
    assert len(given) == 16
    assert all(flags["resume"] for _, flags in given)
    folders = {config.output_dir for config, _ in given}
    assert len(folders) == 16, "each trial has a folder of its own"
    assert f"{folder}/out/trials/a-small/trial0" in folders
    assert {config.logging.wandb for config, _ in given} == {"online"}
    runs_of_sweep = settings_of(sweep.load(path, [])).values()
    wanted = [
        (one["optim"]["lr"], one["seed"], one["model"]["tiny"]["layers"], one["optim"]["weight_decay"])
        for one in runs_of_sweep
    ]
    found = [(c.optim.lr, c.seed, c.model.tiny.layers, c.optim.weight_decay) for c, _ in given]
    assert sorted(found) == sorted(wanted)


def test_a_trial_reports_to_the_run_that_the_agent_has_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(folder, grid={"optim.lr": [0.1]})
    assert main(["sweep", str(path), "--wandb-export"]) == 0
    ((*words,),) = words_of_agents(folder / "out-wandb/sweep.yaml")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    assert main([*words, "--logging.wandb=offline"]) == 0
    run = folder / "out/trials/mine/trial7"
    assert recorded_id(run) == read_offline(run, 0).run_id == "trial7"
    assert (run / "weights.safetensors").is_file()


def test_the_metric_is_that_of_the_best_weights(folder: Path) -> None:
    assert metric(folder) == {"name": "train/loss/value", "goal": "minimize"}
    tables = {name: str(folder / f"scenes/train/{name}.parquet") for name in ("captions", "negatives")}
    data = {"data": {"validation": tables}}
    assert metric(folder, experiment=data) == {"name": "val/mean/accuracy", "goal": "maximize"}
    trainer = {"best_metric": "val/swap_obj/accuracy", "keep_best": 1}
    assert metric(folder, experiment={**data, "trainer": trainer})["name"] == "val/swap_obj/accuracy"


def metric(folder: Path, **content: Any) -> dict[str, str]:
    files = wandb_files(sweep.load(write_sweep(folder, grid={"seed": [0]}, **content), []))
    found: dict[str, str] = yaml.safe_load(files["sweep.yaml"])["metric"]
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"zip": [["seed", "optim.lr"]]}, "`zip` must be left out of a sweep for W&B"),
        ({"exclude": [{"seed": 0, "optim.lr": 0.1}]}, "`exclude` must be left out"),
        ({"include": [{"seed": 5}]}, "`include` must be left out"),
        ({"runs": {"sweep": {}}}, "`runs` must name no run 'sweep'"),
    ],
)
def test_what_a_grid_of_wandb_cannot_say_is_one_line(content: dict[str, Any], said: str, folder: Path) -> None:
    config = sweep.load(write_sweep(folder, grid={"seed": [0, 1], "optim.lr": [0.1, 0.2]}, **content), [])
    with pytest.raises(ConfigError, match=said):
        wandb_files(config)


@pytest.mark.parametrize("value", [None, True, 1e-05, 3, "all", [0.9, 0.98], [None, "a"], {"a": None}])
def test_values_arrive_as_the_grid_has_them(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def configure(_name: str, _verb: Verb, words: list[str], **_: Any) -> None:
        given.extend(words)

    monkeypatch.setattr("experiments.__main__._configure", configure)
    monkeypatch.setattr("experiments.config.trials.in_trial", lambda config, _: config)
    monkeypatch.setattr("experiments.__main__.run_verb", lambda *_, **__: 0)
    command = {"args": {"some.key": {"value": value}}}
    assert main(["train", *create_sweep_command_args(command)["args"]]) == 0
    layers = Layers()
    layers.override(given[0])
    found = layers.tree["some"]["key"]
    assert (found, type(found)) == (value, type(value))


def test_a_list_that_a_person_writes_is_yaml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [f"data.{name}={folder}/scenes/train/{name}.parquet" for name in ("captions", "negatives")]
    words = ["train", "experiments/configs/llava_tiny_scenes.yaml", *tables, "--dry-run"]
    assert main([*words, "--model.adapter.targets=[language_model, projector]"]) == 0
    assert "- language_model" in capsys.readouterr().out


def test_words_of_an_agent_are_settings_and_flags_stay_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [f"--data.{name}={folder}/scenes/train/{name}.parquet" for name in ("captions", "negatives")]
    words = ["train", "experiments/configs/clip_tiny_scenes.yaml", *tables, "--dry-run"]
    assert main([*words, "--optim.lr=1e-4", "--seed=3", "--resume=auto"]) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.0001" in printed
    assert "seed: 3" in printed
    assert main([*words, "--overwrit"]) == 2
    assert "unrecognized arguments: --overwrit" in capsys.readouterr().err
    assert main([*words, "--optim.rl=1"]) == 2
    assert "`optim.rl` is no known key" in capsys.readouterr().err
