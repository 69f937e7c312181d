"""The README's commands run, at tiny size, in the order in which they stand."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from experiments.__main__ import main
from experiments.commands import VERBS
from experiments.config.load import load_config
from experiments.config.schemas import ExperimentConfig
from tests.test_experiments_sweep import TINY_DEMO
from tests.tiny import TINY_OVERRIDES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAIR = ("data/scenes/balanced/images/balanced-0-swap_att.png", "a red circle above a blue bar")
TINY = {
    "generate": ["scenes.train=12", "scenes.held_out=2", "scenes.image_size=16"],
    "audit": ["judge.folds=3", "logging.wandb=disabled"],
    "filter": ["rule=top_fraction", "judge.folds=3", "certify=false"],
    "train": [*TINY_OVERRIDES, "logging.wandb=disabled"],
    "evaluate": ["logging.wandb=disabled", "evaluation.bootstrap=100"],
    "compare": ["logging.wandb=disabled", "bootstrap=100"],
    "sweep": TINY_DEMO,
}


def commands(language: str) -> list[list[str]]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_road_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = commands("bash")
    assert [line[1] for line in lines] == [
        *("generate", "audit", "filter", "train", "evaluate", "compare", "score", "export", "sweep", "sweep")
    ]
    for itm, verb, *words in lines:
        assert itm == "itm"
        assert main([verb, *words, *TINY.get(verb, [])]) == 0, [verb, *words]
    for made in ("runs/audit/audit.json", "runs/comparison/index.html", "runs/scores/scores.parquet"):
        assert (tmp_path / made).is_file()
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    seen: dict[str, Any] = {}
    exec(code.replace("scorer.score(", "value = scorer.score("), seen)
    assert 0 < seen["value"] < 1
    exported = seen["load_scorer"]("runs/exported")
    assert seen["scorer"].score(*PAIR) == pytest.approx(exported.score(*PAIR), abs=1e-6)


def test_the_command_for_larger_machines_resolves() -> None:
    (itm, verb, file, *words), _ = commands("console")
    assert (itm, verb) == ("itm", "train")
    assert load_config(ExperimentConfig, file, words, check_files=False).model.tune == "lora"


def test_the_command_for_real_photos_resolves(shared: Path) -> None:
    assert shared.is_dir()
    _, (itm, *words) = commands("console")
    assert itm == "itm"
    assert main([*words, "--dry-run"]) == 0


def resolved(words: Sequence[str]) -> ExperimentConfig:
    """The configuration of `train FILE key=value ...`; raises on what is no such command."""
    verb, file, *overrides = words
    assert verb == "train"
    return load_config(ExperimentConfig, file, overrides, check_files=False)


def test_launches_by_torchrun_start_as_many_ranks_as_the_trainer_expects() -> None:
    launches = [words for name, *words in commands("sh") if name == "torchrun"]
    assert len(launches) == 2
    for words in launches:
        launcher = get_args_parser().parse_args(words)
        assert launcher.module
        assert launcher.training_script == "experiments"
        trainer = resolved(launcher.training_script_args).trainer
        assert int(launcher.nproc_per_node) == trainer.devices
        assert int(launcher.nnodes.split(":")[-1]) == trainer.num_nodes


def test_the_slurm_launch_starts_as_many_ranks_as_the_trainer_expects() -> None:
    ((_, *words),) = [words for words in commands("sh") if words[0] == "sbatch"]
    parser = argparse.ArgumentParser()
    for flag in ("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--wrap", required=True)
    job = parser.parse_args(words)
    srun, kill, itm, *rest = shlex.split(job.wrap)
    assert (srun, kill, itm) == ("srun", "--kill-on-bad-exit=1", "itm")
    config = resolved(rest)
    assert (job.ntasks_per_node, job.nodes) == (config.trainer.devices, config.trainer.num_nodes)
    assert job.gpus_per_node == config.trainer.devices
    assert job.cpus_per_task > config.data.num_workers


def test_every_verb_is_explained() -> None:
    for verb in VERBS:
        assert f"`itm {verb}`" in README


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:experiments|datamodules|lightning_modules|negatives|tests)/[\w/.]+\.\w+)`", README):
        assert (ROOT / name).is_file(), name


def test_the_picture_of_the_layout_is_true() -> None:
    picture = README[README.index("## Layout") :].split("```")[1]
    drawn = {}
    for line in re.sub(r"\n\s+", " ", picture).strip().splitlines():
        folder, *names = line.split()
        drawn[folder] = set(names)
    for package in ("lightning_modules", "datamodules", "negatives", "experiments"):
        for folder in {path.parent for path in (ROOT / package).rglob("[!_]*.py")}:
            present = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
            assert drawn.pop(f"{folder.relative_to(ROOT)}/") == present
    assert not drawn
