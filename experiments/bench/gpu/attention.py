"""The packed forward by SDPA with a dense additive mask, and by FlexAttention with a mask of blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from experiments.bench.gpu.flops import model_flops
from experiments.bench.gpu.scoring import difference, timed
from experiments.bench.gpu.shapes import MODELS
from experiments.bench.gpu.table import Row, counted
from experiments.bench.implementations import rows_of_noise
from lightning_modules import AlignmentModule
from lightning_modules.backbones import PADDING_SEGMENT, PREFIX_SEGMENT

SDPA, FLEX = "SDPA, dense mask", "FlexAttention, blocks"


def attention_rows(
    name: str, module: AlignmentModule, captions: int, scale: str, device: torch.device, turns: int
) -> list[Row]:
    """A row for each of the two, of the same packed batch; making the mask is part of the time, compiling is not.

    Args:
        name: in `MODELS`, a chat VLM.
        module: it, built.
        captions: of each image.
        scale: decides the batch.
        device: of the module.
        turns: of which medians are taken.
    """
    model, images = MODELS[name], MODELS[name].scored[scale]
    batch = module.eval().collator()(rows_of_noise(images, captions)).to(device)

    def logits() -> torch.Tensor:
        return module.logits(batch)[batch.caption_mask]

    torch.compiler.reset()  # or it would compile for shapes of any size, having seen those of another model
    # not inference_mode, whose tensors torch.compile may refuse
    with torch.no_grad():
        dense, (seconds, peaks) = logits(), timed({SDPA: logits}, turns, device)
        # compiled for a CPU it would take minutes, and say nothing of a GPU
        stance = torch.compiler.set_stance("default" if device.type == "cuda" else "force_eager")
        with stance, flex_attention_in(module):
            started = time.perf_counter()
            blocks = logits()
            apart = difference(blocks, dense)  # waits for the device
            first = time.perf_counter() - started
            more_seconds, more_peaks = timed({FLEX: logits}, turns, device)
    seconds, peaks = seconds | more_seconds, peaks | more_peaks
    flops = sum(model_flops(module, batch, training=False))
    return [
        Row(
            what=f"{model.label}, packed forward, {counted(captions)}",
            way=way,
            batch=f"{images} images x {counted(captions)}",
            seconds=seconds[way],
            pairs=len(dense),
            flops=flops,
            peak_bytes=peaks[way],
            notes=notes,
        )
        for way, notes in ((SDPA, ""), (FLEX, f"{apart} by SDPA; first call, with compiling: {first:.1f} s"))
    ]


@contextmanager
def flex_attention_in(module: AlignmentModule) -> Iterator[None]:
    """The language model of a chat VLM attends by FlexAttention; its vision tower goes on as before."""
    network: Any = module.network
    text_config = cast(Any, module).to_transformers().config.get_text_config()
    # past `set_attn_implementation`, which refuses Qwen3-VL: its layers take any attention function all the same
    text_config._attn_implementation = "flex_attention"
    # on this object alone: the family's own method makes the dense mask
    network.family.packed_mask = lambda segment_ids, *_: packed_block_mask(segment_ids)
    try:
        yield
    finally:
        del network.family.packed_mask
        text_config._attn_implementation = "sdpa"


def packed_block_mask(segment_ids: torch.Tensor) -> BlockMask:
    """What `branch_attention_mask` allows, as blocks: those in which nothing is allowed are not computed.

    Args:
        segment_ids: [N, S], see `pack_branches`.
    """

    def allowed(row: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        of_query, of_key = segment_ids[row, query], segment_ids[row, key]
        related = (of_query == of_key) | (of_key == PREFIX_SEGMENT)
        real = (of_query != PADDING_SEGMENT) & (of_key != PADDING_SEGMENT)
        return (related & real & (query >= key)) | (query == key)

    count, length = segment_ids.shape
    return create_block_mask(allowed, count, None, length, length, device=str(segment_ids.device))
