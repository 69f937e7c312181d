"""The scorers that `experiments.bench` times: sizes, and the real classes built from them with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
)

from lightning_modules import AlignmentModule, LoraSettings
from lightning_modules.backbones import (
    Blip2ItmModule,
    ChatVlmModule,
    ChatVlmSettings,
    LlavaModule,
    TinyShape,
    YesNoPrompt,
    prompt_texts,
)
from lightning_modules.backbones.tiny import tiny_blip2_processor, tiny_llava_processor

FULL, LORA = "full", "lora"
CAPTIONS = (
    "A man in a red jacket rides a brown horse along the beach.",
    "A brown horse in a red jacket rides a man along the beach.",
    "Two children are playing with a yellow ball in front of an old stone house.",
    "A woman holds an umbrella over a small dog.",
    "A plate of food with rice, broccoli and two slices of lemon sits on a wooden table.",
    "Several people wait at a crossing while a bus turns the corner.",
    "A cat sleeps on top of a laptop next to a cup of coffee and a pair of glasses.",
    "A train travels through a snowy valley.",
    "The kitchen has white cabinets, a black stove and a window above the sink.",
    "Three giraffes stand beside a tree, and a fourth one walks away from them.",
)
"""Captions as people write them for photos: 8 to 18 words, so that batches of them are ragged."""


@dataclass(frozen=True)
class LlavaSizes:
    """Widths, layers and heads of LLaVA's language model and vision tower, and pixels of its image."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    image_size: int = 336
    patch_size: int = 14
    vocab_size: int = 32_064


@dataclass(frozen=True)
class Blip2Sizes:
    """Widths, layers and heads of BLIP-2's vision tower and Q-Former, and pixels of its image."""

    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    image_size: int = 224
    patch_size: int = 14
    queries: int = 32
    vocab_size: int = 30_523


@dataclass(frozen=True)
class Preset:
    """Models of one scale, and how they are timed.

    Attributes:
        chat: sizes of chat VLMs, by family.
        images: in a batch, for each backbone.
        dtype: of the weights while they are timed.
        tunes: what trains: all weights but the vision tower's (`full`), or adapters (`lora`).
        tolerance: how far two match logits of a pair may lie apart in float32.
    """

    llava: LlavaSizes
    blip2: Blip2Sizes
    chat: dict[str, TinyShape]
    images: dict[str, int]
    dtype: torch.dtype
    tunes: tuple[str, ...]
    tolerance: float = 1e-4
    runs_on_cpu: bool = True


PRESETS = {
    "tiny": Preset(
        llava=LlavaSizes(32, 64, 2, 2, 32, 64, 2, 2, image_size=28, vocab_size=1200),
        blip2=Blip2Sizes(32, 64, 2, 2, 32, 64, 2, 2, image_size=28, queries=4, vocab_size=1200),
        chat={
            "qwen3_vl": TinyShape(32, 2, 2, 32, 2, image_size=64, vocab_size=1200, initializer_range=0.1),
            "gemma3": TinyShape(32, 2, 2, 32, 2, image_size=32, vocab_size=1200, initializer_range=0.1),
        },
        images={"llava": 2, "blip2": 2, "qwen3_vl": 2, "gemma3": 2},
        dtype=torch.float32,
        tunes=(FULL, LORA),
    ),
    # The towers keep about the shares of the work that they have as published; published vocabularies would outweigh
    # them at such widths.
    "small": Preset(
        llava=LlavaSizes(384, 1024, 8, 6, 128, 512, 4, 2, vocab_size=8000),
        blip2=Blip2Sizes(384, 1536, 12, 6, 192, 768, 4, 3, vocab_size=8000),
        chat={
            # 300 tokens of a photo of 640 x 480 pixels, as published Qwens make of it, and Gemma 3's 256
            "qwen3_vl": TinyShape(384, 8, 6, 128, 4, image_size=320, patch_size=16, initializer_range=0.065),
            "gemma3": TinyShape(384, 8, 6, 128, 4, image_size=224, patch_size=14, initializer_range=0.065),
        },
        images={"llava": 1, "blip2": 2, "qwen3_vl": 1, "gemma3": 1},
        dtype=torch.float32,
        tunes=(FULL,),
    ),
    # As published: llava-hf/llava-1.5-7b-hf and Salesforce/blip2-itm-vit-g. 32 layers gather more rounding than 8.
    "7b": Preset(
        llava=LlavaSizes(4096, 11_008, 32, 32, 1024, 4096, 24, 16),
        blip2=Blip2Sizes(1408, 6144, 39, 16, 768, 3072, 12, 12),
        chat={},  # see experiments.bench.gpu
        images={"llava": 2, "blip2": 8},
        dtype=torch.bfloat16,
        tunes=(LORA, FULL),
        tolerance=1e-3,
        runs_on_cpu=False,
    ),
}


def initializer_range(hidden_size: int) -> float:
    """The published 0.02 at a width of 4096, scaled so that activations keep their size at other widths.

    Where they shrink, attention looks at all places alike, all captions get the same logit, and comparing logits shows
    nothing.

    >>> initializer_range(4096), initializer_range(1024)
    (0.02, 0.04)
    """
    return 0.02 * (4096 / hidden_size) ** 0.5


def build_llava(preset: Preset, tune: str) -> LlavaModule:
    """LLaVA with random weights; seed torch first.

    Loss `binary`, so that plain sequences and packed branches end at the same token, and no baseline needs more than
    the logits of its last place.
    """
    sizes, prompt = preset.llava, YesNoPrompt()
    shape = TinyShape(image_size=sizes.image_size, patch_size=sizes.patch_size, vocab_size=1000)
    # the tokenizer is small at every preset; the embeddings have the preset's vocabulary
    processor = tiny_llava_processor(shape, prompt_texts(prompt, CAPTIONS))
    tokenizer = processor.tokenizer
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=CLIPVisionConfig(
            hidden_size=sizes.vision_hidden_size,
            intermediate_size=sizes.vision_intermediate_size,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
        ),
        text_config=LlamaConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=4096,
            initializer_range=initializer_range(sizes.hidden_size),
            rms_norm_eps=1e-5,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(processor.image_token),
        image_seq_length=(sizes.image_size // sizes.patch_size) ** 2,
        initializer_range=initializer_range(sizes.hidden_size),
        attn_implementation="sdpa",
    )
    lora = LoraSettings() if tune == LORA else None
    llava = LlavaForConditionalGeneration(config)
    return LlavaModule(llava, processor, prompt=prompt, loss="binary", lora=lora, lr=1e-4)


def build_blip2(preset: Preset, tune: str) -> Blip2ItmModule:
    """BLIP-2 ITM with random weights; seed torch first."""
    sizes = preset.blip2
    shape = TinyShape(image_size=sizes.image_size, patch_size=sizes.patch_size, vocab_size=1000)
    processor = tiny_blip2_processor(shape, CAPTIONS)
    spread = initializer_range(sizes.hidden_size)
    config = Blip2Config(  # type: ignore[call-arg]
        vision_config=Blip2VisionConfig(
            hidden_size=sizes.vision_hidden_size,
            intermediate_size=sizes.vision_intermediate_size,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            initializer_range=initializer_range(sizes.vision_hidden_size),
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            initializer_range=spread,
            pad_token_id=processor.tokenizer.pad_token_id,
            use_qformer_text_input=True,
        ),
        # Blip2Config wants a language model; this class builds none.
        text_config=OPTConfig(
            vocab_size=3, hidden_size=1, ffn_dim=1, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=1
        ),
        num_query_tokens=sizes.queries,
        image_token_index=None,
        initializer_range=spread,
        attn_implementation="sdpa",
    )
    blip2 = Blip2ForImageTextRetrieval(config)
    nn.init.normal_(blip2.query_tokens, std=spread)  # 0 as built, where all queries compute the same
    # the Q-Former alone, as `full` trains all but the vision tower
    lora = LoraSettings(targets=["qformer"]) if tune == LORA else None
    return Blip2ItmModule(blip2, processor, lora=lora, lr=1e-4)


def build_chat(family: str, preset: Preset, tune: str) -> ChatVlmModule:
    """A chat VLM of a family with random weights and loss `binary`; seed torch first."""
    settings = ChatVlmSettings(family=family, tiny=preset.chat[family])
    lora = LoraSettings() if tune == LORA else None
    return ChatVlmModule(*ChatVlmModule.tiny(settings, CAPTIONS, None), loss="binary", lora=lora, lr=1e-4)


def count_parameters(module: AlignmentModule) -> int:
    """Numbers in all weights, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())
