"""LLaVA-1.5 as an image-text matching scorer: match logit = z(Yes) - z(No) at the answer position (LLaVA-score)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from transformers import LlavaForConditionalGeneration, LlavaImageProcessorPil, LlavaProcessor
from transformers.image_processing_backends import PilBackend

from datamodules.batch import POSITIVE, ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.llava_encoder import LlavaEncoder, fitting_processor
from lightning_modules.backbones.llava_prompt import (
    VICUNA,
    VICUNA_TEMPLATE,
    WantedPrompt,
    YesNoPrompt,
    prompt_texts,
)
from lightning_modules.backbones.packing import PackedLlava
from lightning_modules.backbones.tiny.llava import tiny_llava, tiny_llava_processor
from lightning_modules.backbones.traits.llava import PARTS, LlavaSettings, LlavaTraits
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations


class LlavaModule(LlavaTraits, Backbone):
    """LLaVA behind the contract of `AlignmentModule`.

    Args:
        llava: the Transformers model; its attention must be SDPA or eager.
        processor: its processor.
        prompt: the text around a caption, or what is wanted of it; LLaVA-1.5's where None.
        loss: `lm` (LLaVA-score's), or one that reads match logits.
        loss_settings: of the loss; its defaults where None.
        train_vision: also train the vision tower.
        lora: adapters on the language model; None trains all of its weights.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: see `LlavaEncoder`; the language model's context where None.
        long_captions: see `LlavaEncoder`.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: an unknown loss, a prompt or a number of image tokens that cannot be known, an answer that is no
            single token, or adapters that match nothing.
    """

    backbone = "llava"
    model_class = LlavaForConditionalGeneration
    parts = PARTS
    licences: ClassVar = {"llava-hf/llava-1.5-": ("llama2", "Llama 2 Community License")}
    network: PackedLlava

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        *,
        prompt: YesNoPrompt | WantedPrompt | None = None,
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
        self.processor, image_tokens = fitting_processor(processor, llava)
        if isinstance(prompt, WantedPrompt):
            prompt = prompt.resolve(processor, llava.config.text_config)
            self.notes = (f"The prompt is {describe(prompt)}.",)
        self.encoder = LlavaEncoder(
            self.processor,
            prompt or YesNoPrompt(),
            image_tokens=image_tokens,
            # a loss on match logits reads the prompt alone; the answer would only cost room
            answers=self.objective.reads == "answer_logits",
            max_text_tokens=max_text_tokens or context_of(llava.model.language_model.config),
            long_captions=long_captions,
        )
        self.end_id = processor.tokenizer.eos_token_id
        if self.end_id is None and self.encoder.answers:
            raise ValueError(f"The loss {loss} needs a token that ends an answer, and the tokenizer has no eos_token.")
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

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, Any]:
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
            "yes_no_ids": (self.encoder.yes_id, self.encoder.no_id),
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
            image_index=inputs["image_index"],
            logit_index=index.flatten(1),
        )
        return logits.view(*index.shape, -1)


def describe(prompt: YesNoPrompt) -> str:
    """A prompt in a few words, for people."""
    if prompt.template == VICUNA_TEMPLATE:
        return "LLaVA-1.5's" + ("" if prompt == YesNoPrompt() else f", with {prompt.system!r} and {prompt.question!r}")
    return repr(f"{prompt.system} {prompt.template}" if prompt.system else prompt.template)


def freeze_unreached(llava: LlavaForConditionalGeneration) -> None:
    """Freezes vision layers behind the one that is read: no loss reaches them, and DDP would wait for gradients.

    Raises:
        ValueError: a layer is to be read that the tower does not have.
    """
    read, vision = llava.config.vision_feature_layer, llava.model.vision_tower
    if not hasattr(vision, "encoder"):
        return
    layers = vision.encoder.layers
    wanted = [read] if isinstance(read, int) else read
    if any(not -len(layers) - 1 <= layer <= len(layers) for layer in wanted):
        raise ValueError(f"vision_feature_layer must be of the tower's {len(layers)} layers, got {read} (config.json).")
    # hidden_states has one entry more than there are layers: the embeddings come first. Some LLaVAs read several.
    last = max(layer % (len(layers) + 1) for layer in wanted)
    for unreached in layers[last:]:
        unreached.requires_grad_(False)
    for name in ("post_layernorm", "head"):  # SigLIP's tower has a head, which pools
        if hasattr(vision, name):
            getattr(vision, name).requires_grad_(False)


def context_of(text_config: Any) -> int | None:
    """Most tokens of a sequence that the language model reads, all from everywhere; None where it does not say.

    Beyond a sliding window (Mistral) a token would not see the image.
    """
    sizes = (getattr(text_config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min((size for size in sizes if size), default=None)
