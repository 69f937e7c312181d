"""What a configuration has to know of a LLaVA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_modules.backbones.chat.prompt import AUTO, CHECKPOINT, VICUNA, WantedPrompt, prompt_faults
from lightning_modules.backbones.settings import BackboneTraits, ModelSettings

PARTS = {
    "language_model": ("language_model",),
    "vision": ("vision_tower",),
    "projector": ("multi_modal_projector",),
}
"""What LoRA can be put on; the language model where nothing is said (LLaVA-1.5's own setting)."""


@dataclass
class LlavaSettings(ModelSettings):
    """What can be set of a LLaVA."""

    default_loss = "lm"
    adapter_parts = PARTS
    # the `lm` loss leaves room for the answer, so which one it was decides where a long caption is cut
    scorer_keys = ("template", "system", "question", "loss", *ModelSettings.scorer_keys)
    recorded = ("template", "system")
    # there was LLaVA-1.5's prompt alone
    former_values: ClassVar = {"template": VICUNA}

    template: str = AUTO
    """What is around the question. vicuna: LLaVA-1.5's prompt. checkpoint: the checkpoint's chat template. auto: the
    chat template where it differs from LLaVA-1.5's. Or a text with {image} and {question} up to the answer; a space at
    its end belongs to the answer."""
    system: str | None = None
    """System sentence of the prompt; the template's where not given, "" for none."""
    question: str | None = None
    """The question with a {caption} placeholder; LLaVA-score's where not given."""

    @property
    def prompt(self) -> WantedPrompt:
        """The prompt as far as the settings give it."""
        return WantedPrompt(self.template, self.system, self.question)

    def arguments(self) -> dict[str, Any]:
        """Also the prompt."""
        prompt = self.prompt if self.checkpoint is not None else self.prompt.without_checkpoint()
        return {**super().arguments(), "prompt": prompt}

    def faults(self, place: str) -> Iterator[str]:
        """A question without its caption, or a template without its places."""
        yield from super().faults(place)
        if self.question is not None and self.question.count("{caption}") != 1:
            yield f"`{place}question` must hold {{caption}} exactly once, got {self.question!r}"
        texts = {"template": self.template, "system": self.system, "question": self.question}
        yield from prompt_faults(texts, (AUTO, VICUNA, CHECKPOINT), place)
        if self.template == CHECKPOINT and self.checkpoint is None:
            yield f"`{place}template` must not be {CHECKPOINT} without `{place}checkpoint`, which has the chat template"


class LlavaTraits(BackboneTraits):
    """Of `backbones.llava.LlavaModule`."""

    Settings: ClassVar[type[ModelSettings]] = LlavaSettings
    offers: ClassVar[tuple[str, ...]] = ("answer_logits", "match_logits")
