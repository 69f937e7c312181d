"""LLaVA-1.5 as an image-text matching scorer: match logit = z(Yes) - z(No) at the answer position (LLaVA-score)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor, PreTrainedModel
from transformers.image_processing_backends import PilBackend

from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.chat.prompt import (
    VICUNA,
    VICUNA_TEMPLATE,
    WantedPrompt,
    YesNoPrompt,
    prompt_texts,
)
from lightning_modules.backbones.chat_vlm import ChatVlmModule
from lightning_modules.backbones.tiny.llava import tiny_llava, tiny_llava_processor
from lightning_modules.backbones.traits.llava import PARTS, LlavaSettings, LlavaTraits


class LlavaModule(LlavaTraits, ChatVlmModule):
    """LLaVA behind the contract of `AlignmentModule`: a chat VLM whose prompt is LLaVA-1.5's where nothing is said.

    Its arguments are those of `ChatVlmModule`.
    """

    backbone = "llava"
    model_class = LlavaForConditionalGeneration
    parts = PARTS
    licences: ClassVar = {"llava-hf/llava-1.5-": ("llama2", "Llama 2 Community License")}
    default_prompt = YesNoPrompt()

    def resolve(self, wanted: WantedPrompt, family: Family, vlm: PreTrainedModel) -> YesNoPrompt:
        """See `WantedPrompt.resolve`."""
        return wanted.resolve(self.processor, vlm.config.get_text_config())

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """LLaVA's alone."""
        return super(ChatVlmModule, cls).model_types()

    @classmethod
    def load_model(
        cls, checkpoint: str | Path, settings: Any, *, dtype: torch.dtype | str = "float32"
    ) -> tuple[Any, Any]:
        """See `Backbone.load_model`."""
        return super(ChatVlmModule, cls).load_model(checkpoint, settings, dtype=dtype)

    @classmethod
    def tiny(
        cls, settings: LlavaSettings, captions: Iterable[str], processor: LlavaProcessor | None
    ) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """See `tiny_llava`; the tokenizer learns the prompt too."""
        processor = processor or tiny_llava_processor(
            settings.tiny, prompt_texts(settings.prompt.without_checkpoint(), captions)
        )
        return tiny_llava(settings.tiny, processor.tokenizer), processor

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a LLaVA."""
        template = VICUNA_TEMPLATE if settings["template"] == VICUNA else settings["template"]
        name = "LLaVA-1.5" if template == VICUNA_TEMPLATE else "LLaVA"
        return CardText(
            title=f"{name} asked whether the caption matches (LLaVA-score)",
            logit="z(Yes) - z(No) at the answer position",
            score="p(Yes) / (p(Yes) + p(No)), the sigmoid of the logit",
            pipeline_tag="image-text-to-text",
            limit="The prompt is part of the scorer: another question gives other scores.",
            code=card_code("llava"),
            values={"template": template, "answers": YesNoPrompt(template=template).answers},
        )

    def scorer_settings(self) -> dict[str, Any]:
        """The prompt and the loss, and what every backbone has."""
        prompt = self.encoder.prompt
        # as a text: an export then needs no Jinja, and no file that may change
        template = VICUNA if prompt.template == VICUNA_TEMPLATE else prompt.template
        own = {"template": template, "system": prompt.system, "question": prompt.question, "loss": self.loss_name}
        return {**own, **Backbone.scorer_settings(self)}

    def plain_processor(self) -> LlavaProcessor:
        """The processor with an image processor that pads to squares, which here the encoder does.

        `LlavaImageProcessor` has the padding off where nothing is said, and CLIP's, which LLaVA's checkpoints come
        with, has none.
        """
        own = self.processor.image_processor
        settings = {name: value for name, value in own.to_dict().items() if name != "image_processor_type"}
        settings |= {"do_pad": True, "do_center_crop": bool(getattr(own, "do_center_crop", False))}
        padding: Any = LlavaImageProcessorPil
        if not isinstance(own, PilBackend):
            from transformers import LlavaImageProcessor  # says at import where torchvision is absent

            padding = LlavaImageProcessor
        processor = copy.copy(self.processor)
        processor.image_processor = padding(**settings)
        return processor
