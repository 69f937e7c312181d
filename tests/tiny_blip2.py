"""A tiny BLIP-2 for the tests, and the plain Transformers forward that it is held to."""

from __future__ import annotations

import torch

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.blip2_itm import Blip2ItmModule, clean_words
from lightning_modules.backbones.tiny.blip2 import tiny_blip2, tiny_blip2_processor
from lightning_modules.base import AlignmentModule
from tests.tiny import CAPTIONS, SHAPE


def tiny_blip2_module(seed: int = 0, **settings: object) -> Blip2ItmModule:
    """A two-layer BLIP-2 of random weights, in eval mode."""
    torch.manual_seed(seed)
    processor = tiny_blip2_processor(SHAPE, CAPTIONS)
    blip2 = tiny_blip2(SHAPE, processor.tokenizer)
    # Larger weights than the initial ones, so that logits differ by more than rounding.
    for parameter in blip2.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    settings = {"lr": 1e-3, "train_vision": True, **settings}
    return Blip2ItmModule(blip2, processor, **settings).eval()  # type: ignore[arg-type]


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
