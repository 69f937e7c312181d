"""Scoring: pairs per second of captions packed behind their image, of a padded batch, and of a loop over pairs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

from experiments.bench.gpu.flops import model_flops
from experiments.bench.gpu.shapes import MODELS
from experiments.bench.gpu.table import Row, counted
from experiments.bench.implementations import LOOP, PACKED, PADDED, rows_of_noise
from experiments.bench.measure import cuda_peak, seconds_in_turns
from lightning_modules import AlignmentModule

LOOPED = 10
"""Pairs that the loop runs, one by one: enough to know its rate."""
WARM_UP = 2


def scoring_rows(
    name: str, module: AlignmentModule, captions: int, scale: str, device: torch.device, turns: int
) -> list[Row]:
    """A row for each way of scoring images with so many captions.

    The padded batch has about as many sequences as the packed one has images; both fill the GPU.

    Args:
        name: in `MODELS`.
        module: it, built.
        captions: of each image.
        scale: decides the batch.
        device: of the module.
        turns: of which medians are taken; all ways run in each.
    """
    model, images = MODELS[name], MODELS[name].scored[scale]
    rows = rows_of_noise(images, captions)
    pairs = [(row, caption) for row in rows for caption in row.captions]
    batch = module.eval().collator()(rows).to(device)
    padded = max(1, images // captions) * captions
    together = model.plain(module, pairs[:padded], device)
    alone = [model.plain(module, [pair], device) for pair in pairs[:LOOPED]]

    ways: dict[str, Callable[[], torch.Tensor]] = {
        PACKED: lambda: module.logits(batch)[batch.caption_mask],
        PADDED: lambda: model.plain_logits(module, together),
        LOOP: lambda: torch.cat([model.plain_logits(module, inputs) for inputs in alone]),
    }
    counts = {PACKED: len(pairs), PADDED: padded, LOOP: len(alone)}
    batches = {
        PACKED: f"{images} images x {counted(captions)}",
        PADDED: f"{padded} sequences",
        LOOP: f"{len(alone)} pairs, one by one",
    }
    with torch.inference_mode():
        logits = {way: step() for way, step in ways.items()}
        seconds, peaks = timed(ways, turns, device)
    flops = sum(model_flops(module, batch, training=False))
    return [
        Row(
            what=f"{model.label}, scoring, {counted(captions)}",
            way=way,
            batch=batches[way],
            seconds=seconds[way],
            pairs=counts[way],
            flops=flops if way == PACKED else None,
            peak_bytes=peaks[way],
            notes=difference(logits[way], logits[PACKED][: counts[way]]) if way != PACKED else spread(logits[PACKED]),
        )
        for way in ways
    ]


def timed(
    steps: Mapping[str, Callable[[], object]], turns: int, device: torch.device
) -> tuple[dict[str, float], dict[str, int | None]]:
    """Median seconds and peak bytes of each step, in turns after a warm-up."""
    for step in [*steps.values()] * WARM_UP:
        step()
    seconds = {name: statistics.median(taken) for name, taken in seconds_in_turns(steps, turns, device).items()}
    on_gpu = device.type == "cuda"
    return seconds, {name: cuda_peak(step, device) if on_gpu else None for name, step in steps.items()}


def difference(logits: torch.Tensor, packed: torch.Tensor) -> str:
    """How far the match logits of a way are from the packed ones."""
    return f"match logits within {float((logits - packed).abs().max()):.2g} of packed"


def spread(logits: torch.Tensor) -> str:
    """Between which numbers match logits lie, beside which differences are large or small."""
    return f"match logits from {float(logits.min()):.2g} to {float(logits.max()):.2g}"
