"""Model FLOPs of a step, by formula.

A weight that a row of numbers passes in a matrix product costs 2 operations forward, 2 for the gradient of the row and,
where it trains, 2 for its own gradient. For N weights and T tokens that makes 2 N T in scoring, 6 N T in full training,
and 4 N T with LoRA, whose adapters cost 6 for each of theirs. The frozen vision tower costs 2: it gets no gradient.

Attention costs 4 operations for each number of a head and each place that a token may look at, and twice as many
backward (PaLM, Chowdhery et al., 2022, appendix B; there for all places, here for those that the mask allows). What is
computed beyond is no model FLOP: padding, masked places, activations that are computed once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from datamodules import ImageTextBatch
from lightning_modules import AlignmentModule
from lightning_modules.backbones import IMAGE_KEY, PADDING_SEGMENT, branch_attention_mask

NO_GRADIENT, OWN_GRADIENT, BOTH_GRADIENTS = 0, 1, 2
"""Of a layer: none; that of its weights, where they train; also that of its inputs."""


class Flops(NamedTuple):
    """Operations of one step on a batch: in matrix products with weights, and in attention."""

    products: int
    attention: int


class Layers(NamedTuple):
    """Linear layers whose name a pattern is found in; of several patterns the first one counts.

    Attributes:
        pattern: regular expression.
        rows: how many pass the layer in a step.
        gradients: which are computed in training.
    """

    pattern: str
    rows: int
    gradients: int = BOTH_GRADIENTS


@dataclass(frozen=True)
class Rows:
    """What passes a model in a step.

    Attributes:
        layers: rows through its linear layers; what no pattern fits is not run.
        attention: operations of a forward, where gradients follow in training.
        vision_attention: operations of a forward, without gradients.
    """

    layers: Sequence[Layers]
    attention: int
    vision_attention: int


def model_flops(module: AlignmentModule, batch: ImageTextBatch, *, training: bool) -> Flops:
    """Model FLOPs of the packed forward, and of the backward in training.

    Args:
        module: a scorer; what of it trains decides.
        batch: with the inputs of this module.
        training: forward and backward, or forward alone.
    """
    rows = (blip2_rows if "pixel_values" in batch.inputs else chat_rows)(module, batch)
    products = 0
    for name, layer in module.network.named_modules():
        # embeddings are looked up and not multiplied
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            found = next((group for group in rows.layers if re.search(group.pattern, name)), Layers("", 0))
            gradients = found.gradients if training else NO_GRADIENT
            own = gradients >= OWN_GRADIENT and layer.weight.requires_grad
            products += 2 * layer.weight.numel() * found.rows * (1 + own + (gradients == BOTH_GRADIENTS))
    return Flops(products, rows.attention * (3 if training else 1) + rows.vision_attention)


def chat_rows(module: AlignmentModule, batch: ImageTextBatch) -> Rows:
    """Rows of a chat VLM: patches, tokens of images, tokens of sequences without padding, and answers."""
    inputs, config = batch.inputs, cast(Any, module).to_transformers().config
    segments, vision, text = inputs["segment_ids"], config.vision_config, config.get_text_config()
    grids = inputs.get(f"{IMAGE_KEY}image_grid_thw")
    if grids is not None:
        patches = grids.prod(-1)
    else:  # squares of one size, and CLIP's class token
        patches = torch.tensor([(vision.image_size // vision.patch_size) ** 2 + 1] * len(inputs["image_tokens"]))
    # Qwen's own name; older versions of Transformers know no other
    tower_layers = vision.depth if hasattr(vision, "depth") else vision.num_hidden_layers
    padding = int((segments == PADDING_SEGMENT).sum())
    # padding looks at itself, which is no place of the model's
    places = int(branch_attention_mask(segments).sum()) - padding
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    image_tokens = int(inputs["image_tokens"].sum())
    return Rows(
        [
            # in front of the first layer all is frozen; in front of a merger's stands its norm, which trains
            Layers(r"multi_modal_projector\.linear_1", image_tokens, OWN_GRADIENT),
            Layers(r"multi_modal_projector|merger", image_tokens),
            Layers(r"\.(vision_tower|visual)\.", int(patches.sum()), NO_GRADIENT),
            Layers(r"\.language_model\.", segments.numel() - padding),
            Layers(r"\.lm_head", int(batch.caption_mask.sum())),
        ],
        attention=4 * places * head * text.num_attention_heads * text.num_hidden_layers,
        vision_attention=4 * int((patches**2).sum()) * vision.hidden_size * tower_layers,
    )


def blip2_rows(module: AlignmentModule, batch: ImageTextBatch) -> Rows:
    """Rows of BLIP-2's ITM: places of images, and for each pair queries, text, and the image that queries look at."""
    inputs, config = batch.inputs, cast(Any, module).to_transformers().config
    vision, former = config.vision_config, config.qformer_config
    images, pairs, queries = len(inputs["pixel_values"]), len(inputs["input_ids"]), config.num_query_tokens
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    texts = inputs["attention_mask"].sum(-1)
    words, last = int(texts.sum()), former.num_hidden_layers - 1
    crossing = -(-former.num_hidden_layers // former.cross_attention_frequency)
    places = int(((queries + texts) ** 2).sum()) * former.num_hidden_layers + pairs * queries * patches * crossing
    return Rows(
        [
            Layers(r"\.vision_model\.", images * patches, NO_GRADIENT),
            Layers(r"crossattention\.attention\.(key|value)", pairs * patches, OWN_GRADIENT),
            Layers(r"itm_head|crossattention|intermediate_query|output_query", pairs * queries),
            Layers(r"attention\.", pairs * queries + words),
            # the head reads queries alone: behind the last layer's text there is no loss
            Layers(rf"layer\.{last}\.(intermediate|output)\.", words, NO_GRADIENT),
            Layers(r"\.(intermediate|output)\.", words),
        ],
        attention=4 * places * former.hidden_size,
        vision_attention=4 * images * patches**2 * vision.hidden_size * vision.num_hidden_layers,
    )
