"""Every backbone as a tiny module, with one pair's match logit by the plain Transformers model beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.llava import pad_to_square
from lightning_modules.base import AlignmentModule
from tests.tiny import tiny_module
from tests.tiny_blip2 import blip2_pair_logit, tiny_blip2_module
from tests.tiny_clip import clip_pair_logit, tiny_clip_module
from tests.tiny_loss import biased_clip_module


@dataclass(frozen=True)
class TinyBackbone:
    """`build` makes the same module at every call; `pair_logit` takes a row's image and its first caption.

    `sums_over_pairs`: the loss is a mean over cells that do not see each other, so that pairs alone make the same one.
    """

    build: Callable[..., AlignmentModule]
    pair_logit: Callable[[AlignmentModule, ImageTextRow], torch.Tensor]
    sums_over_pairs: bool = True


def llava_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor, on a padded image."""
    encoder = module.encoder
    assert encoder.processor.image_processor.do_center_crop
    square = pad_to_square(item.image, encoder.background)
    text = encoder.prompt(item.captions[0], encoder.image_token)
    logits = module.network.llava(**encoder.processor(images=square, text=text, return_tensors="pt")).logits[0, -1]
    return logits[encoder.yes_id] - logits[encoder.no_id]


BACKBONES = {
    "llava": TinyBackbone(tiny_module, llava_pair_logit),
    "blip2": TinyBackbone(tiny_blip2_module, blip2_pair_logit),
    "clip": TinyBackbone(tiny_clip_module, clip_pair_logit, sums_over_pairs=False),
}
TRAININGS = {
    **BACKBONES,
    "blip2_itc_itm": TinyBackbone(partial(tiny_blip2_module, loss="itc_itm"), blip2_pair_logit, sums_over_pairs=False),
    "clip_ce_clip": TinyBackbone(partial(tiny_clip_module, loss="ce_clip"), clip_pair_logit, sums_over_pairs=False),
    "clip_biased": TinyBackbone(biased_clip_module, clip_pair_logit),
}
"""The backbones, their further losses that see other rows and ranks, and a loss with a parameter of its own."""


def save_published(module: AlignmentModule, folder: Path) -> None:
    """A tiny model in the format of published checkpoints: safetensors, configuration, tokenizer, image processor."""
    (model,) = module.network.children()
    state = model.state_dict()
    if "logit_scale" in state:  # one axis in training, none in CLIP's own format
        state["logit_scale"] = state["logit_scale"].squeeze()
    model.save_pretrained(folder, state_dict=state)
    module.processor.save_pretrained(folder)
