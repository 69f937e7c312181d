"""A tiny SigLIP built from a config: the real classes with few layers and a tokenizer trained on the spot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from transformers.models.siglip2.configuration_siglip2 import Siglip2Config, Siglip2TextConfig, Siglip2VisionConfig
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.siglip2.modeling_siglip2 import Siglip2Model
from transformers.models.siglip2.processing_siglip2 import Siglip2Processor
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.tiny.tokenizers import train_gemma_pieces

CONTEXT = 64
PAD, END = "<pad>", "</s>"
SCALE, BIAS = math.log(10), -10.0
"""What training begins with (Zhai et al., 2023, section 3.2): a batch has few positives, so all pairs look false."""


def tiny_siglip_processor(
    shape: TinyShape, texts: Iterable[str], *, naflex: bool = False
) -> SiglipProcessor | Siglip2Processor:
    """A SigLIP processor for `shape`, with a lower-case tokenizer trained on `texts`; NaFlex's is its own class."""
    if naflex:
        most = (shape.image_size // shape.patch_size) ** 2
        images = Siglip2ImageProcessorPil(patch_size=shape.patch_size, max_num_patches=most)
        return Siglip2Processor(images, _naflex_tokenizer(texts, shape.vocab_size))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=CONTEXT, padding_side="right"
    )
    size = {"height": shape.image_size, "width": shape.image_size}
    return SiglipProcessor(image_processor=SiglipImageProcessorPil(size=size), tokenizer=fast)


def _naflex_tokenizer(texts: Iterable[str], vocab_size: int) -> Siglip2Tokenizer:
    # Transformers reads the tokenizer of a saved NaFlex by this class, whatever it was saved as
    return Siglip2Tokenizer(
        **train_gemma_pieces((text.lower() for text in texts), vocab_size)._asdict(),
        add_bos_token=False,
        add_eos_token=True,
        model_max_length=CONTEXT,
        padding_side="right",
    )


def tiny_siglip(
    shape: TinyShape, tokenizer: PreTrainedTokenizerBase, *, naflex: bool = False
) -> SiglipModel | Siglip2Model:
    """A SigLIP with random weights, which differ in size from layer to layer as SigLIP's do; seed torch first."""
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": 4 * shape.hidden_size,
        # the vision tower has no projection
        "projection_size": shape.vision_hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision: dict[str, Any] = {
        "hidden_size": shape.vision_hidden_size,
        "intermediate_size": 4 * shape.vision_hidden_size,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": max(1, shape.vision_hidden_size // 32),
        "patch_size": shape.patch_size,
    }
    siglip: SiglipModel | Siglip2Model
    if naflex:
        vision["num_patches"] = (shape.image_size // shape.patch_size) ** 2
        config = Siglip2Config(text_config=Siglip2TextConfig(**text), vision_config=Siglip2VisionConfig(**vision))
        siglip = Siglip2Model(config)
    else:
        vision["image_size"] = shape.image_size
        siglip = SiglipModel(
            SiglipConfig(text_config=SiglipTextConfig(**text), vision_config=SiglipVisionConfig(**vision))
        )
    with torch.no_grad():
        siglip.logit_scale.fill_(SCALE)
        siglip.logit_bias.fill_(BIAS)
    return siglip
