"""What a configuration has to know of a chat VLM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from lightning_modules.backbones.chat.prompt import (
    AUTO,
    CHECKPOINT,
    QUESTION,
    WORDS,
    WantedPrompt,
    image_in_both,
    prompt_faults,
)
from lightning_modules.backbones.chat.table import FAMILIES
from lightning_modules.backbones.settings import BackboneTraits, ModelSettings

PARTS = {
    "language_model": ("language_model", "text_model"),
    "vision": ("vision_tower", "vision_model", "visual"),
    "projector": ("multi_modal_projector", "connector", "merger", "deepstack_merger_list", "image_newline"),
}
"""What LoRA can be put on; the language model where nothing is said."""


class Preset(NamedTuple):
    """A question with its answers, as a paper or a model asks it."""

    question: str
    answers: tuple[str, str]
    system: str | None = None


PRESETS = {
    "llava_score": Preset(QUESTION, WORDS),
    # VQAScore (Lin et al., ECCV 2024), section 3; it takes p(Yes) among all tokens, here Yes stands against No
    "vqascore": Preset('Does this figure show "{caption}"? Please answer yes or no.', WORDS),
    # Qwen3-VL-Reranker, with the image as the query, so that captions share it
    "reranker": Preset(
        "<Instruct>: Given a search query, retrieve relevant candidates that answer the query.<Query>:{image}\n"
        "<Document>:{caption}",
        ("yes", "no"),
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
        'answer can only be "yes" or "no".',
    ),
}
"""Names of questions in `model.question`."""


@dataclass
class ChatVlmSettings(ModelSettings):
    """What can be set of a chat VLM."""

    default_loss = "lm"
    adapter_parts = PARTS
    # the `lm` loss leaves room for the answer, so which one it was decides where a long caption is cut
    scorer_keys = ("template", "system", "question", "answers", "packing", "loss", *ModelSettings.scorer_keys)
    recorded = ("template", "system", "question")

    backbone: str = "chat_vlm"
    family: str = field(default="qwen3_vl", metadata={"choices": FAMILIES})
    """Of the model that is built where no checkpoint is given; a checkpoint says itself what it is."""
    question: str = "llava_score"
    """What is asked: llava_score, vqascore or reranker (Qwen3-VL-Reranker's, the image as its query), which bring their
    answers along; or a text with a {caption} placeholder, and perhaps {image} in front of it."""
    answers: list[str] = field(default_factory=list)
    """The answers to a caption that matches and to one that does not, one token each. Not given: the question's, or
    Yes and No."""
    template: str = AUTO
    """What is around the question. checkpoint, auto: the checkpoint's chat template. Or a text with {image} and
    {question} up to the answer; a space at its end belongs to the answer."""
    system: str | None = None
    """System message; the question's where not given, or else the template's; "" for none."""
    packing: str = field(default="auto", metadata={"choices": ("auto", "on", "off")})
    """Whether the captions of an image share its tokens. auto: where the model allows it. off: a sequence for every
    caption, as Transformers reads it."""
    max_image_tokens: int | None = field(default=None, metadata={"min": 1, "max": 1_000_000})
    """Most tokens of an image, of families that read each at a size of its own (Qwen's); larger images are scaled down.
    Not given: the checkpoint's own bound, 16,384 for some."""

    @property
    def preset(self) -> Preset:
        """The question with its answers."""
        return PRESETS.get(self.question, Preset(self.question, WORDS))

    @property
    def prompt(self) -> WantedPrompt:
        """The prompt as far as the settings give it."""
        system = self.preset.system if self.system is None else self.system
        words = (self.answers[0], self.answers[1]) if self.answers else self.preset.answers
        return WantedPrompt(self.template, system, self.preset.question, words)

    def arguments(self) -> dict[str, Any]:
        """Also the prompt, the packing, and the bound on an image's tokens."""
        own = {"prompt": self.prompt, "packing": self.packing, "max_image_tokens": self.max_image_tokens}
        return {**super().arguments(), **own}

    def faults(self, place: str) -> Iterator[str]:
        """A question without its caption, answers that are no pair, or a template without its places."""
        yield from super().faults(place)
        question = self.preset.question
        if (
            question.count("{caption}") != 1
            or question.count("{image}") > 1
            or "{image}" in question.split("{caption}")[-1]
        ):
            yield (
                f"`{place}question` must be {', '.join(PRESETS)}, or hold {{caption}} exactly once and behind no "
                f"{{image}}, got {self.question!r}"
            )
        if self.answers and (len(self.answers) != 2 or len({*self.answers}) != 2 or not all(self.answers)):
            yield f"`{place}answers` must be two words, that of a match first, got {self.answers}"
        texts = {"template": self.template, "system": self.system, "question": self.question}
        yield from prompt_faults(texts, (AUTO, CHECKPOINT), place)
        if self.template not in (AUTO, CHECKPOINT) and "{image}" in question:
            yield image_in_both(place)


class ChatVlmTraits(BackboneTraits):
    """Of `backbones.chat_vlm.ChatVlmModule`."""

    Settings: ClassVar[type[ModelSettings]] = ChatVlmSettings
    offers: ClassVar[tuple[str, ...]] = ("answer_logits", "match_logits")
