"""Tiny chat VLMs built from configs, a builder for each family: the real classes with few layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import transformers
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from lightning_modules.backbones.chat.processors import still_processor
from lightning_modules.backbones.chat.prompt import YesNoPrompt, prompt_texts
from lightning_modules.backbones.settings import TinyShape
from lightning_modules.backbones.tiny.llava import tiny_llava_config, tiny_llava_processor
from lightning_modules.backbones.tiny.tokenizers import (
    train_byte_tokenizer,
    train_gemma_tokenizer,
    train_llama_tokenizer,
)

CHATML = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
"""ChatML, as Qwen's, InternVL's and, but for the end of a turn, SmolVLM's templates have it."""
INSTRUCT = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'][0]['text'] }}"
    "{% else %}[INST] {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %} [/INST]{% endif %}{% endfor %}"
)
"""Mistral's, as a LLaVA-NeXT has it."""
TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's."""
library: Any = transformers
"""Whose types do not tell what it loads when it is asked for."""
MERGE = 2
"""Sides of a token of an image, in patches, where a family merges patches."""


def tiny_chat_vlm(settings: Any, captions: Iterable[str], processor: Any | None) -> tuple[Any, Any]:
    """A chat VLM of `settings.family` with random weights, and its processor; seed torch first.

    Args:
        settings: `ChatVlmSettings`.
        captions: words for the tokenizer, which learns the question too.
        processor: a saved one to use instead of training a tokenizer.
    """
    wanted = settings.prompt
    question = (wanted.question or YesNoPrompt().question).replace("{image}", "")
    prompt = YesNoPrompt(
        system=wanted.system or "", question=question, template="{image}{question}\n", words=wanted.words
    )
    recipe = RECIPES[settings.family]
    if processor is None:
        processor = recipe.processor(settings.tiny, prompt_texts(prompt, captions))
    config = CONFIG_MAPPING[settings.family](**recipe.config(settings.family, settings.tiny, processor))
    return AutoModelForImageTextToText.from_config(config, trust_remote_code=False), processor


def text_config(shape: TinyShape, tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Sizes of a language model."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": 2 * shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": max(1, shape.heads // 2) if shape.heads % 2 == 0 else shape.heads,  # grouped queries
        "max_position_embeddings": 4096,
        "initializer_range": shape.initializer_range,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def vision_config(shape: TinyShape, **more: Any) -> dict[str, Any]:
    """Sizes of a vision tower."""
    return {
        "hidden_size": shape.vision_hidden_size,
        "intermediate_size": 2 * shape.vision_hidden_size,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": max(1, shape.vision_hidden_size // 32),
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "initializer_range": shape.initializer_range,
        **more,
    }


def features(shape: TinyShape) -> int:
    """Patches of an image."""
    return (shape.image_size // shape.patch_size) ** 2


def squared(side: int) -> dict[str, int]:
    """A size as image processors take it."""
    return {"height": side, "width": side}


def llava_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """LLaVA-1.5's, with a chat template."""
    processor = tiny_llava_processor(shape, texts)
    processor.chat_template = INSTRUCT
    return processor


def llava_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """LLaVA-1.5."""
    return tiny_llava_config(shape, processor.tokenizer)


def qwen_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """For Qwen2-VL to Qwen3.5: images keep their shape, within bounds of their area."""
    special = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    special |= {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    images = library.Qwen2VLImageProcessorPil(
        patch_size=shape.patch_size,
        merge_size=MERGE,
        size={"shortest_edge": shape.image_size**2, "longest_edge": 4 * shape.image_size**2},
    )
    tokenizer = train_byte_tokenizer(texts, shape.vocab_size, special)
    template = CHATML.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    return still("Qwen3VLProcessor")(images, tokenizer, chat_template=template)


def qwen_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """For Qwen2-VL to Qwen3.5; the latter's layers but the last are linear attention."""
    tokenizer = processor.tokenizer
    size = shape.hidden_size // shape.heads
    time = size // 8
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
    rope |= {"mrope_section": [time, (size // 2 - time) // 2, size // 2 - time - (size // 2 - time) // 2]}
    text = text_config(shape, tokenizer, rope_parameters=rope)
    heads = max(1, shape.vision_hidden_size // 32)
    vision: dict[str, Any] = {"depth": shape.vision_layers, "num_heads": heads, "patch_size": shape.patch_size}
    vision |= {"initializer_range": shape.initializer_range}
    if family == "qwen2_vl":
        vision |= {"embed_dim": shape.vision_hidden_size, "hidden_size": shape.hidden_size, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": shape.vision_hidden_size, "out_hidden_size": shape.hidden_size}
        vision |= {"intermediate_size": 2 * shape.vision_hidden_size}
    if family == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [shape.vision_layers - 1], "window_size": 2 * MERGE * shape.patch_size}
    if family in ("qwen3_vl", "qwen3_5"):
        text |= {"head_dim": size}
        rope["mrope_interleaved"] = True
        vision |= {"num_position_embeddings": 64}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [*range(min(2, shape.layers, shape.vision_layers))]}
    if family == "qwen3_5":
        linear = {"key_head_dim": size, "value_head_dim": size, "num_key_heads": 2, "num_value_heads": 2}
        text |= {f"linear_{name}": value for name, value in linear.items()}
        text |= {"layer_types": ["linear_attention"] * (shape.layers - 1) + ["full_attention"]}
        rope["partial_rotary_factor"] = 1.0
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) for name in names}
    return {"text_config": text, "vision_config": vision, **ids}


def internvl_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Up to four tiles of an image, by its shape, and a thumbnail."""
    special = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    images = library.GotOcr2ImageProcessorPil(size=squared(shape.image_size), crop_to_patches=True, max_patches=4)
    return still("InternVLProcessor")(
        images,
        train_byte_tokenizer(texts, shape.vocab_size, {**special, "video_token": "<video>"}),
        image_seq_length=features(shape) // MERGE**2,
        chat_template=CHATML.format(image="<IMG_CONTEXT>"),
    )


def internvl_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """InternVL3, with Qwen2 as its language model."""
    vision = vision_config(shape) | {"image_size": [shape.image_size] * 2, "patch_size": [shape.patch_size] * 2}
    return {
        "text_config": text_config(shape, processor.tokenizer, model_type="qwen2"),
        "vision_config": vision,
        "image_token_id": processor.image_token_id,
        "image_seq_length": processor.image_seq_length,
    }


def idefics3_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Tiles of an image, and the whole image behind them; SmolVLM's too."""
    tiles = {f"tile_{row}_{column}": f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)}
    special = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    special |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
    images = library.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * shape.image_size}, max_image_size={"longest_edge": shape.image_size}
    )
    template = CHATML.format(image="<image>").replace("<|im_end|>", "<end_of_utterance>")
    tokenizer = train_byte_tokenizer(texts, shape.vocab_size, {**special, **tiles})
    length = features(shape) // MERGE**2
    return library.Idefics3Processor(images, tokenizer, image_seq_len=length, chat_template=template)


def idefics3_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """Idefics3 and SmolVLM."""
    return {
        "text_config": text_config(shape, processor.tokenizer, model_type="llama"),
        "vision_config": vision_config(shape),
        "image_token_id": processor.image_token_id,
        "scale_factor": MERGE,
    }


def llava_next_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Tiles in a grid that fits the image's shape."""
    side = shape.image_size
    images = library.LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size=squared(side), image_grid_pinpoints=grids(shape)
    )
    return library.LlavaNextProcessor(
        images,
        train_llama_tokenizer(texts, shape.vocab_size),
        patch_size=shape.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=INSTRUCT,
    )


def grids(shape: TinyShape) -> list[list[int]]:
    """Height and width of what an image may be cut into."""
    side = shape.image_size
    return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]


def llava_next_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """LLaVA-NeXT, with a LLaMA."""
    return {
        "text_config": text_config(shape, processor.tokenizer, model_type="llama"),
        "vision_config": vision_config(shape, model_type="clip_vision_model"),
        "image_token_index": processor.image_token_id,
        "image_grid_pinpoints": grids(shape),
        "image_seq_length": features(shape),
    }


def onevision_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Tiles in a grid that fits the image's shape, their features shrunk where they are too many."""
    images = library.LlavaOnevisionImageProcessorPil(size=squared(shape.image_size), image_grid_pinpoints=grids(shape))
    special = {"image_token": "<image>", "video_token": "<video>"}
    return still("LlavaOnevisionProcessor")(
        images,
        train_byte_tokenizer(texts, shape.vocab_size, special),
        num_image_tokens=features(shape),
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        chat_template=CHATML.format(image="<image>\n"),
    )


def onevision_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """LLaVA-OneVision, with SigLIP and Qwen2."""
    return {
        "text_config": text_config(shape, processor.tokenizer, model_type="qwen2"),
        "vision_config": vision_config(shape, model_type="siglip_vision_model", vision_use_head=False),
        "image_token_index": processor.image_token_id,
        "video_token_index": processor.video_token_id,
        "image_grid_pinpoints": grids(shape),
        "vision_aspect_ratio": processor.vision_aspect_ratio,
    }


def gemma3_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Every image is one square."""
    special = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    special |= {"start_of_turn_token": "<start_of_turn>", "end_of_turn_token": "<end_of_turn>"}
    count = features(shape)
    images = library.Gemma3ImageProcessorPil(size=squared(shape.image_size), image_seq_length=count)
    tokenizer = train_gemma_tokenizer(texts, shape.vocab_size, special)
    return library.Gemma3Processor(images, tokenizer, image_seq_length=count, chat_template=TURNS)


def gemma3_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """Gemma 3; its windows are shorter than an image, and its last layer sees everything."""
    tokenizer = processor.tokenizer
    kinds = ["sliding_attention"] * (shape.layers - 1) + ["full_attention"]
    size = shape.hidden_size // shape.heads
    text = text_config(shape, tokenizer, layer_types=kinds, head_dim=size, query_pre_attn_scalar=size)
    ids = {"boi": tokenizer.boi_token, "eoi": tokenizer.eoi_token, "image": tokenizer.image_token}
    return {
        "text_config": text | {"sliding_window": max(1, 3 * processor.image_seq_length // 4)},
        "vision_config": vision_config(shape, vision_use_head=False),
        "mm_tokens_per_image": processor.image_seq_length,
        **{f"{name}_token_index": tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()},
    }


def paligemma_processor(shape: TinyShape, texts: Iterable[str]) -> Any:
    """Every image is one square; there is no chat template."""
    images = library.SiglipImageProcessorPil(size=squared(shape.image_size))
    images.image_seq_length = features(shape)
    tokenizer = train_gemma_tokenizer(texts, shape.vocab_size, {"image_token": "<image>"})
    return library.PaliGemmaProcessor(images, tokenizer)


def paligemma_config(family: str, shape: TinyShape, processor: Any) -> dict[str, Any]:
    """PaliGemma 2."""
    size = shape.hidden_size // shape.heads
    kinds = [("sliding_attention", "full_attention")[layer % 2] for layer in range(shape.layers)]
    text = text_config(shape, processor.tokenizer, model_type="gemma2", layer_types=kinds, head_dim=size)
    return {
        "text_config": text | {"query_pre_attn_scalar": size, "final_logit_softcapping": 30.0},
        "vision_config": vision_config(
            shape, model_type="siglip_vision_model", vision_use_head=False, projection_dim=shape.hidden_size
        ),
        "image_token_index": processor.image_token_id,
        "projection_dim": shape.hidden_size,
        "hidden_size": shape.hidden_size,
    }


def still(name: str) -> Any:
    """Transformers' processor class of that name, without video."""
    found = still_processor(name)
    assert found is not None
    return found


class Recipe(NamedTuple):
    """How a family's processor is made of a shape and texts, and its configuration of its name, a shape and that."""

    processor: Callable[[TinyShape, Iterable[str]], Any]
    config: Callable[[str, TinyShape, Any], dict[str, Any]]


QWEN = Recipe(qwen_processor, qwen_config)
RECIPES: dict[str, Recipe] = {
    "llava": Recipe(llava_processor, llava_config),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"), QWEN),
    "internvl": Recipe(internvl_processor, internvl_config),
    **dict.fromkeys(("idefics3", "smolvlm"), Recipe(idefics3_processor, idefics3_config)),
    "llava_next": Recipe(llava_next_processor, llava_next_config),
    "llava_onevision": Recipe(onevision_processor, onevision_config),
    "gemma3": Recipe(gemma3_processor, gemma3_config),
    "paligemma": Recipe(paligemma_processor, paligemma_config),
}
