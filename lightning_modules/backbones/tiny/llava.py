"""A tiny LLaVA built from a config: the real classes with few layers, for the demo, for tests and for new ideas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.tiny.tokenizers import IMAGE_TOKEN, train_llama_tokenizer


def tiny_llava_processor(shape: TinyShape, texts: Iterable[str]) -> LlavaProcessor:
    """A LLaVA processor for `shape`, with a tokenizer trained on `texts`."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": shape.image_size},
            crop_size={"height": shape.image_size, "width": shape.image_size},
        ),
        tokenizer=train_llama_tokenizer(texts, shape.vocab_size),
        patch_size=shape.patch_size,
        # CLIP's class token, which the strategy `default` drops again
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )


def tiny_llava(shape: TinyShape, tokenizer: PreTrainedTokenizerBase) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights for this tokenizer; seed torch first."""
    config = LlavaConfig(**tiny_llava_config(shape, tokenizer), attn_implementation="sdpa")  # type: ignore[call-arg]
    return LlavaForConditionalGeneration(config)


def tiny_llava_config(shape: TinyShape, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Sizes and token ids of a LLaVA."""
    return {
        "vision_config": CLIPVisionConfig(
            hidden_size=shape.vision_hidden_size,
            intermediate_size=2 * shape.vision_hidden_size,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=max(1, shape.vision_hidden_size // 32),
            image_size=shape.image_size,
            patch_size=shape.patch_size,
        ),
        "text_config": LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=2 * shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=2048,
            initializer_range=shape.initializer_range,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "image_seq_length": (shape.image_size // shape.patch_size) ** 2,
        "initializer_range": shape.initializer_range,
    }
