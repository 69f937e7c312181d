"""SigLIP and SigLIP 2 as image-text matching scorers: match logit = logit scale x cosine + logit bias, score = sigmoid.

Sigmoid Loss for Language Image Pre-Training (Zhai et al., ICCV 2023); SigLIP 2 (Tschannen et al., 2025), whose NaFlex
models read an image in its own shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import SiglipModel, SiglipProcessor
from transformers.models.siglip2.modeling_siglip2 import Siglip2Model
from transformers.models.siglip2.processing_siglip2 import Siglip2Processor

from datamodules.batch import ImageTextBatch
from lightning_modules.adapters import LoraSettings, add_lora
from lightning_modules.backbones.backbone import Backbone, CardText, card_code
from lightning_modules.backbones.encoders.siglip import SiglipEncoder, check_fit, load_siglip_processor
from lightning_modules.backbones.published import commit_of, load_published, saved_config
from lightning_modules.backbones.tiny.siglip import tiny_siglip, tiny_siglip_processor
from lightning_modules.backbones.traits.siglip import PARTS, SiglipSettings, SiglipTraits
from lightning_modules.base import LONG_CAPTIONS, check_choice, recompute_activations
from lightning_modules.flat_captions import to_cells
from lightning_modules.precision import at_least_float32

AnySiglip: TypeAlias = SiglipModel | Siglip2Model
PIXELS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
"""What a SigLIP reads of an image; the last two of NaFlex alone."""


class SiglipNetwork(nn.Module):
    """A SigLIP whose `forward` encodes every image and every text once.

    It owns the Transformers model: sharded parameters (FSDP2) are gathered by the hooks of this module's forward, so
    nothing outside calls a submodule or reads a weight. Scale and bias have one axis in Transformers' format already.
    """

    def __init__(self, siglip: AnySiglip):
        super().__init__()
        self.siglip = siglip

    def forward(self, pixels: Mapping[str, torch.Tensor], input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features, scale and bias, in float32 at least: in half precision the cosines of similar captions would tie.

        Args:
            pixels: those of `PIXELS` that the model reads, of B images.
            input_ids: [N, T], padded to the text tower's length. There is no mask: SigLIP was trained without.

        Returns:
            `image_features` [B, D] and `text_features` [N, D] of length 1, and `scale` and `bias` [1] of their cosines.
        """
        return (
            image_features(self.siglip, pixels),
            text_features(self.siglip, input_ids),
            at_least_float32(self.siglip.logit_scale).exp(),
            # no view of the weight, which a sharded network may give back behind this forward
            at_least_float32(self.siglip.logit_bias).clone(),
        )


def image_features(siglip: AnySiglip, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B, D] features of length 1, in float32 at least."""
    return F.normalize(at_least_float32(siglip.get_image_features(**pixels).pooler_output), dim=-1)


def text_features(siglip: AnySiglip, input_ids: torch.Tensor) -> torch.Tensor:
    """[N, D] features of length 1, in float32 at least, of padded texts [N, T]."""
    return F.normalize(at_least_float32(siglip.get_text_features(input_ids=input_ids).pooler_output), dim=-1)


class SiglipModule(SiglipTraits, Backbone):
    """SigLIP behind the contract of `AlignmentModule`.

    Args:
        siglip: the Transformers model, a NaFlex or one of a fixed resolution.
        processor: its processor.
        loss: `sigmoid` (SigLIP's), another one that reads features, or one that reads match logits.
        loss_settings: of the loss; its defaults where None.
        train_vision: also train the vision tower's own weights, where there are no adapters.
        lora: adapters, beside which both towers stay as they are; None trains the towers' weights. The scale trains
            either way, and so does the bias where the loss reads it.
        gradient_checkpointing: recompute activations in the backward pass.
        max_text_tokens: longest caption, end token among its tokens; the text tower's context where None.
        long_captions: `truncate`, or `error` to refuse longer ones.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        ValueError: an unknown setting, a limit beyond the text tower's context, a processor that is not this model's,
            or adapters that match nothing.
    """

    backbone = "siglip"
    model_class = SiglipModel  # a NaFlex's is chosen in `load_model`
    parts = PARTS
    encodes_apart = True
    licences: ClassVar = {"google/siglip": ("apache-2.0", "Apache-2.0")}
    network: SiglipNetwork

    def __init__(
        self,
        siglip: AnySiglip,
        processor: SiglipProcessor | Siglip2Processor,
        *,
        loss: str = SiglipSettings.default_loss,
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
        check_fit(siglip, processor)
        context = siglip.text_model.config.max_position_embeddings
        limit = context if max_text_tokens is None else max_text_tokens
        # a token and end
        if not 2 <= limit <= context:
            raise ValueError(f"model.max_text_tokens must be in [2, {context}] for this SigLIP, got {limit}.")
        self.processor = processor
        self.encoder = SiglipEncoder(processor, context=context, max_text_tokens=limit, long_captions=long_captions)
        # before `add_lora`, which keeps what trains at this point
        siglip.vision_model.requires_grad_(train_vision)
        # a softmax over features takes no notice of a bias: DDP would wait for its gradient
        siglip.logit_bias.requires_grad_(self.objective.reads != "features")
        if lora is not None:
            siglip.text_model.requires_grad_(False)
            siglip.vision_model.requires_grad_(False)
            add_lora(siglip, lora, PARTS)
        if gradient_checkpointing:
            recompute_activations(siglip)
        self.network = SiglipNetwork(siglip)

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """Of a fixed resolution (SigLIP, and SigLIP 2 in the same format), and NaFlex."""
        return ("siglip", "siglip2")

    @classmethod
    def load_model(
        cls, checkpoint: str | Path, settings: SiglipSettings, *, dtype: torch.dtype | str = "float32"
    ) -> tuple[AnySiglip, Any]:
        """See `Backbone.load_model`; the model's class is the one that Transformers has for its type."""
        naflex = saved_config(checkpoint, settings.revision).get("model_type") == "siglip2"
        model_class = Siglip2Model if naflex else SiglipModel
        siglip: AnySiglip = load_published(model_class, checkpoint, dtype=dtype, revision=settings.revision)
        return siglip, load_siglip_processor(checkpoint, revision=commit_of(siglip.config) or settings.revision)

    @classmethod
    def tiny(
        cls, settings: SiglipSettings, captions: Iterable[str], processor: Any | None
    ) -> tuple[AnySiglip, SiglipProcessor | Siglip2Processor]:
        """See `tiny_siglip`."""
        processor = processor or tiny_siglip_processor(settings.tiny, captions, naflex=settings.naflex)
        return tiny_siglip(settings.tiny, processor.tokenizer, naflex=settings.naflex), processor

    @classmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of a SigLIP."""
        return CardText(
            title="SigLIP",
            logit="logit scale x cosine of image and text + logit bias",
            score="the sigmoid of the match logit, in [0, 1]",
            pipeline_tag="zero-shot-image-classification",
            limit="Image and caption do not see each other before the cosine; captions are read in lower case.",
            code=card_code("siglip"),
        )

    @property
    def logit_offset(self) -> float:
        """The bias, of a network that is not sharded."""
        return float(self.network.siglip.logit_bias.detach())

    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 scale x cosine + bias of each image and its own captions; 0 in cells that do not exist."""
        images, texts, scale, bias = self._features(batch)
        own_image = images[batch.inputs["cell_index"] // batch.labels.shape[1]]
        # a sum of products, since a matrix product would round under autocast
        return to_cells((scale * (own_image * texts).sum(-1) + bias).float(), batch)

    def matrix_logits(self, images: Iterable[Sequence[Image.Image]], captions: Iterable[Sequence[str]]) -> torch.Tensor:
        """(M, N) float32 match logits of M images with N captions, each encoded once; captions that are cut count."""
        siglip = self.network.siglip
        of_images = torch.cat([self.image_features(batch) for batch in images])
        of_texts = []
        for batch in captions:
            inputs = self.encoder.text_inputs([batch])
            self.captions_cut += int(inputs["cut"].sum())
            of_texts.append(self.encode_texts({"input_ids": inputs["input_ids"].to(self.device)}))
        bias = at_least_float32(siglip.logit_bias.detach())
        return (self._scale() * of_images @ torch.cat(of_texts).T + bias).float()

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability of a match, in [0, 1]."""
        return logits.sigmoid()

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, torch.Tensor]:
        """Features, scale and bias for a loss that reads them, match logits for others."""
        if self.objective.reads not in ("features", "biased_features"):
            return super().loss_inputs(batch)
        found = dict(zip(("image_features", "text_features", "scale", "bias"), self._features(batch), strict=True))
        if self.objective.reads == "features":
            del found["bias"]
        return found

    def _features(self, batch: ImageTextBatch) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = self.network(_pixels(batch.inputs), batch.inputs["input_ids"])
        return found

    def _scale(self) -> torch.Tensor:
        return at_least_float32(self.network.siglip.logit_scale.detach()).exp()

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[n, D] features of length 1 of images without captions, by a network that is not sharded."""
        inputs = {name: value.to(self.device) for name, value in self.encoder.image_inputs(images).items()}
        return image_features(self.network.siglip, inputs)

    def encode_images(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features times the scale, by a network that is not sharded."""
        return self._scale() * image_features(self.network.siglip, _pixels(inputs))

    def encode_texts(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features of length 1, by a network that is not sharded."""
        return text_features(self.network.siglip, inputs["input_ids"])


def _pixels(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in PIXELS if name in inputs}
