"""What holds for the folder of every verb: one process at a time, a full disk, what a kill or a bad disk leaves."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from experiments.commands import VERBS
from negatives.tables import hold, write_table
from tests.tiny import TINY_OVERRIDES, tiny_tables

QUICK = ["judge.judges=[word]", "judge.folds=3", "judge.workers=1", "logging.wandb=disabled"]
PROBES = ["certificate.probes=[bayes]", "certificate.folds=3", "certificate.seeds=1", "certificate.bootstrap=100"]
SWEEP = """
output_dir: nowhere
name: tiny
prepare:
  scenes: {verb: generate, config: {generator: scenes, scenes: {train: 2, held_out: 2, image_size: 16}}}
"""
INPUTS: dict[str, Callable[[Path], list[str]]] = {
    "generate": lambda data: ["generator=scenes", "scenes.train=2", "scenes.held_out=2", "scenes.image_size=16"],
    "audit": lambda data: [*tables(data, "train"), *QUICK, "bootstrap=100"],
    "filter": lambda data: [*tables(data, "train"), *QUICK, *PROBES, "certificate.tolerance=0.5", "unit=pair"],
    "train": lambda data: train_words(data),
    "evaluate": lambda data: [
        str(data / "run"), *(f"evaluation.sets.balanced.{word}" for word in tables(data, "balanced")),
        "evaluation.bootstrap=100", "logging.wandb=disabled",
    ],
    "compare": lambda data: [str(data / "run"), "bootstrap=100", "logging.wandb=disabled"],
    "score": lambda data: [f"run={data}/run", f"captions={data}/train/captions.parquet", "shard_size=2"],
    "export": lambda data: [str(data / "run")],
    "neighbours": lambda data: [f"run={data}/run", f"captions={data}/train/captions.parquet"],
    "sweep": lambda data: [str(data / "sweep.yaml")],
}  # fmt: skip
"""Verb -> its arguments without `output_dir`; `itm demo` is a sweep."""
every_verb = pytest.mark.parametrize("verb", INPUTS)


def tables(data: Path, split: str) -> list[str]:
    return [f"{name}={data / split / f'{name}.parquet'}" for name in ("captions", "negatives")]


def train_words(data: Path) -> list[str]:
    model = ["model.backbone=clip", "model.loss=contrastive", "trainer.log_every=1", "trainer.checkpoint_every=1"]
    words = [*(f"data.{word}" for word in tables(data, "train")), "logging.wandb=disabled", *TINY_OVERRIDES]
    return ["experiments/configs/clip_tiny_scenes.yaml", *model[2:], *words, "trainer.max_steps=2"]


def command(verb: str, data: Path, output: Path, *flags: str) -> list[str]:
    return [verb, *INPUTS[verb](data), f"output_dir={output}", *flags]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verbs read: tables, a run that is trained and evaluated, and a sweep."""
    folder = tmp_path_factory.mktemp("data")
    tiny_tables(folder)
    (folder / "sweep.yaml").write_text(SWEEP)
    assert main(command("train", folder, folder / "run")) == 0
    assert main(command("evaluate", folder, folder / "run/evaluation")) == 0
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """What a verb has made, and not when, where and by whom."""
    kinds = (".parquet", ".safetensors", ".csv", ".json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds and path.name not in ("provenance.json", "manifest.json", "base.json")
    }


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("itm: error: ")
    return line


def test_every_verb_is_tried() -> None:
    assert INPUTS.keys() == VERBS.keys() - {"demo"}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A disk that takes no more of a file than `size` bytes: the system refuses the write, as it does on a full one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@every_verb
def test_a_full_disk_is_one_line_and_what_was_begun_goes_on(
    verb: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the first byte, and at the last one of the largest file."""
    whole = tmp_path / "whole"
    assert main(command(verb, data, whole)) == 0
    expected = results(whole)
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    capsys.readouterr()
    for size in (0, largest - 1):
        out = tmp_path / str(size)
        words = command(verb, data, out)
        with full_disk(size):
            assert main(words) == 2
        told = {"train": "could not be written to its end", "sweep": "prepare/scenes"}
        assert told.get(verb, "File too large") in one_line(capsys)
        assert main([*words, "--resume=auto"]) == 0
        assert results(out) == expected
        assert [path.name for path in tmp_path.rglob(".*")] == []
        capsys.readouterr()
