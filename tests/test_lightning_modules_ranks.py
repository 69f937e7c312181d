"""Two ranks equal one process, under DDP and FSDP2, for every backbone; and sharding leaves a network as it was."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from datamodules.image_text import ImageTextDataModule
from datamodules.mixing_settings import Mixing
from datamodules.scenes.splits import write_scenes
from experiments.config.trainer_schemas import TrainerConfig
from experiments.runs.trainer import build_strategy
from lightning_modules.base import AlignmentModule
from lightning_modules.checkpoint import full_state_dict, load_weights, write_weights
from negatives.tables.captions import read_captions, read_negatives, text_table, write_table
from negatives.tables.verdicts import VERDICT_SCHEMA
from tests.backbones import TRAININGS
from tests.launch import run_on_two_ranks
from tests.tiny import CAPTIONS, read_pairs, row

STEPS = 5


def write_data(folder: Path) -> None:
    """Eleven kept captions with uneven numbers of kept negatives, and validation that does not divide evenly."""
    write_scenes(folder, train=6, held_out=3, image_size=16, seed=0)
    captions = read_captions(folder / "train" / "captions.parquet")
    texts = text_table(captions, read_negatives(folder / "train" / "negatives.parquet", captions))
    keep = np.random.default_rng(0).random(len(texts)) < 0.3
    keep[: len(captions)] = np.arange(len(captions)) != 5
    columns = (texts["text_id"], texts["label"], [0] * len(keep), [0.5] * len(keep), keep.astype(float), keep)
    verdicts = dict(zip(VERDICT_SCHEMA.names, columns, strict=True))
    write_table(pa.table(verdicts, schema=VERDICT_SCHEMA), folder / "verdicts.parquet")


class Losses(L.Callback):
    """Keeps the logged loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss/value"]))


def train(folder: Path, backbone: str, *, strategy: str, devices: int) -> None:
    """Five steps on `write_data`'s tables, four rows a step over all ranks, three in the last one of an epoch.

    Saves the weights, the losses and the validation accuracy under the names of backbone and strategy.
    """
    tables, held_out = folder / "train", folder / "biased"
    data = ImageTextDataModule(
        tables / "captions.parquet",
        tables / "negatives.parquet",
        verdicts=folder / "verdicts.parquet",
        subset="kept",
        mixing=Mixing(negatives=3),
        batch_size=4 // devices,
        validation=read_pairs(held_out / "captions.parquet", held_out / "negatives.parquet"),
    )
    module = TRAININGS[backbone].build(warmup_ratio=0.0)
    data.connect(module.collator())
    losses = Losses()
    run = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=build_strategy(TrainerConfig(strategy=strategy, devices=devices)),
        max_steps=STEPS,
        max_epochs=-1,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(module, data)
    with torch.no_grad():
        logits = logits_of(module)
    weights = full_state_dict(module.network, trainable_only=False, loss=module.objective)
    if run.is_global_zero:
        stem = f"{backbone}-{strategy}"
        write_weights(weights, folder / f"{stem}.safetensors", backbone=backbone)
        accuracy = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
        torch.save({"losses": losses.values, "accuracy": accuracy, "logits": logits}, folder / f"{stem}.pt")


def logits_of(module: AlignmentModule) -> torch.Tensor:
    return module.eval().logits(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:2])]))


def train_all(folder: Path, strategies: list[str], devices: int) -> None:
    for backbone in TRAININGS:
        for strategy in strategies:
            train(folder, backbone, strategy=strategy, devices=devices)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process and two ranks, under both strategies, made of every backbone."""
    folder = tmp_path_factory.mktemp("ranks")
    write_data(folder)
    train_all(folder, ["auto"], devices=1)
    run_on_two_ranks(folder, __name__, f"train_all(Path({str(folder)!r}), ['ddp', 'fsdp'], devices=2)", timeout=500)
    return folder


def read(folder: Path, backbone: str, strategy: str) -> tuple[dict[str, torch.Tensor], list[float], dict[str, float]]:
    seen = torch.load(folder / f"{backbone}-{strategy}.pt", weights_only=True)
    return load_file(folder / f"{backbone}-{strategy}.safetensors"), seen["losses"], seen["accuracy"]


def without_key_bias(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Without the bias of an attention's keys: its true gradient is zero; Adam makes a step of its rounding error."""
    # BLIP-2's vision tower, and nn.MultiheadAttention, have queries, keys and values in one
    if name.endswith(("qkv.bias", "in_proj_bias")):
        query, _, value = tensor.chunk(3)
        return torch.cat([query, value])
    return tensor[:0] if name.endswith(("k_proj.bias", "key.bias")) else tensor


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("backbone", TRAININGS)
def test_two_ranks_equal_one_process_with_double_batch_size(backbone: str, strategy: str, results: Path) -> None:
    one, losses, accuracy = read(results, backbone, "auto")
    two, losses_of_two, accuracy_of_two = read(results, backbone, strategy)
    assert len(losses) == STEPS
    assert losses_of_two == pytest.approx(losses, abs=1e-5)
    assert len(set(losses)) == STEPS
    assert one.keys() == two.keys()
    far = 0
    for name, tensor in one.items():
        apart = (without_key_bias(name, two[name]) - without_key_bias(name, tensor)).abs()
        assert bool((apart <= 1e-4).all()), name
        far += int((apart > 1e-5).sum())
    # Adam makes a step of a gradient that is all rounding
    assert far <= 2
    assert "val/mean/accuracy" in accuracy
    assert accuracy_of_two == accuracy, "every sample is counted once"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TRAININGS)
@torch.no_grad()
def test_weights_trained_by_two_sharded_ranks_score_the_same_in_one_process(backbone: str, results: Path) -> None:
    module = TRAININGS[backbone].build(seed=1)
    before = logits_of(module)
    path = results / f"{backbone}-fsdp.safetensors"
    load_weights(module.network, path, trainable_only=False, backbone=backbone, loss=module.objective)
    sharded = torch.load(results / f"{backbone}-fsdp.pt", weights_only=True)["logits"]
    torch.testing.assert_close(logits_of(module), sharded, atol=1e-6, rtol=0)
    assert not torch.allclose(before, sharded, atol=1e-2)
