"""Implementations of the same match logits: packed, as the product does it, and with the plain Transformers model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from datamodules import NEGATIVE, POSITIVE, ImageTextRow
from experiments.bench.models import CAPTIONS, Preset, build_blip2, build_chat, build_llava, count_parameters
from experiments.bench.report import LABELS
from lightning_modules import AlignmentModule
from lightning_modules.backbones import (
    IMAGE_KEY,
    MATCH,
    NO_MATCH,
    PREFIX_SEGMENT,
    Blip2ItmModule,
    ChatVlmModule,
    LlavaModule,
    clean_words,
)

PACKED, PADDED, LOOP, PREFIX_CACHE = "packed", "padded batch", "loop over pairs", "prefix KV cache"
PHOTO_SIZE = (640, 480)
Pair = tuple[ImageTextRow, str]
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Implementation:
    """One implementation of the match logits of the same pairs.

    Attributes:
        parts: yields the float32 logits of all pairs, image by image, in as many parts as there are separate forwards;
            a training step runs each part's backward before it asks for the next.
        trains: whether gradients reach all that is trained; the others only score.
    """

    parts: Callable[[], Iterator[torch.Tensor]]
    trains: bool = True


@dataclass(frozen=True)
class Backbone:
    """How a scorer is built, and its implementations; the one named `packed` is the product's own."""

    build: Callable[[Preset, str], AlignmentModule]
    implementations: Callable[[AlignmentModule, Sequence[ImageTextRow], torch.device], dict[str, Implementation]]
    describe: Callable[[Preset, AlignmentModule, Sequence[ImageTextRow]], str]


def rows_of_noise(images: int, captions: int) -> list[ImageTextRow]:
    """Rows of a random photo with `captions` captions each, the first of them true."""
    width, height = PHOTO_SIZE
    rows = []
    for index in range(images):
        # noise costs as much as a photo, and needs no download; of its own seed, so that any batch starts alike
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        texts = [CAPTIONS[(index + column) % len(CAPTIONS)] for column in range(captions)]
        ids = [f"{index}-{column}" for column in range(captions)]
        labels = [POSITIVE] + [NEGATIVE] * (captions - 1)
        rows.append(ImageTextRow(str(index), Image.fromarray(pixels), ids, texts, labels, [""] * captions))
    return rows


def llava_implementations(
    module: AlignmentModule, rows: Sequence[ImageTextRow], device: torch.device
) -> dict[str, Implementation]:
    """The ways of every chat VLM, and LLaVA's captions behind the KV cache of their image."""
    llava = cast(Any, cast(LlavaModule, module).to_transformers())
    batch = module.collator()(rows).to(device)
    shared = prefix_and_branches(batch.inputs, len(rows[0].captions))

    def prefix_cache() -> Iterator[torch.Tensor]:
        pixels = batch.inputs[f"{IMAGE_KEY}pixel_values"]
        prefix = llava(input_ids=shared["prefix_ids"], pixel_values=pixels, use_cache=True, logits_to_keep=1)
        # a cache of Transformers has a row for each sequence, so that of an image is copied for every caption
        prefix.past_key_values.batch_repeat_interleave(len(rows[0].captions))
        yield match_of(
            module,
            llava(
                input_ids=shared["branch_ids"],
                attention_mask=shared["attention_mask"],
                position_ids=shared["position_ids"],
                past_key_values=prefix.past_key_values,
                logits_to_keep=1,
            ).logits,
        )

    return {**CHAT(module, rows, device), PREFIX_CACHE: Implementation(prefix_cache, trains=False)}


def match_of(module: AlignmentModule, vocabulary_logits: torch.Tensor) -> torch.Tensor:
    """(N,) float32 z(Yes) - z(No) at the last place of a chat VLM's logits [N, S, V]."""
    # float32 before the difference, as the product does it
    last, encoder = vocabulary_logits[:, -1].float(), cast(ChatVlmModule, module).encoder
    return last[:, encoder.yes_id] - last[:, encoder.no_id]


def prefix_and_branches(packed: dict[str, torch.Tensor], captions: int) -> dict[str, torch.Tensor]:
    """A packed batch cut into its prefix, run once per image, and its branches, run behind the prefix's KV cache.

    Args:
        packed: `input_ids` and `segment_ids` [B, S] as `pack_branches` lays them out.
        captions: branches of each image, the same for all.

    Returns:
        `prefix_ids` [B, P]; for the N = B * captions branches, padded on the left to L: `branch_ids`, `position_ids`
        [N, L] and `attention_mask` [N, P + L].
    """
    input_ids, segments = packed["input_ids"], packed["segment_ids"]
    # the prefix is as long in every row: image and question do not depend on the caption
    length = int((segments[0] == PREFIX_SEGMENT).sum())
    branches = [
        ids[row_segments == column + 1]
        for ids, row_segments in zip(input_ids, segments, strict=True)
        for column in range(captions)
    ]
    longest = max(map(len, branches))
    mask = torch.zeros((len(branches), longest), dtype=torch.long, device=input_ids.device)
    branch_ids = torch.zeros_like(mask)
    for index, branch in enumerate(branches):
        # on the left, so that the last place is the answer's in every row
        branch_ids[index, longest - len(branch) :] = branch
        mask[index, longest - len(branch) :] = 1
    return {
        "prefix_ids": input_ids[:, :length],
        "branch_ids": branch_ids,
        # counted behind the prefix; padded places get any valid position, they are masked
        "position_ids": length + (mask.cumsum(-1) - 1).clamp(min=0),
        "attention_mask": torch.cat([mask.new_ones((len(branches), length)), mask], dim=-1),
    }


def describe_llava(preset: Preset, module: AlignmentModule, rows: Sequence[ImageTextRow]) -> str:
    """Sizes of the model and of its sequences, for a reader who wants to judge the figures."""
    sizes = preset.llava
    segments = module.collator()(rows).inputs["segment_ids"]
    prefix = int((segments[0] == PREFIX_SEGMENT).sum())
    branches = [int((row == column).sum()) for row in segments for column in range(1, int(row.max()) + 1)]
    return (
        f"LLaVA: {count_parameters(module) / 1e6:,.1f} million parameters, language model {sizes.layers} layers x "
        f"{sizes.hidden_size}, vision {sizes.vision_layers} layers x {sizes.vision_hidden_size}; "
        f"{(sizes.image_size // sizes.patch_size) ** 2} image tokens in a shared prefix of {prefix}, "
        f"{min(branches)} to {max(branches)} tokens more for each caption"
    )


def plain_blip2_logits(module: AlignmentModule, inputs: Inputs) -> torch.Tensor:
    """(N,) float32 match - no-match of the plain BLIP-2."""
    blip2: Any = cast(Blip2ItmModule, module).to_transformers()
    itm = blip2(**in_dtype(inputs, blip2.dtype), use_image_text_matching_head=True).logits_per_image.float()
    return itm[:, MATCH] - itm[:, NO_MATCH]


def plain_blip2_inputs(module: AlignmentModule, pairs: Sequence[Pair], device: torch.device) -> dict[str, torch.Tensor]:
    """What the plain model takes for these pairs, each with an image of its own."""
    processor = cast(Blip2ItmModule, module).processor
    # cleaned as the product does it, so that both read the same tokens
    texts = [" ".join(clean_words(caption)) for _, caption in pairs]
    text = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").to(device)
    images = processor.image_processor([row.image for row, _ in pairs], return_tensors="pt").to(device)
    return {
        "pixel_values": images["pixel_values"],
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


def describe_blip2(preset: Preset, module: AlignmentModule, rows: Sequence[ImageTextRow]) -> str:
    """Sizes of the model and of its texts."""
    sizes = preset.blip2
    texts = module.collator()(rows).inputs["attention_mask"].sum(-1).tolist()
    return (
        f"BLIP-2 ITM: {count_parameters(module) / 1e6:,.1f} million parameters, vision {sizes.vision_layers} layers x "
        f"{sizes.vision_hidden_size}, Q-Former {sizes.layers} layers x {sizes.hidden_size}; "
        f"{(sizes.image_size // sizes.patch_size) ** 2 + 1} image places, {sizes.queries} queries, {min(texts)} to "
        f"{max(texts)} text tokens"
    )


def plain_chat_logits(module: AlignmentModule, inputs: Inputs) -> torch.Tensor:
    """(N,) float32 z(Yes) - z(No) at the last place of a chat VLM."""
    vlm: Any = cast(ChatVlmModule, module).to_transformers()
    return match_of(module, vlm(**in_dtype(inputs, vlm.dtype), use_cache=False, logits_to_keep=1).logits)


def plain_chat_inputs(module: AlignmentModule, pairs: Sequence[Pair], device: torch.device) -> dict[str, torch.Tensor]:
    """What the plain model takes for these pairs, each a sequence of its own, padded on the left."""
    module = cast(ChatVlmModule, module)
    inputs = module.plain_processor()(
        images=[[row.image] for row, _ in pairs],
        text=[module.encoder.prompt(caption, module.processor.image_token) for _, caption in pairs],
        add_special_tokens=module.encoder.special_tokens,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return dict(inputs.to(device))


def in_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The inputs with pixels in the precision of the tower's weights: some towers cast them, others do not."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def packed_and_plain(
    module: AlignmentModule,
    rows: Sequence[ImageTextRow],
    device: torch.device,
    plain_inputs: Callable[[AlignmentModule, Sequence[Pair], torch.device], Inputs],
    plain_logits: Callable[[AlignmentModule, Inputs], torch.Tensor],
) -> dict[str, Implementation]:
    """The packed forward, and the plain one of all pairs together, and of each alone; inputs are made here."""
    batch = module.collator()(rows).to(device)
    pairs = [(row, caption) for row in rows for caption in row.captions]
    together, *alone = (plain_inputs(module, chosen, device) for chosen in (pairs, *([pair] for pair in pairs)))

    def packed() -> Iterator[torch.Tensor]:
        yield module.logits(batch)[batch.caption_mask]

    def padded() -> Iterator[torch.Tensor]:
        yield plain_logits(module, together)

    def loop() -> Iterator[torch.Tensor]:
        for inputs in alone:
            yield plain_logits(module, inputs)

    return {PACKED: Implementation(packed), PADDED: Implementation(padded), LOOP: Implementation(loop)}


def describe_chat(preset: Preset, module: AlignmentModule, rows: Sequence[ImageTextRow]) -> str:
    """Sizes of the model and of its sequences."""
    module = cast(ChatVlmModule, module)
    config: Any = module.to_transformers().config
    shape = preset.chat[config.model_type]
    inputs = module.collator()(rows).inputs
    prefix = int((inputs["segment_ids"][0] == PREFIX_SEGMENT).sum())
    return (
        f"{LABELS[config.model_type]}: {count_parameters(module) / 1e6:,.1f} million parameters, language model "
        f"{shape.layers} layers x {shape.hidden_size}, vision {shape.vision_layers} layers x "
        f"{shape.vision_hidden_size}; {int(inputs['image_tokens'][0])} image tokens in a shared prefix of {prefix}"
    )


CHAT = partial(packed_and_plain, plain_inputs=plain_chat_inputs, plain_logits=plain_chat_logits)
"""The ways of every chat VLM."""
BLIP2 = partial(packed_and_plain, plain_inputs=plain_blip2_inputs, plain_logits=plain_blip2_logits)
BACKBONES = {
    "llava": Backbone(build_llava, llava_implementations, describe_llava),
    "blip2": Backbone(build_blip2, BLIP2, describe_blip2),
    "qwen3_vl": Backbone(partial(build_chat, "qwen3_vl"), CHAT, describe_chat),
    "gemma3": Backbone(partial(build_chat, "gemma3"), CHAT, describe_chat),
}
