"""Training: pairs per second and model FLOP utilisation of a step, with LoRA and of all language weights."""

from __future__ import annotations

import torch

from experiments.bench.gpu.flops import model_flops
from experiments.bench.gpu.memory import CAPTIONS, layers_that_fit, needs_recomputing, trained_weights
from experiments.bench.gpu.scoring import timed
from experiments.bench.gpu.shapes import MODELS, Model, build
from experiments.bench.gpu.table import Row, counted
from experiments.bench.implementations import PACKED, rows_of_noise
from experiments.bench.models import FULL, LORA, count_parameters


def training_rows(name: str, tune: str, scale: str, device: torch.device, turns: int) -> list[Row]:
    """A row for one step: forward, backward and AdamW, bf16 weights and moments as with `precision=bf16-true`.

    Args:
        name: in `MODELS`.
        tune: `lora` adapts the whole language model, and recomputes activations where they do not fit in memory; `full`
            trains as many of its layers as fit.
        scale: of the model.
        device: where it is built.
        turns: of which the median is taken.
    """
    model = MODELS[name]
    images = (model.trained if tune == FULL else model.adapted)[scale]
    layers, recomputes = None, False
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        layers = layers_that_fit(name, scale, free) if tune == FULL else None
        recomputes = tune == LORA and needs_recomputing(name, scale, free)
    module = build(name, scale, device, torch.bfloat16, tune=tune, layers=layers, recomputes=recomputes).train()
    rows = rows_of_noise(images, CAPTIONS)
    batch = module.collator()(rows).to(device)
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # as `lightning_modules.optim` makes it
    optimizer = torch.optim.AdamW(weights, lr=module.lr, betas=module.betas, eps=module.eps)
    losses: list[torch.Tensor] = []

    def step() -> None:
        loss, _ = module.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())

    seconds, peaks = timed({tune: step}, turns, device)
    if not bool(torch.stack(losses).isfinite().all()):
        raise FloatingPointError(f"losses are {[float(loss) for loss in losses]}")
    return [
        Row(
            what=f"{model.label}, training step ({'LoRA' if tune == LORA else 'full'}), {counted(CAPTIONS)}",
            way=PACKED,
            batch=f"{images} images x {counted(CAPTIONS)}",
            seconds=seconds[tune],
            pairs=images * CAPTIONS,
            flops=sum(model_flops(module, batch, training=True)),
            peak_bytes=peaks[tune],
            notes=f"{layers_of(model, scale, layers)}; {trained_weights(module) / 1e9:.3g} of "
            f"{count_parameters(module) / 1e9:.3g} billion weights train{'; activations recomputed' * recomputes}",
        )
    ]


def layers_of(model: Model, scale: str, layers: int | None) -> str:
    """How many of the language model's layers there are, in words."""
    every = model.sizes[scale].layers
    return f"all {every} layers" if layers in (None, every) else f"{layers} of {every} layers"
