"""The training step: a step does not depend on how its cells were spread over batches and ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from datamodules.batch import ImageTextBatch, ImageTextRow
from datamodules.benchmarks.tables import read_pairs
from datamodules.image_text import ImageTextDataModule
from datamodules.scene_splits import write_scenes
from lightning_modules.base import labelled_cells
from lightning_modules.checkpoint import save_weights
from lightning_modules.llava import LlavaModule
from negatives.records import VERDICT_SCHEMA, read_captions, read_negatives, text_table, write_table
from tests.tiny import CAPTIONS, row, tiny_module

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
]


def trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, **quiet, **settings}
    return L.Trainer(enable_model_summary=False, use_distributed_sampler=False, **settings)  # type: ignore[arg-type]


def loader(module: LlavaModule, rows: Sequence[ImageTextRow], batch_size: int) -> DataLoader[ImageTextBatch]:
    return DataLoader(list(rows), batch_size=batch_size, collate_fn=module.collator())  # type: ignore[arg-type]


def uneven_rows(count: int) -> list[ImageTextRow]:
    """Rows of one to five captions, some of them of unknown label."""
    rows = []
    for index in range(count):
        labels = [1, 0, 0, 1, 0][: 1 + index % 5]
        labels[-1] = -1 if index % 4 == 3 else labels[-1]
        rows.append(row(index, CAPTIONS[: len(labels)], labels))
    return rows


def trained(batch_size: int, rows: Sequence[ImageTextRow], loss: str = "lm", **settings: object) -> LlavaModule:
    module = tiny_module(loss, warmup_ratio=0.0)
    # in double precision, Adam does not turn rounding errors of parameters without gradient into steps
    run = trainer(precision="64-true", **settings)
    run.fit(module, loader(module, rows, batch_size))
    assert run.global_step == 3
    return module


def assert_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("loss", ["lm", "binary"])
def test_accumulated_batches_equal_one_large_batch(loss: str) -> None:
    """Nine rows: steps of four, four and one, the last one of a single accumulated batch."""
    rows = uneven_rows(9)
    large = trained(4, rows, loss)
    accumulated = trained(2, rows, loss, accumulate_grad_batches=2)
    assert_same_weights(large.state_dict(), accumulated.state_dict())
    untrained = tiny_module(loss).double().state_dict()
    moved = [name for name, tensor in large.state_dict().items() if not torch.allclose(tensor, untrained[name])]
    assert len(moved) > 30


@pytest.mark.parametrize("clip", [None, 1.01, 0.5])
def test_a_step_follows_the_gradient_of_the_mean_over_all_cells(clip: float | None) -> None:
    """The second of two steps of four rows, at weights that stay; clipping sees the same gradient."""
    rows = uneven_rows(8)
    module, plain = tiny_module(lr=0.0), tiny_module()
    plain.on_fit_start()
    plain.loss(plain.collator()(rows[4:]))[0].backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    clip_value = None if clip is None else clip * norm
    run = trainer(accumulate_grad_batches=4, gradient_clip_val=clip_value)
    run.fit(module, loader(module, rows, 1))
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient * min(1, clip or 1), atol=1e-5, rtol=1e-4, msg=name)


def test_labelled_cells_exist_and_have_a_known_label() -> None:
    batch = tiny_module().collator()([row(0, CAPTIONS[:3], [1, -1, 0]), row(1, CAPTIONS[:1], [1])])
    assert labelled_cells(batch).tolist() == [[True, False, True], [True, False, False]]


def test_a_loss_that_is_no_number_stops_with_the_image_ids() -> None:
    module = tiny_module()
    with torch.no_grad():
        module.network.llava.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"The loss is nan at step 0, images \['image-0', 'image-1'\]"):
        trainer().fit(module, loader(module, uneven_rows(4), 2))


def test_a_batch_without_labels_does_not_move_a_weight() -> None:
    module = tiny_module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rows = [row(0, CAPTIONS[:2], [-1, -1]), row(1, CAPTIONS[:1], [-1])]
    trainer().fit(module, loader(module, rows, 2))
    assert_same_weights(before, module.state_dict(), tolerance=0)


def test_training_runs_in_train_mode_and_validation_in_eval_mode() -> None:
    module = tiny_module()
    module.network.eval()
    seen: list[tuple[str, bool]] = []
    module.network.register_forward_hook(lambda network, *_: seen.append((stage(), network.llava.training)))
    run = trainer()

    def stage() -> str:
        return "val" if run.validating or run.state.stage == "validate" else "train"

    rows = uneven_rows(2)
    run.fit(module, loader(module, rows, 1), loader(module, rows, 2))
    assert seen == [("train", True), ("train", True), ("val", False)]


def test_validation_logs_the_accuracy_of_every_type_and_their_mean() -> None:
    module = tiny_module()
    rows = [
        row(0, CAPTIONS[:3], [1, 0, 0], ["", "swap_obj", "replace_att"]),
        row(1, CAPTIONS[1:3], [1, 0], ["", "swap_obj"]),
    ]
    (logged,) = trainer().validate(module, loader(module, rows, 1), verbose=False)
    with torch.no_grad():
        first, second = (module.logits(module.collator()([item]))[0].tolist() for item in rows)
    swap = ((first[0] > first[1]) + (second[0] > second[1])) / 2
    expected = {"val/swap_obj/accuracy": swap, "val/replace_att/accuracy": float(first[0] > first[2])}
    mean = sum(expected.values()) / 2
    assert logged == pytest.approx({**expected, "val/mean/accuracy": mean})


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


def train_on_scenes(folder: Path, output: Path, *, batch_size: int, strategy: str = "auto", devices: int = 1) -> None:
    """Three steps on `write_data`'s tables; saves the weights and the validation accuracy."""
    train, held_out = folder / "train", folder / "biased"
    data = ImageTextDataModule(
        train / "captions.parquet",
        train / "negatives.parquet",
        verdicts=folder / "verdicts.parquet",
        subset="kept",
        negatives_per_positive=3,
        batch_size=batch_size,
        validation=read_pairs(held_out / "captions.parquet", held_out / "negatives.parquet"),
    )
    module = tiny_module(warmup_ratio=0.0)
    data.connect(module.collator())
    run = trainer(strategy=strategy, devices=devices)
    run.fit(module, data)
    assert run.global_step == 3, "eleven anchors are three batches of four, the last one of three"
    if run.is_global_zero:
        save_weights(module.network, output, trainable_only=False)
        accuracy = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
        output.with_suffix(".txt").write_text(repr(sorted(accuracy.items())), encoding="utf-8")


SCRIPT = """
from pathlib import Path
from tests.test_lightning_modules_base import train_on_scenes
train_on_scenes(Path({folder!r}), Path({output!r}), batch_size=2, strategy="ddp", devices=2)
"""


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_double_batch_size(tmp_path: Path) -> None:
    write_data(tmp_path)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    train_on_scenes(tmp_path, one, batch_size=4)
    script = tmp_path / "two_ranks.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path), output=str(two)), encoding="utf-8")
    root = Path(__file__).parent.parent
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(launcher, capture_output=True, text=True, cwd=root, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    # The true gradient of a key's bias is zero; Adam makes a step of its rounding error.
    single, double = (
        {name: tensor for name, tensor in load_file(path).items() if not name.endswith("k_proj.bias")}
        for path in (one, two)
    )
    assert_same_weights(single, double)
    accuracy = one.with_suffix(".txt").read_text(encoding="utf-8")
    assert "val/mean/accuracy" in accuracy
    assert accuracy == two.with_suffix(".txt").read_text(encoding="utf-8")
