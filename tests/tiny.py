"""Tiny real models and data for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.batch import ImageTextBatch, ImageTextRow
from datamodules.benchmarks.pairs import Pairs, as_pairs
from datamodules.benchmarks.readers.pairs import tables
from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.table import backbone_class

CAPTIONS = [
    "a red circle left of a blue square",
    "a blue square left of a red circle",
    "a dog",
    "two cats sleep on an old sofa, one of them on its back",
    "Ünïcode 猫 and an emoji 🐈",
]
SHAPE = TinyShape(
    hidden_size=32, layers=2, heads=2, vision_hidden_size=32, vision_layers=2, image_size=16, patch_size=8
)


def tiny_backbone(
    backbone: str, seed: int = 0, *, family: str | None = None, naflex: bool | None = None, **settings: object
) -> Any:
    """A two-layer scorer of random weights, in eval mode; `family` is that of a chat VLM, `naflex` of a SigLIP."""
    found = backbone_class(backbone)
    torch.manual_seed(seed)
    given = {"family": family, "naflex": naflex}
    own = found.Settings(tiny=SHAPE, **{name: value for name, value in given.items() if value is not None})
    model, processor = found.tiny(own, CAPTIONS, None)
    # Larger weights than the initial ones, so that logits differ by more than rounding.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return found(model, processor, **{"lr": 1e-3, "train_vision": True, **settings}).eval()


def tiny_module(loss: str = "lm", seed: int = 0, **settings: object) -> Any:
    """A two-layer LLaVA of random weights, in eval mode."""
    return tiny_backbone("llava", seed, loss=loss, **settings)


def photo(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """Random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def row(
    image: int, captions: list[str], labels: list[int] | None = None, types: list[str] | None = None
) -> ImageTextRow:
    """A row of a random photo; the first caption is true where no labels are given."""
    labels = labels if labels is not None else [1] + [0] * (len(captions) - 1)
    types = types if types is not None else ["" if label == 1 else "replace_obj" for label in labels]
    ids = [f"text-{image}-{index}" for index in range(len(captions))]
    return ImageTextRow(f"image-{image}", photo(image), ids, captions, labels, types)


def tiny_tables(folder: Path, images: int = 6) -> tuple[Path, Path]:
    """Captions and negatives of the embedded scenes in `folder`: small, but with everything."""
    from datamodules.scenes.splits import write_scenes

    write_scenes(folder, train=images, held_out=2, image_size=16, seed=0)
    return folder / "train" / "captions.parquet", folder / "train" / "negatives.parquet"


TINY_OVERRIDES = [
    *("model.tiny.hidden_size=32", "model.tiny.heads=2", "model.tiny.layers=2"),
    *("model.tiny.vision_hidden_size=32", "model.tiny.image_size=16", "data.batch_size=4"),
    *("trainer.max_steps=1", "trainer.accelerator=cpu"),
]
"""Overrides that make any experiment small."""


def read_pairs(captions: Path, negatives: Path) -> Pairs:
    """A captions and a negatives table, images beside them, as an evaluation set."""
    return as_pairs(tables.read(captions, negatives))


def one_step(module: Any, rows: list[ImageTextRow], **settings: Any) -> dict[str, torch.Tensor]:
    """The gradients that the optimiser sees in one step, and the logged loss; of learning rate 0, weights stay."""
    import lightning as L  # takes seconds, which most tests need not wait for

    loader: DataLoader[ImageTextBatch] = DataLoader(rows, batch_size=len(rows), collate_fn=module.collator())  # type: ignore[arg-type]
    run = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="64-true",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,  # type: ignore[arg-type]
    )
    run.fit(module, loader)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {**gradients, "loss": run.callback_metrics["train/loss/value"]}
