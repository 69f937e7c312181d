"""A tiny CLIP for the tests, and the plain Transformers forward that it is held to."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.base import AlignmentModule
from tests.tiny import tiny_backbone


def tiny_clip_module(seed: int = 0, **settings: object) -> Any:
    """A two-layer CLIP of random weights, in eval mode."""
    return tiny_backbone("clip", seed, **settings)


def clip_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor."""
    assert isinstance(module, ClipModule)
    inputs = module.processor(images=item.image, text=item.captions[0], return_tensors="pt")
    return module.network.clip(**inputs).logits_per_image[0, 0]
