"""Answers as single tokens of published vocabularies, which a few packages bring along; skipped where they are absent.

`pip install --no-deps dashscope llama-models` brings Qwen's and Llama 3's.
"""

from __future__ import annotations

import base64
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2 import Qwen2Tokenizer

from lightning_modules.backbones.chat_vlm import ChatVlmModule
from lightning_modules.backbones.tiny.chat_vlm import RECIPES
from lightning_modules.backbones.traits.chat_vlm import ChatVlmSettings
from tests.tiny import CAPTIONS, SHAPE

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)


def packaged(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed, which ships this vocabulary")
    return Path(next(iter(found.submodule_search_locations))) / name


class Ranks(TikTokenConverter):
    """Merges from a file of tokens and their ranks, without tiktoken."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        lines = Path(tiktoken_url).read_bytes().splitlines()
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def byte_tokenizer(file: Path, **special: Any) -> Any:
    vocab, merges = Ranks().extract_vocab_merges_from_model(str(file))
    return Qwen2Tokenizer(vocab=vocab, merges=merges, **special)


def module_with(tokenizer: Any, settings: ChatVlmSettings, chat_template: str | None = None) -> ChatVlmModule:
    """A tiny model of a family around a published vocabulary."""
    recipe = RECIPES[settings.family]
    own = recipe.processor(SHAPE, CAPTIONS)
    processor = type(own)(own.image_processor, tokenizer, chat_template=chat_template or own.chat_template)
    torch.manual_seed(0)
    config = CONFIG_MAPPING[settings.family](**recipe.config(settings.family, SHAPE, processor))
    return ChatVlmModule(AutoModelForImageTextToText.from_config(config), processor, prompt=settings.prompt, lr=0.0)


@pytest.mark.parametrize(
    ("question", "ids"),
    # of the reranker's the documentation of sentence-transformers prints both
    [("reranker", (9693, 2152)), ("llava_score", (9454, 2753))],
)
def test_qwens_answers(question: str, ids: tuple[int, int]) -> None:
    special = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "im_start_token": "<|im_start|>"}
    special |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    tokenizer = byte_tokenizer(
        packaged("dashscope", "resources/qwen.tiktoken"),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=special,
    )
    encoder = module_with(tokenizer, ChatVlmSettings(question=question)).encoder
    assert (encoder.yes_id, encoder.no_id) == ids


def test_llama_3s_answers() -> None:
    special = {"image_token": "<image>", "start": "<|start_header_id|>", "end": "<|end_header_id|>"}
    tokenizer = byte_tokenizer(
        packaged("llama_models", "llama3/tokenizer.model"),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token=None,
        extra_special_tokens={**special, "turn": "<|eot_id|>"},
    )
    module = module_with(tokenizer, ChatVlmSettings(family="llava"), LLAMA_3)
    # behind a line's end, so without the space in front that LLaVA-1.5's answers have
    assert tokenizer.convert_ids_to_tokens([module.encoder.yes_id, module.encoder.no_id]) == ["Yes", "No"]
    assert tokenizer.convert_ids_to_tokens(module.end_id) == "<|eot_id|>", "and not the tokenizer's eos_token"
