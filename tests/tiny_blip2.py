"""A tiny BLIP-2 for the tests, and the plain Transformers forward that it is held to."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.blip2_itm import Blip2ItmModule
from lightning_modules.backbones.blip2_network import clean_words
from lightning_modules.base import AlignmentModule
from tests.tiny import tiny_backbone


def tiny_blip2_module(seed: int = 0, **settings: object) -> Any:
    """A two-layer BLIP-2 of random weights, in eval mode."""
    return tiny_backbone("blip2", seed, **settings)


def plain_outputs(module: AlignmentModule, item: ImageTextRow, *, itm: bool) -> torch.Tensor:
    """`logits_per_image` of the plain Transformers model for a row's image and first caption."""
    assert isinstance(module, Blip2ItmModule)
    processor = module.processor
    pixel_values = processor.image_processor(item.image, return_tensors="pt")["pixel_values"]
    text = processor.tokenizer(" ".join(clean_words(item.captions[0])), return_tensors="pt")
    return module.network.blip2(
        pixel_values=pixel_values,
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        use_image_text_matching_head=itm,
    ).logits_per_image


def blip2_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """Match - no-match of one pair through the plain Transformers model."""
    no_match, match = plain_outputs(module, item, itm=True)[0]
    return match - no_match
