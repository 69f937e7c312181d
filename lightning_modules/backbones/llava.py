"""LLaVA-1.5 as an image-text matching scorer: match logit = z(Yes) - z(No) at the answer position (LLaVA-score)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedModel

from lightning_modules.backbones.backbone import Backbone, CardText
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
    families = ("llava",)
    parts = PARTS
    licences: ClassVar = {"llava-hf/llava-1.5-": ("llama2", "Llama 2 Community License")}
    default_prompt = YesNoPrompt()

    def resolve(self, wanted: WantedPrompt, family: Family, vlm: PreTrainedModel) -> YesNoPrompt:
        """See `WantedPrompt.resolve`."""
        return wanted.resolve(self.processor, vlm.config.get_text_config())

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
        """What a model card says of a LLaVA; its template is written out."""
        template = VICUNA_TEMPLATE if settings["template"] == VICUNA else settings["template"]
        return super().card_text({**settings, "template": template})

    @classmethod
    def card_title(cls, settings: Mapping[str, Any]) -> str:
        """LLaVA-1.5 by its prompt."""
        name = "LLaVA-1.5" if settings["template"] == VICUNA_TEMPLATE else "LLaVA"
        return f"{name} asked whether the caption matches (LLaVA-score)"

    def scorer_settings(self) -> dict[str, Any]:
        """The prompt and the loss, and what every backbone has."""
        prompt = self.encoder.prompt
        # as a text: an export then needs no Jinja, and no file that may change
        template = VICUNA if prompt.template == VICUNA_TEMPLATE else prompt.template
        own = {"template": template, "system": prompt.system, "question": prompt.question, "loss": self.loss_name}
        return {**own, **Backbone.scorer_settings(self)}
