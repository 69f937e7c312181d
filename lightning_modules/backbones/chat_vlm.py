"""Chat VLMs as image-text matching scorers: match logit = z(Yes) - z(No) at the answer position.

Qwen2-VL to Qwen3.5, InternVL, SmolVLM, Idefics3, LLaVA-NeXT and OneVision, Gemma 3, PaliGemma: `chat.table.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from datamodules.batch import POSITIVE, ImageTextBatch
from lightning_modules.adapters import LoraSettings, Parts, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.chat.chat_template import turn_end
from lightning_modules.backbones.chat.encoder import IMAGE_KEY, ChatEncoder
from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.chat.network import ChatNetwork, unpackable
from lightning_modules.backbones.chat.prompt import TASK_START, WORDS, WantedPrompt, YesNoPrompt, describe
from lightning_modules.backbones.chat.table import FAMILIES, check_family, family_of
from lightning_modules.backbones.published import commit_of, load_processor, load_published, saved_config
from lightning_modules.backbones.traits.chat_vlm import PARTS, ChatVlmSettings, ChatVlmTraits
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations


class ChatVlmModule(ChatVlmTraits, Backbone):
    """A chat VLM behind the contract of `AlignmentModule`.

    Args:
        vlm: the Transformers model; its attention must be SDPA or eager.
        processor: its processor.
        prompt: the text around a caption, or what is wanted of it; the chat template's where None.
        packing: `on`, `off`, or `auto`: whether captions share the tokens of their image; see `ChatVlmSettings`.
        max_image_tokens: most tokens of an image; the processor's own bound where None.
        loss: `lm`, or one that reads match logits.
        loss_settings: of the loss; its defaults where None.
        train_vision: also train the vision tower.
        lora: adapters, on the language model by default; None trains all of its weights.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: see `ChatEncoder`; the language model's context where None.
        long_captions: see `ChatEncoder`.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: an unknown family or loss, a prompt that cannot be known, an answer that is no single token, packing
            that the model does not allow, or adapters that match nothing.
    """

    backbone = "chat_vlm"
    families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)
    parts: ClassVar[Parts] = PARTS
    default_prompt: ClassVar[YesNoPrompt | WantedPrompt] = WantedPrompt()
    network: ChatNetwork

    def __init__(
        self,
        vlm: PreTrainedModel,
        processor: Any,
        *,
        prompt: YesNoPrompt | WantedPrompt | None = None,
        packing: str = "auto",
        max_image_tokens: int | None = None,
        loss: str = ChatVlmSettings.default_loss,
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
        family = family_of(vlm.config)
        self.processor = family.fitted(processor, vlm, max_image_tokens)
        prompt = self.default_prompt if prompt is None else prompt
        if isinstance(prompt, WantedPrompt):
            prompt = self.resolve(prompt, family, vlm)
            self.notes = (f"The prompt is {describe(prompt)}.",)
        family.check_prompt(prompt)
        self.packing = packing
        packed = packing == "on" or (packing == "auto" and not unpackable(vlm.config, family))
        self.encoder = ChatEncoder(
            self.processor,
            family,
            prompt,
            # a loss on match logits reads the prompt alone; the answer would only cost room
            answers=self.objective.reads == "answer_logits",
            packed=packed,
            max_text_tokens=max_text_tokens or context_of(vlm.config.get_text_config(), windowed=family.windowed),
            long_captions=long_captions,
        )
        if self.encoder.answers:
            self.end_id = end_of_answer(self.processor)
        freeze_vision(vlm, self.parts, train_vision=train_vision)
        if lora is not None:
            self._freeze_language(vlm)
            add_lora(vlm, lora, self.parts)
        freeze_unreached(vlm)
        if gradient_checkpointing:
            recompute_activations(vlm)
        self.network = ChatNetwork(vlm, family, packed=packed)

    def resolve(self, wanted: WantedPrompt, family: Family, vlm: PreTrainedModel) -> YesNoPrompt:
        """The prompt that is wanted of this checkpoint."""
        return wanted.of_chat(self.processor, family.template)

    @staticmethod
    def _freeze_language(vlm: PreTrainedModel) -> None:
        # as in LLaVA's LoRA: the language model and its head neither train nor, for the head, get an adapter
        frozen = {*PARTS["language_model"], "lm_head"}
        for name, parameter in vlm.named_parameters():
            if frozen.intersection(name.split(".")):
                parameter.requires_grad_(False)

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """The families."""
        return cls.families

    @classmethod
    def load_model(
        cls, checkpoint: str | Path, settings: Any, *, dtype: torch.dtype | str = "float32"
    ) -> tuple[Any, Any]:
        """See `Backbone.load_model`; the model's class is the one that Transformers has for its type."""
        saved = saved_config(checkpoint, settings.revision)
        check_family(saved.get("model_type"), str(checkpoint), cls.families)
        model_class = class_of_type(str(saved["model_type"]))
        model = load_published(model_class, checkpoint, dtype=dtype, revision=settings.revision)
        return model, load_processor(checkpoint, revision=commit_of(model.config) or settings.revision)

    @classmethod
    def tiny(cls, settings: Any, captions: Iterable[str], processor: Any | None) -> tuple[Any, Any]:
        """See `tiny_chat_vlm`."""
        from lightning_modules.backbones.tiny.chat_vlm import tiny_chat_vlm

        return tiny_chat_vlm(settings, captions, processor)

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a chat VLM."""
        yes, no = settings.get("answers", WORDS)
        return CardText(
            title=cls.card_title(settings),
            logit=f"z({yes}) - z({no}) at the answer position",
            score=f"p({yes}) / (p({yes}) + p({no})), the sigmoid of the logit",
            pipeline_tag="image-text-to-text",
            limit="The prompt is part of the scorer: another question gives other scores.",
            code=card_code("chat_vlm"),
            values={
                "template": settings["template"],
                "answers": YesNoPrompt(template=settings["template"], words=(yes, no)).answers,
                "task": settings["template"].startswith(TASK_START),
            },
        )

    @classmethod
    def card_title(cls, settings: Mapping[str, Any]) -> str:
        """What the scorer is, in a few words."""
        return f"A chat VLM asked whether the caption matches ({' or '.join(settings['answers'])})"

    def plain_processor(self) -> Any:
        """See `Family.plain_processor`."""
        return self.encoder.family.plain_processor(self.processor)

    def scorer_settings(self) -> dict[str, Any]:
        """The prompt, the packing and the loss, and what every backbone has."""
        prompt = self.encoder.prompt
        own = {
            # as a text: an export then needs no Jinja, and no file that may change
            "template": prompt.template,
            "system": prompt.system,
            "question": prompt.question,
            "answers": list(prompt.words),
            "packing": self.packing,
            "loss": self.loss_name,
        }
        return {**own, **super().scorer_settings()}

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
        pixels = {key.removeprefix(IMAGE_KEY): value for key, value in inputs.items() if key.startswith(IMAGE_KEY)}
        keys = ("input_ids", "position_ids", "segment_ids", "answer_cells", "image_tokens", "image_row")
        return self.network(
            pixels=pixels,
            **{key: inputs[key] for key in keys},
            logit_row=inputs["answer_row"].unsqueeze(-1).expand_as(index),
            logit_index=index,
        )


def end_of_answer(processor: Any) -> int:
    """The token that ends an answer: the chat template's, or else the tokenizer's.

    Raises:
        ValueError: there is none.
    """
    found = turn_end(processor)
    end = processor.tokenizer.eos_token_id if found is None else found
    if end is None:
        raise ValueError("The loss lm needs a token that ends an answer, and the tokenizer has no eos_token.")
    return int(end)


def class_of_type(model_type: str) -> type[PreTrainedModel]:
    """The Transformers class for image and text of a family."""
    classes: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    found: type[PreTrainedModel] = classes[CONFIG_MAPPING[model_type]]
    return found


def freeze_vision(vlm: PreTrainedModel, parts: Mapping[str, Any], *, train_vision: bool) -> None:
    """Freezes or frees the vision tower; a projector inside of it trains in any case."""
    for name, parameter in vlm.named_parameters():
        words = set(name.split("."))
        if words.intersection(parts["vision"]):
            parameter.requires_grad_(train_vision or bool(words.intersection(parts["projector"])))


def freeze_unreached(vlm: Any) -> None:
    """Freezes vision layers behind the one that is read: no loss reaches them, and DDP would wait for gradients.

    Raises:
        ValueError: a layer is to be read that the tower does not have.
    """
    read, vision = getattr(vlm.config, "vision_feature_layer", None), getattr(vlm.model, "vision_tower", None)
    if read is None or vision is None or not hasattr(vision, "encoder"):
        return
    layers = vision.encoder.layers if hasattr(vision.encoder, "layers") else vision.encoder.layer
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


def context_of(text_config: Any, *, windowed: bool = False) -> int | None:
    """Most tokens of a sequence that the language model reads, all from everywhere; None where it does not say.

    Beyond a sliding window (Mistral) a token would not see the image. `windowed`: the model has layers beside that see
    it, and its masks keep to the windows (Gemma 3).
    """
    kinds = getattr(text_config, "layer_types", None)
    slides = not windowed and (kinds is None or "sliding_attention" in kinds)
    names = ("max_position_embeddings", *["sliding_window"] * slides)
    return min((size for name in names if (size := getattr(text_config, name, None))), default=None)
