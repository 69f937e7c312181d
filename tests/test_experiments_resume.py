"""`itm train --resume`: an interrupted run ends as the unbroken one, and a file that does not fit is one line."""

from __future__ import annotations

import hashlib
import json
import multiprocessing.util
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from experiments.__main__ import main
from experiments.config.schemas import ExperimentConfig, LoggingConfig
from experiments.report.comparison.reading.curves import read_curves
from experiments.runs.made_by import NOTE
from experiments.runs.metric_log import MetricLog
from experiments.verb_table import Verb
from experiments.verbs import train
from lightning_modules import resume
from lightning_modules.base import AlignmentModule
from lightning_modules.checkpoint import partial_path
from lightning_modules.kept_weights import read_kept
from lightning_modules.resume import WholeFiles
from tests.backbones import save_published
from tests.launch import log_tail, start, start_ranks
from tests.test_experiments_train import train_words
from tests.tiny import tiny_module, tiny_tables
from tests.wandb_log import read_wandb

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


def train_until_killed(command: list[str], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, and is killed before this batch."""
    with monkeypatch.context() as patch:
        kill_at_batch(batch, patch)
        with pytest.raises(KilledError):
            main(command)


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
        train_until_killed(train_words(tables, tmp_path / "parts", *words, *flags), batch, monkeypatch)
    assert main(train_words(tables, tmp_path / "parts", *words, "--resume")) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def signal_at_batch(number: int, asked: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the system signal this process in the batch of this number, counted from now."""
    step, left = AlignmentModule.training_step, [number]

    def training_step(self: AlignmentModule, *arguments: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), asked)
        return step(self, *arguments)

    monkeypatch.setattr(AlignmentModule, "training_step", training_step)


# batch 5 of 6 is the first of the third step's two, batch 6 ends an epoch
@pytest.mark.parametrize(("asked", "batch", "done"), [(signal.SIGTERM, 5, 3), (signal.SIGUSR1, 6, 3)])
def test_a_preempted_training_saves_its_step_and_goes_on_by_the_same_command(
    asked: signal.Signals,
    batch: int,
    done: int,
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*DROPOUT, *validation(tables), "data.batch_size=2", "trainer.accumulate=2", "trainer.max_steps=5"]
    words += ["trainer.validate_every=2", "trainer.log_every=1", "--resume=auto"]
    assert main(train_words(tables, tmp_path / "whole", *words)) == 0
    command, handlers = train_words(tables, tmp_path / "parts", *words), signal.getsignal(asked)
    with monkeypatch.context() as patch:
        signal_at_batch(batch, asked, patch)
        assert main(command) == 75
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"itm: preempted: {asked.name}; step {done} is saved in {tmp_path / 'parts'}.")
    assert torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"] == done
    assert signal.getsignal(asked) == handlers, "a signal does again what it did"
    assert main(command) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob("hpc_ckpt*"))


def test_wandb_shows_a_preempted_run_as_preempted_and_a_failed_one_as_failed(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trainer.max_steps=3", "logging.wandb=offline"]
    with monkeypatch.context() as patch:
        signal_at_batch(1, signal.SIGTERM, patch)
        assert main(train_words(tables, tmp_path / "preempted", *words)) == 75
    train_until_killed(train_words(tables, tmp_path / "failed", *words), 1, monkeypatch)
    assert main(train_words(tables, tmp_path / "done", *words)) == 0
    runs = {name: read_wandb(tmp_path / name) for name in ("preempted", "failed", "done")}
    # W&B takes a preempted run that ends by 0 for finished
    ends = {name: (run.preempted, run.exit_code) for name, run in runs.items()}
    assert ends == {"preempted": (True, 1), "failed": (False, 1), "done": (False, 0)}


def test_a_training_that_is_at_its_end_is_not_preempted(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_batch(2, signal.SIGTERM, monkeypatch)
    assert main(train_words(tables, tmp_path / "run", "trainer.max_steps=2")) == 0
    assert (tmp_path / "run/weights.safetensors").is_file()


def test_a_signal_before_the_first_step_leaves_nothing(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = train.build_parts

    def build_parts(config: ExperimentConfig, **settings: bool) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return build(config, **settings)

    monkeypatch.setattr(train, "build_parts", build_parts)
    assert main(train_words(tables, tmp_path / "run")) == 75
    assert not (tmp_path / "run").exists()


def test_a_signal_that_comes_while_a_verb_is_imported_is_heard(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports take seconds, on a network file system a minute."""
    load = Verb.load_module

    def load_module(self: Verb) -> ModuleType:
        os.kill(os.getpid(), signal.SIGUSR1)
        return load(self)

    monkeypatch.setattr(Verb, "load_module", load_module)
    assert main(train_words(tables, tmp_path / "run")) == 75
    assert not (tmp_path / "run").exists()


def test_no_steps_move_no_weight(tables: Path, tmp_path: Path) -> None:
    """0 is not "not limited": nothing trains, and the folder is a run like any other."""
    assert main(train_words(tables, tmp_path / "none", "trainer.max_steps=0")) == 0
    assert main(train_words(tables, tmp_path / "one", "trainer.max_steps=1", "optim.lr=1e-30")) == 0
    none, one = (load_file(tmp_path / name / "weights.safetensors") for name in ("none", "one"))
    # a step of 1e-30 moves zeros alone
    assert all(torch.allclose(none[name], one[name], rtol=0, atol=1e-20) for name in one)


def test_checkpoints_come_by_time_too(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saved, save = [0.0], [], WholeFiles.save_checkpoint

    def save_checkpoint(self: WholeFiles, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        saved.append(checkpoint["global_step"])
        save(self, checkpoint, path, storage_options)

    def training_step(self: AlignmentModule, *arguments: Any) -> torch.Tensor:
        clock[0] += 25.0
        return step(self, *arguments)

    step = AlignmentModule.training_step
    monkeypatch.setattr(AlignmentModule, "training_step", training_step)
    monkeypatch.setattr(WholeFiles, "save_checkpoint", save_checkpoint)
    monkeypatch.setattr(resume.time, "monotonic", lambda: clock[0])
    words = ["trainer.max_steps=8", "trainer.checkpoint_every=100", "trainer.checkpoint_minutes=1"]
    assert main(train_words(tables, tmp_path / "run", *words)) == 0
    assert saved == [3, 6, 8], "after 75 s each, and at the end"


def test_resuming_what_is_not_there_is_one_line(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped folder would start anew without a word."""
    assert main(train_words(tables, tmp_path / "typo", "--resume")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--resume needs a folder that `itm train` began, and {tmp_path / 'typo'} is not there" in line
    assert not (tmp_path / "typo").exists()


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


def test_a_run_goes_on_that_began_before_a_key_existed(interrupted: Path, tables: Path) -> None:
    file, last = interrupted / "config.yaml", interrupted / "checkpoints/last.ckpt"
    text = "".join(line for line in file.read_text().splitlines(keepends=True) if "log_every" not in line)
    file.write_text(text)
    logging = OmegaConf.to_yaml({"logging": asdict(LoggingConfig())})
    without = text[: text.index("logging:")] + logging + text[text.index("evaluation:") :]
    mark = hashlib.sha256(without.encode()).hexdigest()[:16]
    torch.save({**torch.load(last, weights_only=True), "made_by": mark}, last)
    words = ["trainer.max_steps=2", "trainer.checkpoint_every=1", "--resume"]
    assert main(train_words(tables, interrupted, *words, "trainer.log_every=3")) == 2, "its default counts as its value"
    assert main(train_words(tables, interrupted, *words)) == 0


def test_a_resumed_run_goes_on_in_its_wandb_run(interrupted: Path, tables: Path) -> None:
    words = ["trainer.max_steps=2", "trainer.checkpoint_every=1", "logging.wandb=offline"]
    (interrupted / "wandb/offline-run-20260102_030405-older").mkdir(parents=True)
    (interrupted / "wandb/run-20260102_030406-latest").mkdir()
    config = (interrupted / "config.yaml").read_text()
    (interrupted / "config.yaml").write_text(config.replace("wandb: disabled", "wandb: offline"))
    assert main(train_words(tables, interrupted, *words, "--resume")) == 0
    (recorded,) = (path for path in (interrupted / "wandb").glob("offline-run-*") if not path.name.endswith("older"))
    assert recorded.name.endswith("-latest")


def run_and_die(moment: str, step: int, arguments: list[str]) -> int:
    """`itm`, killed at a moment of the optimiser step of this number, counted from 1.

    Args:
        moment: "before", "in" or "after", and what is written: its "loss", its "accuracy" or its "checkpoint".
    """
    when, what = moment.split()
    save, log = WholeFiles.save_checkpoint, MetricLog.log_metrics
    key = {"loss": "train/loss/value", "accuracy": "val/mean/accuracy"}.get(what)

    def save_checkpoint(self: WholeFiles, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        dies = what == "checkpoint" and checkpoint["global_step"] == step
        with _death(when, lambda: setattr(os, "replace", _kill)) if dies else nullcontext():
            save(self, checkpoint, path, storage_options)

    def log_metrics(self: MetricLog, metrics: dict[str, float], **logged: int) -> None:
        dies = key in metrics and logged["step"] + 1 == step
        with _death(when, partial(_limit, self.path)) if dies else nullcontext():
            log(self, metrics, **logged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", save_checkpoint)
        patch.setattr(MetricLog, "log_metrics", log_metrics)
        return main(arguments)


@contextmanager
def _death(when: str, prepare: Callable[[], None]) -> Iterator[None]:
    """Kills this process before or after the block, or in it as `prepare` sees to."""
    if when == "before":
        _kill()
    if when == "in":
        prepare()
    yield
    _kill()


def _kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _limit(path: Path) -> None:
    """Has the system kill this process when it has written 60 more bytes to a file, which are less than a line."""
    size = path.stat().st_size if path.exists() else 0
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 60, resource.RLIM_INFINITY))


# step 1 is the first, 2, 4 and 6 are validated, 3 and 6 end an epoch, and 7 ends the training within one
KILLS = [
    *[("in loss", 1), ("after loss", 1), ("after checkpoint", 1)],
    *[("before loss", 4), ("after loss", 4), ("before accuracy", 4), ("in accuracy", 4), ("after accuracy", 4)],
    *[("before checkpoint", 5), ("in checkpoint", 5), ("after checkpoint", 5), ("in loss", 5), ("after loss", 5)],
    *[("before checkpoint", 6), ("after checkpoint", 6)],
    *[("after loss", 7), ("before checkpoint", 7), ("after checkpoint", 7)],
]


@pytest.fixture(scope="module")
def unbroken(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with a checkpoint after every step, dropout, accumulated batches and validation; and its settings."""
    words = [*DROPOUT, *validation(tables), "data.batch_size=2", "trainer.accumulate=2", "trainer.max_steps=7"]
    words += ["trainer.checkpoint_every=1", "trainer.validate_every=2", "trainer.log_every=1"]
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(train_words(tables, run, *words)) == 0
    return run, words


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "step"), KILLS, ids=[f"{moment} {step}" for moment, step in KILLS])
def test_a_run_that_is_killed_while_it_logs_or_saves_equals_the_unbroken_one(
    moment: str, step: int, unbroken: tuple[Path, list[str]], tables: Path, tmp_path: Path
) -> None:
    whole, words = unbroken
    run, last = tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt"
    child = start(tmp_path / "log", run_and_die, moment, step, train_words(tables, run, *words))
    child.join()
    torn = moment in ("in loss", "in accuracy")
    assert child.exitcode == -(signal.SIGXFSZ if torn else signal.SIGKILL), (tmp_path / "log").read_text()
    assert (run / "logs/metrics.jsonl").read_bytes().endswith(b"\n") != torn
    assert partial_path(last).exists() == (moment == "in checkpoint")
    done = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    assert done == step - (moment != "after checkpoint")
    assert main(train_words(tables, run, *words, "--resume")) == 0
    assert_same_run(whole, run)


def run_in_a_terminal(held: Connection, end: str, words: list[str]) -> int:
    """Trains until Ctrl-C, which a terminal sends to the workers of the loader too, or until it is killed."""
    os.setpgid(0, 0)
    with pytest.MonkeyPatch.context() as patch:
        if end == "killed":
            patch.setattr(AlignmentModule, "on_train_batch_start", _kill)
        else:  # while a worker starts
            multiprocessing.util.register_after_fork(run_in_a_terminal, lambda _: os.killpg(0, signal.SIGINT))
        return main(words)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("interrupted", 130), ("killed", -signal.SIGKILL)])
def test_workers_end_with_their_run_and_say_nothing(end: str, code: int, tables: Path, tmp_path: Path) -> None:
    words = train_words(tables, tmp_path / "run", "data.num_workers=2", "data.batch_size=2")
    read, held = multiprocessing.Pipe(duplex=False)
    process = start(tmp_path / "log", run_in_a_terminal, held, end, words)
    held.close()
    process.join(120)
    assert process.exitcode == code, (tmp_path / "log").read_text()
    assert read.poll(30), "a worker still holds the other end"
    with pytest.raises(EOFError):
        read.recv()
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert end == "killed" or said.splitlines()[-1] == "itm: interrupted"


SLURM = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "itm", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_STEP_NODELIST": "localhost"},
}
"""What a job of one task finds in its environment."""


def preempted_task(words: list[str], signals_at: dict[int, signal.Signals]) -> int:
    """`itm` as SLURM's task: in those batches its whole process group is signalled, loader workers included."""
    os.setsid()
    step, batch = AlignmentModule.training_step, 0

    def training_step(self: AlignmentModule, *arguments: Any) -> torch.Tensor:
        nonlocal batch
        batch += 1
        if batch in signals_at:
            os.killpg(0, signals_at[batch])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignmentModule, "training_step", training_step)
        for name, value in SLURM.items():
            patch.setenv(name, value)
        return main(words)


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted_and_requeued_equals_the_unbroken_run(
    unbroken: tuple[Path, list[str]], tables: Path, tmp_path: Path
) -> None:
    """SIGUSR1, then SIGTERM while its step is under way, then the same command: no step is lost but that one."""
    whole, words = unbroken
    # loader workers change no result, and are signalled with the rest
    words = [*words, "trainer.checkpoint_every=null", "data.num_workers=2", "--resume=auto"]
    command, log = train_words(tables, tmp_path / "run", *words), tmp_path / "log"
    task = start(log, preempted_task, command, {7: signal.SIGUSR1, 8: signal.SIGTERM})
    task.join(120)
    assert task.exitcode == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "itm: preempted: SIGUSR1; step 4 is saved" in log.read_text()
    again = start(log, preempted_task, command, {})
    again.join(120)
    assert again.exitcode == 0, log.read_text()
    assert_same_run(whole, tmp_path / "run")
    assert not [*ROOT.glob("hpc_ckpt*"), *(tmp_path / "run").rglob("hpc_ckpt*")]


def preempted_rank(words: list[str]) -> int:
    """`itm` on a rank; the second one alone is signalled, in its third batch."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1" and "--resume" not in words:
            signal_at_batch(3, signal.SIGTERM, patch)
        code = main(words)
    # the main rank says it, and a launcher takes no other rank for crashed
    expected = 75 if os.environ["RANK"] == "0" and "--resume" not in words else 0
    return int(code != expected)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_stop_together_where_one_is_signalled(strategy: str, tables: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["data.batch_size=1", "trainer.accumulate=2", "trainer.max_steps=4", "trainer.devices=2"]
    command = train_words(tables, run, *words, f"trainer.strategy={strategy}")
    ranks = start_ranks(log, preempted_rank, command)
    ranks.join(120)
    assert ranks.exitcode == 0, log_tail(log)
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    again = start_ranks(log, preempted_rank, [*command, "--resume"])
    again.join(120)
    assert again.exitcode == 0, log_tail(log)
    assert (run / "weights.safetensors").is_file()


def torchrun(words: list[str]) -> int:
    """`itm` on two ranks, each an interpreter of its own, as on a command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "experiments"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *launcher, *words], cwd=ROOT, env=environment).returncode


def test_a_run_goes_on_with_another_limit_of_images(interrupted: Path, tables: Path) -> None:
    words = train_words(tables, interrupted, "trainer.max_steps=2", "trainer.checkpoint_every=1")
    for limit in (70_000, 80_000):
        (interrupted / "weights.safetensors").unlink(missing_ok=True)
        assert main([*words, f"data.max_pixels={limit}", "--resume"]) == 0
    assert not (interrupted / NOTE).exists(), "it is no run of an older version"


def test_a_run_that_was_begun_when_all_backbones_keys_were_written_goes_on(
    interrupted: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    # killed after the new config.yaml, and before a checkpoint of its own
    monkeypatch.setattr("experiments.verbs.train.fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main([*words, "--resume"]) == 130
    assert "activation" not in saved.read_text()
    assert torch.load(last, weights_only=True)["made_by"] == made_by
    monkeypatch.undo()
    assert main([*words, "--resume"]) == 0
    (interrupted / "weights.safetensors").unlink()
    # by then it has one of its own
    torch.save(checkpoint, last)
    assert main([*words, "--resume"]) == 0
    assert (interrupted / "weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "own"), [("ddp", []), ("fsdp", []), ("fsdp", CE_CLIP)], ids=["ddp", "fsdp", "ce_clip"]
)
def test_two_ranks_that_go_on_equal_two_that_were_not_interrupted(
    strategy: str, own: list[str], tables: Path, tmp_path: Path
) -> None:
    """To 1e-6; from a checkpoint that was there in the middle of an epoch, which is all that a kill leaves."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = [*own, *DROPOUT, *validation(tables), "data.batch_size=1", "trainer.accumulate=2", "trainer.max_steps=8"]
    words += ["trainer.checkpoint_every=1", "trainer.validate_every=3", "trainer.log_every=1"]
    words += ["trainer.devices=2", f"trainer.strategy={strategy}", "trainer.keep_best=1"]
    last, kept = run / "checkpoints/last.ckpt", tmp_path / "kept.ckpt"
    log, command = tmp_path / "log", train_words(tables, run, *words)
    unbroken = start(log, torchrun, command) if strategy == "ddp" else start_ranks(log, main, command)
    while not last.exists():
        assert unbroken.is_alive(), log_tail(log)
        time.sleep(0.001)
    os.link(last, kept)  # a checkpoint is never written to again, only replaced
    unbroken.join()
    assert unbroken.exitcode == 0, log_tail(log)
    checkpoint = torch.load(kept, weights_only=True)
    assert checkpoint["global_step"] in (1, 2, 4, 5, 7), "an epoch has three steps"
    assert bool(checkpoint.get("loss_state")) == bool(own)
    shutil.copytree(run, whole)
    (run / "weights.safetensors").unlink()
    os.replace(kept, last)
    resumed = start_ranks(log, main, [*command, "--resume"])
    resumed.join()
    assert resumed.exitcode == 0, log_tail(log)
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole, run))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=0, msg=name)
    before, after = (read_curves(folder / "logs") for folder in (whole, run))
    names = [name for name in before if "/loss/" in name or "/rank_threshold/" in name]
    assert len(names) > 3 * bool(own)
    for name in names:
        assert after[name] == pytest.approx(before[name], abs=1e-6), name
    best = [read_kept(folder / "checkpoints").kept[0] for folder in (whole, run)]
    assert best[0] == best[1]
    assert load_file(run / "checkpoints" / best[0].file).keys() == one.keys(), "gathered from both ranks"
    steps = [json.loads(line)["step"] for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    assert steps.count(7) == 2, "the resumed run logged losses of its own"
