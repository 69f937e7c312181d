"""The models that `experiments.bench.gpu` measures: published sizes, random weights, nothing from a hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers.models.qwen3_vl import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from experiments.bench.implementations import (
    Inputs,
    Pair,
    plain_blip2_inputs,
    plain_blip2_logits,
    plain_chat_inputs,
    plain_chat_logits,
)
from experiments.bench.models import CAPTIONS, LORA, PRESETS, build_blip2, build_llava, initializer_range
from lightning_modules import AlignmentModule, LoraSettings, recompute_activations
from lightning_modules.backbones import ChatVlmModule, TinyShape, YesNoPrompt, prompt_texts
from lightning_modules.backbones.tiny import qwen_processor


@dataclass(frozen=True)
class QwenSizes:
    """Widths, layers and heads of Qwen3-VL's language model and vision tower.

    Attributes:
        mrope: rotary frequencies of time, row and column.
        deepstack: vision layers whose features join the first layers of the language model.
        grid: side of the table of the tower's positions.
        image_size: images keep their shape, between this area and four times it.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    mrope: tuple[int, int, int]
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    deepstack: tuple[int, ...]
    head_dim: int
    grid: int = 48
    image_size: int = 512
    patch_size: int = 16
    vocab_size: int = 151_936


# config.json of Qwen/Qwen3-VL-8B-Instruct: 8,767,123,696 parameters. The defaults of Qwen3VLConfig are no published
# model's: 32 layers as wide as these with a feed-forward of 22,016, and a head of keys for each of queries.
QWEN_8B = QwenSizes(
    hidden_size=4096,
    intermediate_size=12_288,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mrope=(24, 20, 20),
    vision_hidden_size=1152,
    vision_intermediate_size=4304,
    vision_layers=27,
    vision_heads=16,
    deepstack=(8, 16, 24),
)
# of the widths of the bench's other small models
QWEN_SMALL = QwenSizes(
    hidden_size=384,
    intermediate_size=1024,
    layers=8,
    heads=6,
    kv_heads=2,
    head_dim=64,
    mrope=(12, 10, 10),
    vision_hidden_size=128,
    vision_intermediate_size=512,
    vision_layers=4,
    vision_heads=2,
    deepstack=(1, 2),
    vocab_size=8000,
)
QWEN_TINY = QwenSizes(
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    mrope=(4, 2, 2),
    vision_hidden_size=32,
    vision_intermediate_size=64,
    vision_layers=2,
    vision_heads=1,
    deepstack=(0,),
    grid=8,
    image_size=64,
    vocab_size=1200,
)


@dataclass(frozen=True)
class Model:
    """A scorer that is measured.

    Attributes:
        label: of its rows.
        sizes: by scale: `full` as published, `small` for checks on a GPU, `tiny` for tests.
        build: the module of such sizes with random weights, to be trained fully or with LoRA.
        plain: what the plain Transformers model takes for pairs, each a sequence of its own.
        plain_logits: (N,) float32 match logits of the plain model of such inputs.
        scored, adapted, trained: images in a packed batch, by scale: to score, to train with LoRA, fully. Some 10,000
            tokens, so that weights are read once for many; with LoRA as many as fit beside all layers in 80 GB.
    """

    label: str
    sizes: Mapping[str, Any]
    build: Callable[[Any, str], AlignmentModule]
    plain: Callable[[AlignmentModule, Sequence[Pair], torch.device], Inputs]
    plain_logits: Callable[[AlignmentModule, Inputs], torch.Tensor]
    scored: Mapping[str, int]
    adapted: Mapping[str, int]
    trained: Mapping[str, int]


def build_qwen(sizes: QwenSizes, tune: str) -> ChatVlmModule:
    """Qwen3-VL with random weights; seed torch first. Loss `binary`, as the bench's other models."""
    prompt = YesNoPrompt(system="", template="{image}{question}\n")
    shape = TinyShape(image_size=sizes.image_size, patch_size=sizes.patch_size, vocab_size=1000)
    # the tokenizer is small at every scale; the embeddings have the published vocabulary
    processor = qwen_processor(shape, prompt_texts(prompt, CAPTIONS))
    model = Qwen3VLForConditionalGeneration(qwen_config(sizes, processor.tokenizer))
    lora = LoraSettings() if tune == LORA else None
    # or the processor's tensors would be made on the GPU; adapters go to where the weights beside them are
    with torch.device("cpu"):
        return ChatVlmModule(model, processor, loss="binary", lora=lora, lr=1e-4)


def qwen_config(sizes: QwenSizes, tokenizer: Any) -> Qwen3VLConfig:
    """Qwen3-VL's configuration, its special tokens those of this tokenizer."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [*sizes.mrope], "mrope_interleaved": True}
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return Qwen3VLConfig(
        text_config={
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "max_position_embeddings": 262_144,
            "initializer_range": initializer_range(sizes.hidden_size),
            "rope_parameters": rope,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden_size,
            "intermediate_size": sizes.vision_intermediate_size,
            "num_heads": sizes.vision_heads,
            "patch_size": sizes.patch_size,
            "out_hidden_size": sizes.hidden_size,
            "num_position_embeddings": sizes.grid**2,
            "deepstack_visual_indexes": [*sizes.deepstack],
            "initializer_range": initializer_range(sizes.vision_hidden_size),
        },
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) for name in names},
    )


MODELS = {
    # llava-hf/llava-1.5-7b-hf, and Salesforce/blip2-itm-vit-g: see `experiments.bench.models.PRESETS`
    "llava": Model(
        "LLaVA-1.5-7B",
        {"full": PRESETS["7b"].llava, "small": PRESETS["small"].llava, "tiny": PRESETS["tiny"].llava},
        lambda sizes, tune: build_llava(replace(PRESETS["tiny"], llava=sizes), tune),
        plain_chat_inputs,
        plain_chat_logits,
        scored={"full": 16, "tiny": 2},
        adapted={"full": 8, "tiny": 2},
        trained={"full": 16, "tiny": 2},
    ),
    "qwen3_vl": Model(
        "Qwen3-VL-8B",
        {"full": QWEN_8B, "small": QWEN_SMALL, "tiny": QWEN_TINY},
        build_qwen,
        plain_chat_inputs,
        plain_chat_logits,
        scored={"full": 24, "tiny": 2},
        adapted={"full": 9, "tiny": 2},
        trained={"full": 24, "tiny": 2},
    ),
    "blip2": Model(
        "BLIP-2 ViT-g ITM",
        {"full": PRESETS["7b"].blip2, "small": PRESETS["small"].blip2, "tiny": PRESETS["tiny"].blip2},
        lambda sizes, tune: build_blip2(replace(PRESETS["tiny"], blip2=sizes), tune),
        plain_blip2_inputs,
        plain_blip2_logits,
        scored={"full": 64, "tiny": 2},
        adapted={"full": 64, "tiny": 2},
        trained={"full": 64, "tiny": 2},
    ),
}


def build(
    name: str,
    scale: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tune: str = "full",
    layers: int | None = None,
    recomputes: bool = False,
) -> AlignmentModule:
    """A model of `MODELS`, made on the device and in its precision: 8 billion weights then take seconds.

    Args:
        name: in `MODELS`.
        scale: of its sizes.
        device: where it is made.
        dtype: of its weights; buffers are what the model's own code makes them.
        tune: what trains, `full` or `lora`.
        layers: of the language model; as published where None.
        recomputes: activations in the backward pass.
    """
    sizes = MODELS[name].sizes[scale]
    torch.manual_seed(0)
    with device, default_dtype(dtype):
        module = MODELS[name].build(sizes if layers is None else replace(sizes, layers=layers), tune)
    if recomputes:
        recompute_activations(cast(Any, module).to_transformers())
    return module


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New weights are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
