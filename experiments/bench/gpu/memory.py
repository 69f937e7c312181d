"""What a training step needs of a GPU's memory, by formula: it decides what is trained, and how."""

from __future__ import annotations

import torch

from experiments.bench.gpu.shapes import MODELS, build
from experiments.bench.implementations import rows_of_noise
from experiments.bench.models import LORA, count_parameters
from lightning_modules import AlignmentModule

CAPTIONS = 4
"""Of each image that is trained on."""
BYTES_OF_A_WEIGHT = 10
"""Of one that trains in bf16: itself, its gradient, AdamW's two moments, and what AdamW computes on the way."""
SHARE = 0.85
"""Of the free memory that a step is planned to take: allocations leave gaps."""
READ_FULL, READ_LORA = (36, 8), (44, 9)
"""Bytes that the backward pass reads of a token in a layer, for each number of its hidden state and its feed-forward.

These are inputs and outputs of norms (float32 twice), queries, keys repeated for each head, values, gate and product;
with LoRA no inputs of frozen matrices, and for each adapter what dropout left of its input, and which."""


def layers_that_fit(name: str, scale: str, free: int) -> int:
    """Layers of the language model that can all be trained in so many bytes of memory.

    The largest need is in the forward's last layer, where weights, moments and what the backward pass reads are held,
    or in AdamW's step. BLIP-2's Q-Former is small: all of its layers.

    Raises:
        ValueError: not even one layer does.
    """
    sizes = MODELS[name].sizes[scale]
    one, two = (build(name, scale, torch.device("meta"), torch.bfloat16, layers=layers) for layers in (1, 2))
    read = _read(name, scale, one, MODELS[name].trained[scale], READ_FULL)
    if not read:
        return int(sizes.layers)
    weights = trained_weights(two) - trained_weights(one)
    layer = max(BYTES_OF_A_WEIGHT * weights, (BYTES_OF_A_WEIGHT - 4) * weights + read)
    beside = trained_weights(one) - weights
    frozen = count_parameters(one) - trained_weights(one)
    # the head is multiplied in float32: a copy, and the copy's gradient
    fixed = BYTES_OF_A_WEIGHT * beside + 2 * frozen + 8 * sizes.vocab_size * sizes.hidden_size
    fitting = int((SHARE * free - fixed) // layer)
    if fitting < 1:
        needed = (fixed + layer) / SHARE / 2**30
        raise ValueError(f"{free / 2**30:.1f} GiB are free, and a model of one layer needs {needed:.1f}")
    return min(fitting, int(sizes.layers))


def needs_recomputing(name: str, scale: str, free: int) -> bool:
    """Whether a step with LoRA on all layers has to compute activations once more to fit in so many bytes."""
    sizes = MODELS[name].sizes[scale]
    module = build(name, scale, torch.device("meta"), torch.bfloat16, tune=LORA)
    read = _read(name, scale, module, MODELS[name].adapted[scale], READ_LORA) * sizes.layers
    trained = trained_weights(module)
    weights = BYTES_OF_A_WEIGHT * trained + 2 * (count_parameters(module) - trained)
    return bool(weights + read + 4 * sizes.vocab_size * sizes.hidden_size > SHARE * free)


def _read(name: str, scale: str, module: AlignmentModule, images: int, each: tuple[int, int]) -> int:
    """Bytes that the backward pass reads of a layer; 0 for BLIP-2, whose Q-Former is small."""
    inputs, sizes = module.collator()(rows_of_noise(images, CAPTIONS)).inputs, MODELS[name].sizes[scale]
    tokens = inputs["segment_ids"].numel() if "segment_ids" in inputs else 0
    return tokens * (each[0] * int(sizes.hidden_size) + each[1] * int(sizes.intermediate_size))


def trained_weights(module: AlignmentModule) -> int:
    """Numbers in the weights that train."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
