"""Going on from a checkpoint: an interrupted training equals the unbroken one, and no file is trusted blindly."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from torch import nn

from datamodules.batch import Collator, ImageTextBatch, collate_rows
from datamodules.image_text import ImageTextDataModule
from datamodules.mixing_settings import Mixing
from lightning_modules.adapters import LoraSettings
from lightning_modules.base import AlignmentModule
from lightning_modules.checkpoint import partial_path
from lightning_modules.resume import LastCheckpoint, WholeFiles, check_resumable
from negatives.tables.captions import InputError
from tests.tiny import read_pairs, tiny_module, tiny_tables
from tests.tiny_loss import in_table

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def count_letters(
    images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Four numbers for each text: enough to learn something from, and different for every text."""
    features = torch.zeros(len(images), max(map(len, captions)), 4)
    for index, texts in enumerate(captions):
        brightness = sum(images[index].tobytes()[:64]) / 10_000
        for column, text in enumerate(texts):
            features[index, column] = torch.tensor([len(text) / 50, text.count("e"), text.count("a"), brightness])
    return {"features": features}


class Letters(AlignmentModule):
    """A scorer that trains in no time; it drops out, so that a wrong draw shows."""

    backbone = "letters"

    def __init__(self, width: int = 8, loss: str = "binary"):
        super().__init__(loss=loss, lr=1e-2, warmup_ratio=0.1, seed=3)
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), nn.ReLU(), nn.Linear(width, 1))

    def collator(self) -> Collator:
        return partial(collate_rows, encoder=count_letters)

    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        return self.network(batch.inputs["features"])[..., 0]

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()


class Memory(Logger):
    """Every logged value under its step and key; what is logged again replaces the old."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[int, str], float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.values |= {(step, key): value for key, value in metrics.items()}

    def log_hyperparams(self, *_: Any) -> None: ...


class InterruptionError(Exception):
    pass


class InterruptAfterCheckpoint(L.Callback):
    """Ends the process, as it were, before a batch or a validation that comes some of them after a new checkpoint."""

    def __init__(self, path: Path, later: int):
        self.path, self.left, self.before = path, later, path.stat().st_ino if path.exists() else None

    def on_train_batch_start(self, *_: Any) -> None:
        if self.path.exists() and self.path.stat().st_ino != self.before:
            self.left -= 1
            if self.left < 0:
                raise InterruptionError

    on_validation_start = on_train_batch_start


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen captions to train on: epochs of five batches, the last one of two rows."""
    folder = tmp_path_factory.mktemp("tables")
    tiny_tables(folder, images=7)
    return folder


def letters_data(tables: Path, *, validation: bool, workers: int = 0) -> ImageTextDataModule:
    train, held_out = tables / "train", tables / "balanced"
    data = ImageTextDataModule(
        train / "captions.parquet",
        train / "negatives.parquet",
        mixing=Mixing(negatives=2),
        batch_size=3,
        num_workers=workers,
        validation=read_pairs(held_out / "captions.parquet", held_out / "negatives.parquet") if validation else None,
    )
    data.connect(Letters().collator())
    return data


def fit(
    tables: Path,
    last: Path,
    logger: Logger,
    *,
    every: int | None = None,
    validate: int | str | None = None,
    workers: int = 0,
    interrupt: int | None = None,
    loss: str = "binary",
    **settings: Any,
) -> tuple[Letters, L.Trainer] | None:
    """Trains, from the checkpoint where there is one; None where it was broken off soon after a new one.

    Args:
        validate: optimiser steps between validations, or "epoch".
        interrupt: see `InterruptAfterCheckpoint`.
        loss: of the module.
        settings: of the trainer.
    """
    module, data = Letters(loss=loss), letters_data(tables, validation=validate is not None, workers=workers)
    callbacks: list[L.Callback] = [LastCheckpoint(last, every)]
    if interrupt is not None:
        callbacks.append(InterruptAfterCheckpoint(last, interrupt))
    steps = isinstance(validate, int)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None if steps else 1,
        val_check_interval=validate * settings.get("accumulate_grad_batches", 1) if isinstance(validate, int) else 1.0,
        num_sanity_val_steps=0,
        limit_val_batches=0 if validate is None else 1.0,
        log_every_n_steps=1,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    try:
        trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    except InterruptionError:
        return None
    return module, trainer


RUNS = {
    "in an epoch": {"every": 2, "max_epochs": 2},
    "at the end of epochs": {"max_epochs": 3, "validate": "epoch"},
    "at the end of epochs, counting steps": {"max_epochs": -1, "max_steps": 11, "validate": "epoch"},
    "while accumulating": {"every": 1, "max_epochs": 2, "accumulate_grad_batches": 2},
    "while accumulating, counting steps": {"every": 2, "max_epochs": -1, "max_steps": 7, "accumulate_grad_batches": 3},
    "with validation between": {"every": 2, "max_epochs": 2, "validate": 2, "accumulate_grad_batches": 2},
    "with loader workers": {"every": 3, "max_epochs": 2, "validate": "epoch", "workers": 1},
}


def assert_interrupted_equals_unbroken(tables: Path, folder: Path, interrupt: int, **settings: Any) -> int:
    """Interrupts a run again and again, each time after a new checkpoint; returns how often."""
    whole, parts = Memory(), Memory()
    unbroken = fit(tables, folder / "whole.ckpt", whole, **settings)
    resumed, times = fit(tables, folder / "parts.ckpt", parts, interrupt=interrupt, **settings), 0
    while resumed is None:
        resumed, times = fit(tables, folder / "parts.ckpt", parts, interrupt=interrupt, **settings), times + 1
        assert times < 50
    assert unbroken is not None
    for name, tensor in unbroken[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name], tensor), name
    assert parts.values == whole.values
    assert any(key == "train/loss/value" for _, key in whole.values)
    for trainer in (unbroken[1], resumed[1]):
        assert trainer.global_step == unbroken[1].global_step
        assert trainer.current_epoch == unbroken[1].current_epoch
    return times


@in_table()
def test_a_loss_with_a_parameter_goes_on_as_it_was(tables: Path, tmp_path: Path) -> None:
    """Its bias, the optimiser's state of it, and its buffer, bit for bit."""
    case = {"every": 1, "max_epochs": 2, "accumulate_grad_batches": 2, "loss": "biased"}
    assert assert_interrupted_equals_unbroken(tables, tmp_path, 0, **case) >= 2
    saved = torch.load(tmp_path / "parts.ckpt", weights_only=True)["state_dict"]
    assert saved["objective.steps"].item() == 6
    assert abs(saved["objective.bias"].item() + 1) > 1e-3


@pytest.mark.parametrize("case", RUNS)
def test_a_training_that_is_interrupted_after_every_checkpoint_equals_the_unbroken_one(
    case: str, tables: Path, tmp_path: Path
) -> None:
    """Weights, and every logged loss and accuracy at its step, bit for bit."""
    assert assert_interrupted_equals_unbroken(tables, tmp_path, 0, **RUNS[case]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 7}], ids=["epochs", "steps"])
@pytest.mark.parametrize("validate", ["epoch", 2])
def test_batches_after_the_last_checkpoint_are_trained_again_as_they_were(
    accumulate: int, length: dict[str, int], validate: int | str | None, tables: Path, tmp_path: Path
) -> None:
    settings = {**length, "accumulate_grad_batches": accumulate, "validate": validate, "every": 2}
    assert assert_interrupted_equals_unbroken(tables, tmp_path, 1, **settings) >= 1


@pytest.mark.parametrize("case", RUNS)
def test_a_checkpoint_is_saved_after_all_metrics_of_its_step_are_logged(
    case: str, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning logs a step's loss after `on_train_batch_end`, and nobody would log it again."""
    logged, save, saved = Memory(), WholeFiles.save_checkpoint, {}

    def save_checkpoint(self: WholeFiles, checkpoint: dict[str, Any], path: Path, **options: Any) -> None:
        saved[checkpoint["global_step"]] = {key for step, key in logged.values if step + 1 == checkpoint["global_step"]}
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(WholeFiles, "save_checkpoint", save_checkpoint)
    fit(tables, tmp_path / "last.ckpt", logged, **RUNS[case])
    assert len(saved) >= 2
    for done, keys in saved.items():
        assert keys == {key for step, key in logged.values if step + 1 == done}, done
        assert "train/loss/value" in keys, done


def test_dropout_depends_on_seed_epoch_batch_and_rank_and_on_nothing_else() -> None:
    def drawn(seed: int = 0, epoch: int = 0, batch_idx: int = 0, rank: int = 0) -> list[float]:
        module = Letters()
        module.seed, module._trainer = seed, SimpleNamespace(current_epoch=epoch, global_rank=rank)  # type: ignore[assignment]
        torch.rand(seed + 7 * epoch)  # some history
        module.on_train_batch_start(None, batch_idx)  # type: ignore[arg-type]
        return torch.rand(3).tolist()

    assert drawn() == drawn()
    others = [drawn(seed=1), drawn(epoch=1), drawn(batch_idx=1), drawn(rank=1), drawn(epoch=1, batch_idx=1)]
    assert len({tuple(values) for values in [drawn(), *others]}) == 6


def test_data_that_has_changed_since_the_checkpoint_is_refused(tables: Path, tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    assert fit(tables, last, Memory(), every=1, max_epochs=1, interrupt=0) is None
    tiny_tables(tmp_path, images=5)
    with pytest.raises(InputError, match=r"data has 10 rows and had 14 when the checkpoint was written; .*--overwrite"):
        fit(tmp_path, last, Memory(), every=1, max_epochs=1)


def checkpoint_of(module: AlignmentModule) -> dict[str, Any]:
    """What a checkpoint holds, as far as it is checked."""
    checkpoint = {"optimizer_states": [], "lr_schedulers": [], "loops": {}, "state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize("trainable_only", [True, False])
def test_a_checkpoint_holds_what_no_published_one_brings_along(trainable_only: bool, tmp_path: Path) -> None:
    module = tiny_module(lora=LoraSettings(rank=2, alpha=2, dropout=0.0))
    module.trainable_only = trainable_only
    saved = checkpoint_of(module)
    trainable = {f"network.{name}" for name, value in module.network.named_parameters() if value.requires_grad}
    assert saved["state_dict"].keys() == (trainable if trainable_only else module.state_dict().keys())
    assert module.strict_loading == (not trainable_only)
    torch.save(saved, tmp_path / "last.ckpt")
    check_resumable(tmp_path / "last.ckpt", module)
    module.on_load_checkpoint(saved)
    del saved["state_dict"][min(trainable)]
    with pytest.raises(ValueError, match=f"does not fit the model: missing {min(trainable)}"):
        module.on_load_checkpoint(saved)


def test_a_rank_without_a_part_of_a_gathered_checkpoint_saves_nothing() -> None:
    """Sharded, all tensors are on rank 0; loading, Lightning has taken them out before it asks."""
    module, checkpoint = Letters(), {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint == {"state_dict": {}, "backbone": "letters"}
    module.on_load_checkpoint({"backbone": "letters"})


class Program:
    """A pickle that runs code when it is loaded."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.made}",)


def spoil(kind: str, path: Path, made: Path) -> None:
    checkpoint, whole = checkpoint_of(Letters()), path.read_bytes()
    half = len(whole) // 2
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[:-20])
    elif kind == "flipped":
        start = whole.index(checkpoint["state_dict"]["network.0.weight"].numpy().tobytes())
        path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])
    elif kind == "overwritten":
        path.write_bytes(whole[:half] + bytes(400) + whole[half + 400 :])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Program(made)))
    elif kind == "program":
        torch.save({**checkpoint, "loops": Program(made)}, path)
    elif kind == "weights alone":
        torch.save(checkpoint["state_dict"], path)
    elif kind == "wider":
        torch.save(checkpoint_of(Letters(width=9)), path)
    elif kind == "backbone":
        torch.save({**checkpoint, "backbone": "clip"}, path)
    elif kind == "names":
        state = dict(checkpoint["state_dict"])
        state["network.other"] = state.pop("network.0.bias")
        torch.save({**checkpoint, "state_dict": state}, path)


REFUSED = {
    "empty": r"is damaged or no checkpoint \(File is not a zip file\)",
    "truncated": r"is damaged or no checkpoint",
    "flipped": r"is damaged \(wrong checksum of .*\)",
    "overwritten": r"is damaged",
    "pickle": r"is damaged or no checkpoint",
    "program": r"holds more than tensors and plain values \(posix\.system\), nothing of which was run",
    "weights alone": r"is no checkpoint of a training \(no state_dict, optimizer_states, lr_schedulers, loops\)",
    "wider": r"does not fit the model: network\.0\.bias has shape \(9,\), the model \(8,\); "
    r"network\.0\.weight has shape \(9, 4\), the model \(8, 4\); network\.3\.weight has shape \(1, 9\), the model ",
    "backbone": r"does not fit the model: it is of the backbone clip, the model is a letters",
    "names": r"does not fit the model: missing network\.0\.bias; unexpected network\.other",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_cannot_be_trusted_is_refused_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    path, made = tmp_path / "last.ckpt", tmp_path / "made"
    torch.save(checkpoint_of(Letters()), path)
    check_resumable(path, Letters())
    spoil(kind, path, made)
    with pytest.raises(ValueError, match=rf"last\.ckpt {REFUSED[kind]}.*start anew with --overwrite\.$"):
        check_resumable(path, Letters())
    assert not made.exists()


def write_forever(path: Path) -> None:
    """Replaces a checkpoint of 8 MB by the next one, again and again."""
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    for number in range(1, 1_000_000):
        WholeFiles().save_checkpoint({"numbers": [torch.full((250_000,), number) for _ in range(4)]}, path)


def test_kill_9_while_a_checkpoint_is_written_leaves_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    left_behind = 0
    for _ in range(8):
        child = multiprocessing.get_context("fork").Process(target=write_forever, args=(path,))
        child.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.1))
        child.kill()
        child.join()
        left_behind += partial_path(path).exists()
        numbers = torch.load(path, weights_only=True)["numbers"]
        assert len({int(number) for tensor in numbers for number in tensor.unique()}) == 1
        path.unlink()
    assert left_behind, "no write was interrupted; the test has to wait at other times"


def test_a_checkpoint_is_written_beside_the_old_one_and_then_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the folder for temporary files, which may be on another file system."""
    path, seen, save = tmp_path / "new" / "last.ckpt", [], torch.save

    def watched(checkpoint: dict[str, Any], file: Path) -> None:
        save(checkpoint, file)
        seen.append({entry.name for entry in path.parent.iterdir()})

    monkeypatch.setattr(torch, "save", watched)
    for number in range(2):
        WholeFiles().save_checkpoint({"number": number}, path)
    assert seen == [{".last.ckpt.partial"}, {".last.ckpt.partial", "last.ckpt"}]
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["number"] == 1
