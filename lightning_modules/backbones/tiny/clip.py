"""A tiny CLIP built from a config: the real class with few layers and a tokenizer trained on the spot."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
)

from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.tiny.tokenizers import learnt

CONTEXT = 77
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int) -> CLIPTokenizer:
    """A CLIP tokenizer (lower-case, byte-level BPE, words end in `</w>`) whose merges come from `texts`.

    The vocabulary is laid out as in the published one: 256 bytes, the same at a word's end, merges, start, end. So any
    text can be encoded, and the end token has the highest id.

    Raises:
        ValueError: `vocab_size` has no room for the bytes and the two special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = [*alphabet, *(byte + WORD_END for byte in alphabet)]
    if vocab_size < len(fixed) + 2:
        raise ValueError(f"model.tiny.vocab_size must be at least {len(fixed) + 2} for CLIP, got {vocab_size}.")
    published = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    tokenizer.normalizer, tokenizer.pre_tokenizer = published.normalizer, published.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # the merges alone are taken: the trainer lays out its vocabulary in another order
    merges = learnt(tokenizer).merges[: vocab_size - len(fixed) - 2]
    tokens = dict.fromkeys([*fixed, *(left + right for left, right in merges), START, END])
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]
        model_max_length=CONTEXT,
    )


def tiny_clip_processor(shape: TinyShape, texts: Iterable[str]) -> CLIPProcessor:
    """A CLIP processor for `shape`, with a tokenizer trained on `texts`."""
    return CLIPProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": shape.image_size},
            crop_size={"height": shape.image_size, "width": shape.image_size},
        ),
        tokenizer=train_clip_tokenizer(texts, shape.vocab_size),
    )


def tiny_clip(shape: TinyShape, tokenizer: PreTrainedTokenizerBase) -> CLIPModel:
    """A CLIP with random weights for this tokenizer, QuickGELU as OpenAI's; seed torch first.

    `shape.initializer_range` scales CLIP's own initial weights, which differ from layer to layer; 0.02 leaves them as
    they are.
    """
    factor = shape.initializer_range / 0.02
    config = CLIPConfig(  # type: ignore[call-arg]
        text_config=CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=4 * shape.hidden_size,
            projection_dim=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=CONTEXT,
            hidden_act="quick_gelu",
            initializer_factor=factor,
            bos_token_id=tokenizer.bos_token_id,
            # 2 would mean to Transformers that the end token is the highest id
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_hidden_size,
            intermediate_size=4 * shape.vision_hidden_size,
            projection_dim=shape.hidden_size,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=max(1, shape.vision_hidden_size // 32),
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            hidden_act="quick_gelu",
            initializer_factor=factor,
        ),
        projection_dim=shape.hidden_size,
        initializer_factor=factor,
        attn_implementation="sdpa",
    )
    return CLIPModel(config)
