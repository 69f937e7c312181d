"""A tiny LLaVA built from a config: the real classes with few layers, for the demo, for tests and for new ideas."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from lightning_modules.backbones.settings import TinyShape

IMAGE_TOKEN = "<image>"


def train_llama_tokenizer(texts: Iterable[str], vocab_size: int) -> LlamaTokenizer:
    """A LLaMA tokenizer (BPE with byte fallback) whose merges come from `texts`.

    Merges stay inside words and never cross punctuation or line breaks, so a caption's tokens do not depend on what
    stands around it. Any text can be encoded: what the merges do not cover falls back to bytes.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), behavior="isolated"),
        ]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    return LlamaTokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )


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
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_hidden_size,
            intermediate_size=2 * shape.vision_hidden_size,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=max(1, shape.vision_hidden_size // 32),
            image_size=shape.image_size,
            patch_size=shape.patch_size,
        ),
        text_config=LlamaConfig(
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
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(shape.image_size // shape.patch_size) ** 2,
        initializer_range=shape.initializer_range,
        attn_implementation="sdpa",
    )
    return LlavaForConditionalGeneration(config)
