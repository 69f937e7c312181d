"""CLIP as an image-text matching scorer: match logit = logit scale x cosine, trained with hard negatives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig, PreTrainedTokenizerBase

from datamodules.batch import CaptionTooLongError, ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.clip_weights.activation import load_clip
from lightning_modules.backbones.tiny.clip import tiny_clip, tiny_clip_processor
from lightning_modules.backbones.traits.clip import PARTS, ClipSettings, ClipTraits
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations
from lightning_modules.flat_captions import flat_captions, to_cells
from lightning_modules.precision import at_least_float32

# CLIP, section 2.5: logits are never scaled by more than 100
LARGEST_LOGIT_SCALE = math.log(100)


class ClipEncoder:
    """Images and captions to CLIP's inputs; picklable, runs in loader workers.

    Args:
        processor: tokenizer and image processor of the checkpoint.
        max_text_tokens: most tokens of a caption, start and end token among them.
        long_captions: `truncate` leaves out what is too long before the end token, `error` refuses the caption.
    """

    def __init__(self, processor: CLIPProcessor, *, max_text_tokens: int, long_captions: str):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.max_text_tokens, self.long_captions = max_text_tokens, long_captions

    def _shortened(self, ids: list[int], caption: str) -> list[int]:
        if len(ids) <= self.max_text_tokens:
            return ids
        if self.long_captions == "error":
            raise CaptionTooLongError.of(caption, len(ids), self.max_text_tokens)
        # the end token stays: the text is read there
        return [*ids[: self.max_text_tokens - 1], ids[-1]]

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """What `image_inputs` and `text_inputs` give."""
        return {**self.image_inputs(images), **self.text_inputs(captions)}

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """`pixel_values` [B, 3, H, W]."""
        return {"pixel_values": self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]}

    def text_inputs(self, captions: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """What `flat_captions` gives.

        Raises:
            CaptionTooLongError: a caption is too long, and `long_captions` is `error`.
        """
        flat = [caption for texts in captions for caption in texts]
        # An end token that a caption spells stays text: it would hide what follows it.
        whole = self.tokenizer(flat, split_special_tokens=True, verbose=False).input_ids
        ids = [self._shortened(tokens, caption) for tokens, caption in zip(whole, flat, strict=True)]
        cut = [len(tokens) > self.max_text_tokens for tokens in whole]
        # Padded with the end token: the text model reads the first end token (or the first highest id).
        return flat_captions(captions, ids, cut, pad_id=self.tokenizer.eos_token_id)


class ClipNetwork(nn.Module):
    """A CLIP whose `forward` encodes every image and every text once.

    It owns the Transformers model: sharded parameters (FSDP2) are gathered by the hooks of this module's forward, so
    nothing outside calls a submodule or reads a weight.
    """

    def __init__(self, clip: CLIPModel):
        super().__init__()
        # FSDP2 shards no scalars; one element broadcasts wherever CLIPModel multiplies by its scale
        clip.logit_scale = nn.Parameter(clip.logit_scale.detach().reshape(1), clip.logit_scale.requires_grad)
        self.clip = clip

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features and scale, in float32 at least: in half precision the cosines of similar captions would tie.

        Args:
            pixel_values: [B, 3, H, W].
            input_ids, attention_mask: [N, T], padded on the right.

        Returns:
            `image_features` [B, D] and `text_features` [N, D] of length 1, and the `scale` [1] of their cosines,
            exp(logit_scale).
        """
        image_features = self.clip.get_image_features(pixel_values=pixel_values).pooler_output
        text_features = self.clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return (
            F.normalize(at_least_float32(image_features), dim=-1),
            F.normalize(at_least_float32(text_features), dim=-1),
            at_least_float32(self.clip.logit_scale).exp(),
        )


class ClipModule(ClipTraits, Backbone):
    """CLIP behind the contract of `AlignmentModule`.

    Args:
        clip: the Transformers model.
        processor: its processor.
        loss: `itc` (NegCLIP's), `ce_clip`, another one that reads features, or one that reads match logits.
        loss_settings: of the loss; its defaults where None.
        train_vision: also train the vision tower's own weights, where there are no adapters.
        lora: adapters, beside which both towers stay as they are; None trains the towers' weights. The projections
            (unless they are adapted) and the logit scale train either way.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: longest caption, start and end token among its tokens; the text model's context where None.
        long_captions: `truncate`, or `error` to refuse longer ones.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: an unknown setting, a limit beyond the text model's context, or adapters that match nothing.
    """

    backbone = "clip"
    model_class = CLIPModel
    parts = PARTS
    encodes_apart = True
    # a cosine of 0 is no even chance
    calibrated = False
    licences: ClassVar = {
        "openai/clip": ("mit", "MIT (that of OpenAI's repository; the weights' own page names none)"),
    }
    network: ClipNetwork

    def __init__(
        self,
        clip: CLIPModel,
        processor: CLIPProcessor,
        *,
        loss: str = ClipSettings.default_loss,
        loss_settings: Any | None = None,
        train_vision: bool = True,
        lora: LoraSettings | None = None,
        gradient_checkpointing: bool = False,
        max_text_tokens: int | None = None,
        long_captions: str = "truncate",
        **optim: Any,
    ):
        super().__init__(loss=loss, loss_settings=loss_settings, **optim)
        check_choice("long_captions", long_captions, LONG_CAPTIONS)
        text_config = clip.text_model.config
        context = text_config.max_position_embeddings
        limit = context if max_text_tokens is None else max_text_tokens
        # start, a token and end
        if not 3 <= limit <= context:
            raise ValueError(f"model.max_text_tokens must be in [3, {context}] for this CLIP, got {limit}.")
        check_end_token(text_config, processor.tokenizer)
        self.processor = processor
        self.encoder = ClipEncoder(processor, max_text_tokens=limit, long_captions=long_captions)
        # before `add_lora`, which keeps what trains at this point
        clip.vision_model.requires_grad_(train_vision)
        if lora is not None:
            clip.text_model.requires_grad_(False)
            clip.vision_model.requires_grad_(False)
            add_lora(clip, lora, PARTS)
        if gradient_checkpointing:
            recompute_activations(clip)
        self.network = ClipNetwork(clip)

    @classmethod
    def load_model(
        cls, checkpoint: str | Path, settings: ClipSettings, *, dtype: torch.dtype | str = "float32"
    ) -> tuple[CLIPModel, CLIPProcessor]:
        """See `load_clip`."""
        return load_clip(checkpoint, dtype=dtype, activation=settings.activation, revision=settings.revision)

    @classmethod
    def tiny(
        cls, settings: ClipSettings, captions: Iterable[str], processor: CLIPProcessor | None
    ) -> tuple[CLIPModel, CLIPProcessor]:
        """See `tiny_clip`."""
        processor = processor or tiny_clip_processor(settings.tiny, captions)
        return tiny_clip(settings.tiny, processor.tokenizer), processor

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a CLIP."""
        return CardText(
            title="CLIP",
            logit="logit scale x cosine of image and text",
            score="the cosine, in [-1, 1]",
            pipeline_tag="zero-shot-image-classification",
            limit="Image and caption do not see each other before the cosine; word order is what it reads worst.",
            code=card_code("clip"),
        )

    def scorer_settings(self) -> dict[str, Any]:
        """The activation, and what every backbone has."""
        return {"activation": self.network.clip.text_model.config.hidden_act, **super().scorer_settings()}

    def to_transformers(self) -> CLIPModel:
        """The CLIP, whose scale gets back to no axis, as in its own format."""
        scale = self.network.clip.logit_scale
        self.network.clip.logit_scale = nn.Parameter(scale.detach().reshape(()), scale.requires_grad)
        return self.network.clip

    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 scale x cosine of each image and its own captions; 0 in cells that do not exist."""
        image_features, text_features, scale = self._features(batch)
        own_image = image_features[batch.inputs["cell_index"] // batch.labels.shape[1]]
        # a sum of products, since a matrix product would round under autocast
        return to_cells((scale * (own_image * text_features).sum(-1)).float(), batch)

    def matrix_logits(self, images: Iterable[Sequence[Image.Image]], captions: Iterable[Sequence[str]]) -> torch.Tensor:
        """(M, N) float32 scale x cosine of M images with N captions, each encoded once; captions that are cut count."""
        image_features = torch.cat([self.image_features(batch) for batch in images])
        text_features = torch.cat([self.text_features(batch) for batch in captions])
        return (self._scale() * image_features @ text_features.T).float()

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The cosine, in [-1, 1]."""
        # the cosine, since a learnt scale differs between checkpoints
        return logits / self._scale()

    def _scale(self) -> torch.Tensor:
        return at_least_float32(self.network.clip.logit_scale.detach()).exp()

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, torch.Tensor]:
        """Features and scale for a loss that reads them, match logits for others."""
        if self.objective.reads != "features":
            return super().loss_inputs(batch)
        return dict(zip(("image_features", "text_features", "scale"), self._features(batch), strict=True))

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Keeps the scale between 1 and 100 after every step, as CLIP does."""
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: checkpoints are written by then
        with torch.no_grad():
            # here and not by the loss, since the scale is the network's; from 1 on, as in OpenCLIP
            self.network.clip.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)

    def _features(self, batch: ImageTextBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        names = ("pixel_values", "input_ids", "attention_mask")
        return self.network(**{name: batch.inputs[name] for name in names})

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[n, D] features of length 1 of images without captions, by a network that is not sharded."""
        return self._image_features(self.encoder.image_inputs(images)["pixel_values"].to(self.device))

    def _image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.network.clip.get_image_features(pixel_values=pixel_values).pooler_output
        return F.normalize(at_least_float32(features), dim=-1)

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """[n, D] features of length 1 of captions without images, by a network that is not sharded; counts cut ones."""
        inputs = self.encoder.text_inputs([captions])
        self.captions_cut += int(inputs["cut"].sum())
        return self.encode_texts({name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")})

    def encode_images(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features times the scale, by a network that is not sharded."""
        return self._scale() * self._image_features(inputs["pixel_values"])

    def encode_texts(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features of length 1, by a network that is not sharded."""
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return F.normalize(at_least_float32(self.network.clip.get_text_features(**given).pooler_output), dim=-1)


def check_end_token(config: CLIPTextConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """That the text model reads a caption at its end token, and not all captions at the start token.

    Transformers takes an `eos_token_id` of 2 in the configuration, which is what OpenAI's have, for "the highest id"
    (huggingface/transformers, pull request 24773).

    Raises:
        ValueError: the configuration names another token than the tokenizer's end token.
    """
    expected = len(tokenizer) - 1 if config.eos_token_id == 2 else config.eos_token_id
    if tokenizer.eos_token_id != expected:
        raise ValueError(
            f"CLIP's text_config.eos_token_id is {config.eos_token_id} (the text is read at token {expected}), but the "
            f"tokenizer ends a caption with {tokenizer.eos_token_id}; mend config.json or the tokenizer."
        )
