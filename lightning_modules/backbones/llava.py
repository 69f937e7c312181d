"""LLaVA-1.5 as an image-text matching scorer: match logit = z(Yes) - z(No) at the answer position (LLaVA-score)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor
from transformers.image_processing_backends import PilBackend

from datamodules.batch import POSITIVE, ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.llava_encoder import LlavaEncoder, YesNoPrompt, prompt_texts
from lightning_modules.backbones.packing import PackedLlava
from lightning_modules.backbones.settings import ModelSettings
from lightning_modules.backbones.tiny.llava import tiny_llava, tiny_llava_processor
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations

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
    # the `lm` loss leaves room for the answer, so which one it was decides where a long caption is cut
    scorer_keys = ("system", "question", "loss", *ModelSettings.scorer_keys)

    system: str | None = None
    """System sentence of the prompt; the published one where not given, "" for none."""
    question: str | None = None
    """The question with a {caption} placeholder; LLaVA-score's where not given."""

    @property
    def prompt(self) -> YesNoPrompt:
        """The prompt, published where nothing else is given."""
        given = {"system": self.system, "question": self.question}
        return YesNoPrompt(**{name: text for name, text in given.items() if text is not None})

    def arguments(self) -> dict[str, Any]:
        """Also the prompt."""
        return {**super().arguments(), "prompt": self.prompt}

    def faults(self, place: str) -> Iterator[str]:
        """A misspelt part for adapters, and a question without its caption."""
        if self.tune == "lora":
            yield from self.adapter.misspelt(PARTS, place)
        if self.question is not None and self.question.count("{caption}") != 1:
            yield f"`{place}question` must hold {{caption}} exactly once, got {self.question!r}"


class LlavaModule(Backbone):
    """LLaVA behind the contract of `AlignmentModule`.

    Args:
        llava: the Transformers model; its attention must be SDPA or eager.
        processor: its processor.
        prompt: the question around a caption.
        loss: `lm` (LLaVA-score's), or one that reads match logits.
        loss_settings: of the loss; its defaults where None.
        train_vision: also train the vision tower.
        lora: adapters on the language model; None trains all of its weights.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: see `LlavaEncoder`; the language model's context where None.
        long_captions: see `LlavaEncoder`.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: an unknown loss, an answer that is no single token, or adapters that match nothing.
    """

    backbone = "llava"
    offers = ("answer_logits", "match_logits")
    model_class = LlavaForConditionalGeneration
    Settings = LlavaSettings
    parts = PARTS
    licences: ClassVar = {"llava-hf/llava-1.5-": ("llama2", "Llama 2 Community License")}
    network: PackedLlava

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        *,
        prompt: YesNoPrompt | None = None,
        loss: str = LlavaSettings.default_loss,
        loss_settings: Any | None = None,
        train_vision: bool = False,
        lora: LoraSettings | None = None,
        gradient_checkpointing: bool = False,
        max_text_tokens: int | None = None,
        long_captions: str = "truncate",
        **optim: Any,
    ):
        super().__init__(loss=loss, loss_settings=loss_settings, **optim)
        check_choice("long_captions", long_captions, LONG_CAPTIONS)
        self.processor = processor
        self.encoder = LlavaEncoder(
            processor,
            prompt or YesNoPrompt(),
            # a loss on match logits reads the prompt alone; the answer would only cost room
            answers=self.objective.reads == "answer_logits",
            max_text_tokens=max_text_tokens or llava.model.language_model.config.max_position_embeddings,
            long_captions=long_captions,
        )
        self.end_id = processor.tokenizer.eos_token_id
        llava.model.vision_tower.requires_grad_(train_vision)
        if lora is not None:
            llava.model.language_model.requires_grad_(False)
            # LLaVA's LoRA leaves the head out: it neither trains nor gets an adapter
            llava.lm_head.requires_grad_(False)
            add_lora(llava, lora, PARTS)
        freeze_unreached(llava)
        if gradient_checkpointing:
            recompute_activations(llava)
        self.network = PackedLlava(llava)

    @classmethod
    def tiny(
        cls, settings: LlavaSettings, captions: Iterable[str], processor: LlavaProcessor | None
    ) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """See `tiny_llava`; the tokenizer learns the prompt too."""
        processor = processor or tiny_llava_processor(settings.tiny, prompt_texts(settings.prompt, captions))
        return tiny_llava(settings.tiny, processor.tokenizer), processor

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a LLaVA."""
        return CardText(
            title="LLaVA-1.5 asked whether the caption matches (LLaVA-score)",
            logit="z(Yes) - z(No) at the answer position",
            score="p(Yes) / (p(Yes) + p(No)), the sigmoid of the logit",
            pipeline_tag="image-text-to-text",
            limit="The prompt is part of the scorer: another question gives other scores.",
            code=card_code("llava"),
        )

    def scorer_settings(self) -> dict[str, Any]:
        """The prompt and the loss, and what every backbone has."""
        prompt = self.encoder.prompt
        own = {"system": prompt.system, "question": prompt.question, "loss": self.loss_name}
        return {**own, **super().scorer_settings()}

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

    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 z(Yes) - z(No) at the answer position."""
        return self._match_logits(self._answer_logits(batch, places=1)[:, :, 0])

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """p(Yes) / (p(Yes) + p(No)) = sigmoid of the match logit, in [0, 1]."""
        return logits.sigmoid()

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, torch.Tensor]:
        """Match logits; for a loss on the answer, logits behind the prompt and behind Yes or No too."""
        if self.objective.reads != "answer_logits":
            return super().loss_inputs(batch)
        answers = self._answer_logits(batch, places=2)
        # unknown captions get "No" here, and the mask of the loss leaves them out
        first = torch.where(batch.labels == POSITIVE, self.encoder.yes_id, self.encoder.no_id)
        return {
            "answer_logits": answers,
            # Yes or No and the end token, as LLaVA is trained; both have a loss
            "answer_ids": torch.stack([first, torch.full_like(first, self.end_id)], dim=-1),
            "match_logits": self._match_logits(answers[:, :, 0]),
        }

    def _match_logits(self, vocabulary_logits: torch.Tensor) -> torch.Tensor:
        # float32 before the difference: in half precision many captions would tie.
        return vocabulary_logits[..., self.encoder.yes_id].float() - vocabulary_logits[..., self.encoder.no_id].float()

    def _answer_logits(self, batch: ImageTextBatch, places: int) -> torch.Tensor:
        """(B, C, places, V): logits behind the prompt's last token and the `places - 1` tokens after it."""
        inputs = batch.inputs
        offsets = torch.arange(places, device=inputs["answer_index"].device)
        # clamped: behind a caption of unknown label, or in a cell without one, there may be no further token
        index = (inputs["answer_index"].unsqueeze(-1) + offsets).clamp(max=inputs["input_ids"].shape[1] - 1)
        logits = self.network(
            pixel_values=inputs["pixel_values"],
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            segment_ids=inputs["segment_ids"],
            logit_index=index.flatten(1),
        )
        return logits.view(*index.shape, -1)


def freeze_unreached(llava: LlavaForConditionalGeneration) -> None:
    """Freezes vision layers behind the one that is read: no loss reaches them, and DDP would wait for gradients."""
    layer = llava.config.vision_feature_layer
    vision = llava.model.vision_tower
    # some LLaVAs read several layers, a list: all of them up to the last are reached
    if not isinstance(layer, int) or not hasattr(vision, "encoder"):
        return
    layers = vision.encoder.layers
    # hidden_states has one entry more than there are layers: the embeddings come first.
    for unreached in layers[layer % (len(layers) + 1) :]:
        unreached.requires_grad_(False)
    if hasattr(vision, "post_layernorm"):
        vision.post_layernorm.requires_grad_(False)
