"""Tokenizers of tiny models: the real classes, their merges learnt from a few texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer
from transformers.models.gemma import GemmaTokenizer
from transformers.models.qwen2 import Qwen2Tokenizer

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


def train_byte_tokenizer(texts: Iterable[str], vocab_size: int, special: Mapping[str, str]) -> Qwen2Tokenizer:
    """Qwen2's tokenizer (byte-level BPE) whose merges come from `texts`, with special tokens by attribute."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"im_start_token": "<|im_start|>", **special},
    )


def train_gemma_tokenizer(texts: Iterable[str], vocab_size: int, special: Mapping[str, str]) -> GemmaTokenizer:
    """Gemma's tokenizer (BPE with byte fallback) whose merges come from `texts`; none crosses a word or a line."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), behavior="isolated"),
        ]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    own = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*own, *byte_tokens], show_progress=False)
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    return GemmaTokenizer(vocab=bpe["vocab"], merges=merges, extra_special_tokens=dict(special))
