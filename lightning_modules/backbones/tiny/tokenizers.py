"""Tokenizers of tiny models: the real classes, their merges learnt from a few texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer
from transformers.models.gemma import GemmaTokenizer
from transformers.models.qwen2 import Qwen2Tokenizer

IMAGE_TOKEN = "<image>"


class Bpe(NamedTuple):
    """What a tokenizer of byte pairs is made of: ids by token, and merges in their order."""

    vocab: dict[str, int]
    merges: list[tuple[str, str]]


def learnt(tokenizer: Tokenizer) -> Bpe:
    """What a trainer has put into a tokenizer."""
    bpe = json.loads(tokenizer.to_str())["model"]
    return Bpe(bpe["vocab"], [tuple(merge) for merge in bpe["merges"]])


def train_pieces(texts: Iterable[str], vocab_size: int, special: Sequence[str], prepend_scheme: str) -> Bpe:
    """BPE with byte fallback, as LLaMA's and Gemma's; merges never cross a word, punctuation or a line break.

    So a caption's tokens do not depend on what stands around it. Any text can be encoded: what the merges do not cover
    falls back to bytes.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend_scheme, split=True),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), behavior="isolated"),
        ]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*special, *byte_tokens], show_progress=False),
    )
    return learnt(tokenizer)


def train_llama_tokenizer(texts: Iterable[str], vocab_size: int) -> LlamaTokenizer:
    """A LLaMA tokenizer whose merges come from `texts`, see `train_pieces`."""
    return LlamaTokenizer(
        **train_pieces(texts, vocab_size, ("<unk>", "<s>", "</s>"), "first")._asdict(),
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
    return Qwen2Tokenizer(
        **learnt(tokenizer)._asdict(),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"im_start_token": "<|im_start|>", **special},
    )


def train_gemma_pieces(texts: Iterable[str], vocab_size: int) -> Bpe:
    """What Gemma's tokenizer and SigLIP 2's are made of, see `train_pieces`."""
    return train_pieces(texts, vocab_size, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), "never")


def train_gemma_tokenizer(texts: Iterable[str], vocab_size: int, special: Mapping[str, str]) -> GemmaTokenizer:
    """Gemma's tokenizer whose merges come from `texts`, with special tokens by attribute."""
    return GemmaTokenizer(**train_gemma_pieces(texts, vocab_size)._asdict(), extra_special_tokens=dict(special))
