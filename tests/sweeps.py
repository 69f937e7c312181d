"""Sweeps for the tests: their files, and verbs that do no work but leave what a finished one leaves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.config.sweep_schemas import SweepConfig
from experiments.runs.outputs import OutputFolder
from experiments.sweeping import children
from experiments.sweeping.manifest import Manifest, Record
from experiments.sweeping.plan import run_settings
from experiments.sweeping.points import points
from experiments.verb_table import TASKS, Verb
from tests.tiny import TINY_OVERRIDES

LAST = {"train": "weights.safetensors", "evaluate": "summary.json", "compare": "index.html"}
FAILS, RAN = "fails", "ran"


def write_sweep(folder: Path, **content: Any) -> Path:
    """A sweep of tiny CLIPs over the tables that `tiny_tables(folder / "scenes")` makes; `content` comes on top."""
    data = {name: str(folder / f"scenes/train/{name}.parquet") for name in ("captions", "negatives")}
    held_out = {"balanced": {name: str(folder / f"scenes/balanced/{name}.parquet") for name in data}}
    base = str(Path("experiments/configs/clip_tiny_scenes.yaml").absolute())
    experiment = OmegaConf.merge(
        {"base": base, "data": data, "evaluation": {"sets": held_out, "bootstrap": 100}},
        OmegaConf.from_dotlist([*TINY_OVERRIDES, "trainer.max_steps=2"]),
        content.pop("experiment", {}),
    )
    own = {
        "name": "mine",
        "output_dir": str(folder / "out"),
        "logging": {"wandb": "disabled"},
        "experiment": experiment,
    }
    path = folder / "sweep.yaml"
    # without a resolver: what the sweep refers to is its own
    path.write_text(OmegaConf.to_yaml({**own, "compare": {"bootstrap": 100}, **content}), encoding="utf-8")
    return path


def settings_of(config: SweepConfig) -> dict[str, dict[str, Any]]:
    """Name of a run -> its settings, unchecked, of a sweep that was loaded."""
    return {point.name: run_settings(config, point) for point in points(config)}


def records(folder: Path, output: str = "out") -> dict[str, Record]:
    """Name of a task -> its record."""
    return {record.name: record for record in Manifest(folder / output).read().values()}


def states(folder: Path, output: str = "out") -> dict[str, str]:
    """Name of a task -> its state."""
    return {name: record.state for name, record in records(folder, output).items()}


def idle_verbs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes of sweeps do nothing but take their folder, and leave what a finished verb leaves.

    A task fails whose name is a line of the file `fails`. Every task that has begun is a line of the file `ran`.
    """

    def run_verb(verb: Verb, config: Any, *, resume: bool = False, overwrite: bool = False) -> int:
        name = next(name for name, row in TASKS.items() if row is verb)
        with (folder / RAN).open("a") as file:
            place = Path(config.output_dir).relative_to(folder / "out")
            file.write(f"{name} {place} {os.getppid()}\n")
        result = LAST.get(name, "result")
        output = OutputFolder(config, verb=name, result=result, resume=resume, overwrite=overwrite, kept=("store",))
        if output.finished:
            return 0
        path = output.claim()
        fails = folder / FAILS
        if fails.exists() and str(place) in fails.read_text().splitlines():
            print("first the cause\nthen \x1b[31m<b>why</b>")
            return 2
        (path / result).write_text(json.dumps({"of": str(place)}))
        if name == "generate":
            shutil.copytree(folder / "scenes/train", path / "train")
        return 0

    monkeypatch.setattr(children, "run_verb", run_verb)


def ran(folder: Path) -> list[str]:
    """What has run since the last call: verb and folder, sorted."""
    file = folder / RAN
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(" ".join(line.split()[:2]) for line in lines)
