"""A tiny CLIP for the tests, and the plain Transformers forward that it is held to."""

from __future__ import annotations

import torch

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.clip import ClipModule
from lightning_modules.backbones.tiny.clip import tiny_clip, tiny_clip_processor
from lightning_modules.base import AlignmentModule
from tests.tiny import CAPTIONS, SHAPE


def tiny_clip_module(seed: int = 0, **settings: object) -> ClipModule:
    """A two-layer CLIP of random weights, in eval mode."""
    torch.manual_seed(seed)
    processor = tiny_clip_processor(SHAPE, CAPTIONS)
    clip = tiny_clip(SHAPE, processor.tokenizer)
    # Larger weights than the initial ones, so that logits differ by more than rounding.
    for parameter in clip.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    settings = {"lr": 1e-3, **settings}
    return ClipModule(clip, processor, **settings).eval()  # type: ignore[arg-type]


def clip_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor."""
    assert isinstance(module, ClipModule)
    inputs = module.processor(images=item.image, text=item.captions[0], return_tensors="pt")
    return module.network.clip(**inputs).logits_per_image[0, 0]
