"""Every backbone as a tiny module, with one pair's match logit by the plain Transformers model beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

from datamodules.batch import ImageTextRow
from lightning_modules.backbones.backbone import Backbone
from lightning_modules.backbones.chat.llava import pad_to_square
from lightning_modules.backbones.chat.table import FAMILIES
from lightning_modules.base import AlignmentModule
from tests.tiny import tiny_backbone
from tests.tiny_blip2 import blip2_pair_logit
from tests.tiny_clip import clip_pair_logit
from tests.tiny_loss import in_table


@dataclass(frozen=True)
class TinyBackbone:
    """A backbone's line: its name, one pair's match logit by the plain model, and what differs from other backbones.

    Attributes:
        name: in `lightning_modules.backbones.BACKBONES`.
        pair_logit: takes a row's image and its first caption.
        loss: the one that it is trained by; the default where None.
        sums_over_pairs: the loss is a mean over cells that do not see each other, so that pairs alone make the same.
        config: what a tiny training starts from.
        export: overrides under which a long caption is cut; "{base}" is a published checkpoint.
        family: of a chat VLM.
        naflex: of a SigLIP that keeps an image's shape.
    """

    name: str
    pair_logit: Callable[[AlignmentModule, ImageTextRow], torch.Tensor]
    loss: str | None = None
    sums_over_pairs: bool = True
    config: str = "clip_tiny_scenes"
    export: tuple[str, ...] = ("model.max_text_tokens=16",)
    family: str | None = None
    naflex: bool | None = None

    def build(self, seed: int = 0, **settings: Any) -> Any:
        """The same module at every call."""
        loss = {"loss": self.loss} if self.loss else {}
        with in_table():  # the loss of `tiny_loss`, which is a test's own
            return tiny_backbone(self.name, seed, family=self.family, naflex=self.naflex, **loss, **settings)


def llava_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor, on a padded image."""
    encoder = module.encoder
    assert encoder.processor.image_processor.do_center_crop
    square = pad_to_square(item.image, encoder.family.background)
    text = encoder.prompt(item.captions[0], encoder.processor.image_token)
    logits = module.network.llava(**encoder.processor(images=square, text=text, return_tensors="pt")).logits[0, -1]
    return logits[encoder.yes_id] - logits[encoder.no_id]


def chat_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model and processor."""
    encoder, processor = module.encoder, module.processor
    text = encoder.prompt(item.captions[0], processor.image_token)
    if module.encoder.prompt.template.endswith("<bos>answer en {question}\n"):  # which PaliGemma's processor adds
        text = text.replace("<bos>", "").removesuffix("\n")
    inputs = processor(
        images=[[item.image]], text=[text], add_special_tokens=encoder.special_tokens, return_tensors="pt"
    )
    inputs.pop("labels", None)
    logits = module.to_transformers()(**inputs).logits[0, -1]
    return logits[encoder.yes_id] - logits[encoder.no_id]


def siglip_pair_logit(module: AlignmentModule, item: ImageTextRow) -> torch.Tensor:
    """One pair through the plain Transformers model, tokenizer and image processor."""
    processor, siglip = module.processor, module.network.siglip
    ids = processor.tokenizer(item.captions[0], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return siglip(input_ids=ids, **processor.image_processor(item.image, return_tensors="pt")).logits_per_image[0, 0]


class Plain:
    """A LLaVA folder by Transformers alone, a prompt at a time, with as many placeholders as an image has features."""

    def __init__(self, folder: Path):
        self.llava = LlavaForConditionalGeneration.from_pretrained(folder)
        self.tokenizer, self.images = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def logit(self, image: Image.Image, prompt: str, answers: tuple[str, str]) -> float:
        """z(Yes) - z(No) behind a prompt with one `<image>`; `answers` are the two tokens."""
        background = tuple(int(mean * 255) for mean in self.images.image_mean)
        pixels = self.images([pad_to_square(image, background)], return_tensors="pt")["pixel_values"]
        count = len(self.llava.get_image_features(pixels).pooler_output[0])
        # as `apply_chat_template` does: what begins with the start token gets no second one
        started = bool(self.tokenizer.bos_token) and prompt.startswith(self.tokenizer.bos_token)
        text = prompt.replace("<image>", "<image>" * count)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=not started).input_ids
        logits = self.llava(input_ids=ids, pixel_values=pixels).logits[0, -1]
        yes, no = self.tokenizer.convert_tokens_to_ids(list(answers))
        return float(logits[yes] - logits[no])


BACKBONES = {
    "llava": TinyBackbone(
        "llava",
        llava_pair_logit,
        config="llava_tiny_scenes",
        export=("model.loss=lm", "model.max_text_tokens=120"),
    ),
    "chat_vlm": TinyBackbone(
        "chat_vlm",
        chat_pair_logit,
        config="chat_vlm_tiny_scenes",
        export=("model.loss=lm", "model.max_text_tokens=120", "model.family=smolvlm"),
        # its processor reads no videos, so that Transformers' own needs no torchvision
        family="smolvlm",
    ),
    "blip2": TinyBackbone(
        "blip2",
        blip2_pair_logit,
        config="blip2_tiny_scenes",
        export=("model.checkpoint={base}", "model.score=itm_itc", "model.max_text_tokens=16"),
    ),
    "clip": TinyBackbone("clip", clip_pair_logit, sums_over_pairs=False),
    "siglip": TinyBackbone("siglip", siglip_pair_logit, sums_over_pairs=False, config="siglip_tiny_scenes"),
}
TRAININGS = {
    **BACKBONES,
    **{
        f"chat_vlm_{name}": TinyBackbone(
            "chat_vlm", llava_pair_logit if name == "llava" else chat_pair_logit, family=name
        )
        for name in FAMILIES
        if name != "smolvlm"
    },
    "blip2_itc_itm": TinyBackbone("blip2", blip2_pair_logit, "itc_itm", sums_over_pairs=False),
    "clip_ce_clip": TinyBackbone("clip", clip_pair_logit, "ce_clip", sums_over_pairs=False),
    "siglip_itc": TinyBackbone("siglip", siglip_pair_logit, "itc", sums_over_pairs=False),
    "siglip_naflex": TinyBackbone("siglip", siglip_pair_logit, "binary", naflex=True),
    "clip_biased": TinyBackbone("clip", clip_pair_logit, "biased"),
}
"""The backbones, their further losses that see other rows and ranks, and a loss with a parameter of its own."""


def save_published(module: Backbone, folder: Path) -> None:
    """A tiny model in the format of published checkpoints: safetensors, configuration, tokenizer, image processor."""
    copy.deepcopy(module).to_transformers().save_pretrained(folder)
    module.processor.save_pretrained(folder)
