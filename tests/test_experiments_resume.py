"""`itm train --resume`: an interrupted run ends as the unbroken one, and a file that does not fit is one line."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from experiments.__main__ import main
from experiments.config.schemas import LoggingConfig
from experiments.report.read_runs import read_curves
from lightning_modules.base import AlignmentModule
from tests.backbones import save_published
from tests.launch import start, start_ranks
from tests.test_experiments_train import train_words
from tests.tiny import tiny_module, tiny_tables

ROOT = Path(__file__).parent.parent
DROPOUT = ["model.tune=lora", "model.adapter.rank=4", "model.adapter.alpha=8", "model.adapter.dropout=0.5"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captions: epochs of three batches of four."""
    folder = tmp_path_factory.mktemp("scenes")
    tiny_tables(folder)
    return folder


def validation(tables: Path) -> list[str]:
    return [f"data.validation.{name}={tables / 'balanced' / f'{name}.parquet'}" for name in ("captions", "negatives")]


class KilledError(Exception):
    pass


def kill_at_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes training end without a chance to clean up before the batch of this number, counted from now."""
    start, left = AlignmentModule.on_train_batch_start, [number]

    def on_train_batch_start(self: AlignmentModule, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        start(self, *arguments)

    monkeypatch.setattr(AlignmentModule, "on_train_batch_start", on_train_batch_start)


def assert_same_run(one: Path, two: Path) -> None:
    """The same weights to the byte, and the same value of every metric at every step."""
    assert (one / "weights.safetensors").read_bytes() == (two / "weights.safetensors").read_bytes()
    curves = read_curves(one / "logs")
    assert curves == read_curves(two / "logs")
    assert "train/loss/value" in curves
    if "train/rank_threshold/swap_att" in curves:
        assert len({value for name in curves if "/rank_threshold/" in name for value in curves[name].values()}) > 3


CE_CLIP = [
    f"model.{word}" for word in ("backbone=clip", "loss=ce_clip", "system=null", "question=null", "train_vision=null")
]


@pytest.mark.slow
@pytest.mark.parametrize("own", [[], [*CE_CLIP, "data.mixing.curriculum={swap_ratio: 0.0}"]], ids=["llava", "ce_clip"])
def test_a_run_that_was_interrupted_twice_equals_the_unbroken_one(
    own: list[str], tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of epochs, with dropout, accumulated batches, validation between, and state beside the weights."""
    words = [*own, *DROPOUT, *validation(tables), "data.batch_size=2", "trainer.accumulate=2", "trainer.max_steps=7"]
    words += ["trainer.checkpoint_every=2", "trainer.validate_every=2", "trainer.log_every=1"]
    assert main(train_words(tables, tmp_path / "whole", *words)) == 0
    for batch, flags in ((5, []), (9, ["--resume"])):
        with monkeypatch.context() as patch:
            kill_at_batch(batch, patch)
            with pytest.raises(KilledError):
                main(train_words(tables, tmp_path / "parts", *words, *flags))
    assert main(train_words(tables, tmp_path / "parts", *words, "--resume")) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert len(list((tmp_path / "parts/logs").glob("version_*"))) == 3


def test_a_published_checkpoint_is_in_no_checkpoint_of_the_run(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_published(tiny_module(), tmp_path / "published")
    words = [
        *DROPOUT,
        f"model.checkpoint={tmp_path / 'published'}",
        "model.train_vision=false",
        "trainer.max_steps=3",
        "trainer.log_every=1",
        "trainer.checkpoint_every=1",
    ]
    assert main(train_words(tables, tmp_path / "whole", *words)) == 0
    kill_at_batch(2, monkeypatch)
    with pytest.raises(KilledError):
        main(train_words(tables, tmp_path / "parts", *words))
    monkeypatch.undo()
    saved = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = load_file(tmp_path / "whole/weights.safetensors")
    assert saved.keys() == {f"network.{name}" for name in weights}
    assert all("lora_" in name or "projector" in name for name in weights)
    assert main(train_words(tables, tmp_path / "parts", *words, "--resume")) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def trained(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps, with all that it leaves behind."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(train_words(tables, run, "trainer.max_steps=2", "trainer.checkpoint_every=1")) == 0
    return run


@pytest.fixture
def interrupted(trained: Path) -> Path:
    """The run as if it had been killed before it saved its weights."""
    kept = trained.with_name("kept")
    shutil.copytree(trained, kept)
    (trained / "weights.safetensors").unlink()
    yield trained
    shutil.rmtree(trained)
    kept.rename(trained)


class Program:
    """A pickle that runs code when it is loaded."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.made}",)


def spoil_last(kind: str, last: Path, made: Path) -> None:
    checkpoint = torch.load(last, weights_only=True)
    if kind == "pickle":
        last.write_bytes(pickle.dumps(Program(made)))
    elif kind == "program":
        torch.save({**checkpoint, "callbacks": Program(made)}, last)
    elif kind == "truncated":
        last.write_bytes(last.read_bytes()[:-1000])
    elif kind == "size":
        state = {name: tensor[:1] for name, tensor in checkpoint["state_dict"].items()}
        torch.save({**checkpoint, "state_dict": state}, last)
    elif kind == "backbone":
        torch.save({**checkpoint, "backbone": "clip"}, last)
    elif kind == "names":
        torch.save({**checkpoint, "state_dict": {"network.other": torch.zeros(1)}}, last)


LAST = {
    "pickle": ["is damaged or no checkpoint"],
    "program": ["holds more than tensors and plain values", "system", "nothing of which was run"],
    "truncated": ["is damaged"],
    "size": ["does not fit the model", "has shape (1,", "the model (", " more"],
    "backbone": ["of the backbone clip, the model is a llava"],
    "names": ["missing network.", " more", "unexpected network.other"],
}


@pytest.mark.parametrize("kind", LAST)
def test_a_last_checkpoint_that_cannot_be_trusted_is_one_line_and_changes_nothing(
    kind: str, interrupted: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, made = interrupted / "checkpoints/last.ckpt", tmp_path / "made"
    spoil_last(kind, last, made)
    before = {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")}
    assert main(train_words(tables, interrupted, "trainer.max_steps=2", "trainer.checkpoint_every=1", "--resume")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for text in (f"itm: error: {last} ", "--overwrite", *LAST[kind]):
        assert text in line
    assert {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")} == before
    assert not made.exists()


def spoil_weights(kind: str, weights: Path, made: Path) -> None:
    tensors = load_file(weights)
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(Program(made)))
    elif kind == "torch":
        torch.save({"state": Program(made)}, weights)
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif kind == "size":
        save_file({name: tensor[:1].clone() for name, tensor in tensors.items()}, weights)
    elif kind == "names":
        save_file({"other": torch.zeros(1)}, weights)
    elif kind == "backbone":
        save_file({"other": torch.zeros(1)}, weights, metadata={"backbone": "clip"})


WEIGHTS = {
    "pickle": ["is no readable safetensors file"],
    "torch": ["is no readable safetensors file"],
    "truncated": ["is no readable safetensors file"],
    "size": ["does not fit the model", "has shape (1,", "the model (", " more"],
    "names": ["missing ", " more", "unexpected other"],
    "backbone": ["of the backbone clip, the model is a llava"],
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_cannot_be_trusted_are_one_line(
    kind: str, trained: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, made = tmp_path / "run", tmp_path / "made"
    shutil.copytree(trained, run)
    spoil_weights(kind, run / "weights.safetensors", made)
    held_out = [
        f"evaluation.sets.held_out.{name}={tables / 'biased' / name}.parquet" for name in ("captions", "negatives")
    ]
    assert main(["evaluate", str(run), *held_out]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for text in (f"itm: error: {run / 'weights.safetensors'} ", *WEIGHTS[kind]):
        assert text in line
    assert not made.exists()


def test_what_a_killed_write_has_left_behind_is_removed_by_the_next_run(interrupted: Path, tables: Path) -> None:
    left = [interrupted / ".weights.safetensors.partial", interrupted / "checkpoints/.last.ckpt.partial"]
    for path in left:
        path.write_bytes(b"half")
    assert main(train_words(tables, interrupted, "trainer.max_steps=2", "trainer.checkpoint_every=1", "--resume")) == 0
    assert not any(path.exists() for path in left)
    assert (interrupted / "weights.safetensors").is_file()


def test_a_resumed_run_goes_on_in_its_wandb_run(interrupted: Path, tables: Path) -> None:
    words = ["trainer.max_steps=2", "trainer.checkpoint_every=1", "logging.wandb=offline"]
    (interrupted / "wandb/offline-run-20260102_030405-older").mkdir(parents=True)
    (interrupted / "wandb/run-20260102_030406-latest").mkdir()
    config = (interrupted / "config.yaml").read_text()
    (interrupted / "config.yaml").write_text(config.replace("wandb: disabled", "wandb: offline"))
    assert main(train_words(tables, interrupted, *words, "--resume")) == 0
    (recorded,) = (path for path in (interrupted / "wandb").glob("offline-run-*") if not path.name.endswith("older"))
    assert recorded.name.endswith("-latest")


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_equals_the_unbroken_one(tables: Path, tmp_path: Path) -> None:
    """SIGKILL, with a checkpoint after every step, dropout, accumulated batches, a loader worker and validation."""
    words = [*DROPOUT, *validation(tables), "data.batch_size=2", "data.num_workers=1", "trainer.accumulate=2"]
    words += ["trainer.max_steps=40", "trainer.checkpoint_every=1", "trainer.validate_every=15", "trainer.log_every=1"]
    last = tmp_path / "parts/checkpoints/last.ckpt"
    for flags in ([], ["--resume"], ["--resume"]):
        before = last.stat().st_ino if last.exists() else None
        child = start(tmp_path / "log", main, train_words(tables, tmp_path / "parts", *words, *flags))
        while not last.exists() or last.stat().st_ino == before:
            assert child.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert torch.load(last, weights_only=True)["global_step"] > 0
    assert main(train_words(tables, tmp_path / "parts", *words, "--resume")) == 0
    assert main(train_words(tables, tmp_path / "whole", *words)) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def torchrun(words: list[str]) -> int:
    """`itm` on two ranks, each an interpreter of its own, as on a command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "experiments"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *launcher, *words], cwd=ROOT, env=environment).returncode


def test_a_run_that_was_begun_when_all_backbones_keys_were_written_goes_on(interrupted: Path, tables: Path) -> None:
    words = train_words(tables, interrupted, "trainer.max_steps=2", "trainer.checkpoint_every=1")
    saved = interrupted / "config.yaml"
    older = saved.read_text().replace("\nmodel:\n", "\nmodel:\n  activation: null\n  ce_clip:\n    imc_weight: 0.3\n")
    saved.write_text(older)
    settings: Any = OmegaConf.load(saved)
    settings.logging = asdict(LoggingConfig())
    made_by = hashlib.sha256(OmegaConf.to_yaml(settings).encode()).hexdigest()[:16]
    last = interrupted / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    assert made_by != checkpoint["made_by"]
    torch.save({**checkpoint, "made_by": made_by}, last)
    assert main([*words, "--resume"]) == 0
    assert "activation" not in saved.read_text()
    assert (interrupted / "weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_that_go_on_equal_two_that_were_not_interrupted(strategy: str, tables: Path, tmp_path: Path) -> None:
    """To 1e-6; from a checkpoint that was there in the middle of an epoch, which is all that a kill leaves."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = [*DROPOUT, *validation(tables), "data.batch_size=1", "trainer.accumulate=2", "trainer.max_steps=8"]
    words += ["trainer.checkpoint_every=1", "trainer.validate_every=3", "trainer.log_every=1"]
    words += ["trainer.devices=2", f"trainer.strategy={strategy}"]
    last, kept = run / "checkpoints/last.ckpt", tmp_path / "kept.ckpt"
    log, command = tmp_path / "log", train_words(tables, run, *words)
    unbroken = start(log, torchrun, command) if strategy == "ddp" else start_ranks(log, main, command)
    while not last.exists():
        assert unbroken.is_alive(), log.read_text()[-2000:]
        time.sleep(0.001)
    os.link(last, kept)  # a checkpoint is never written to again, only replaced
    unbroken.join()
    assert unbroken.exitcode == 0, log.read_text()[-2000:]
    assert torch.load(kept, weights_only=True)["global_step"] in (1, 2, 4, 5, 7), "an epoch has three steps"
    shutil.copytree(run, whole)
    (run / "weights.safetensors").unlink()
    os.replace(kept, last)
    resumed = start_ranks(log, main, [*command, "--resume"])
    resumed.join()
    assert resumed.exitcode == 0, log.read_text()[-2000:]
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole, run))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=0, msg=name)
    before, after = (read_curves(folder / "logs")["train/loss/value"] for folder in (whole, run))
    assert after == pytest.approx(before, abs=1e-6)
    assert (run / "logs/version_1/metrics.csv").is_file(), "the resumed run logged losses of its own"
