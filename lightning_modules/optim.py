"""AdamW with decay on matrices only, a separate projector rate, linear warm-up and cosine decay.

AdamW: Loshchilov & Hutter, ICLR 2019. The half cosine: the same, SGDR, ICLR 2017, equation 5, without restarts. The
projector's own rate: LLaVA-1.5's LoRA recipe (2e-4, and 2e-5 for the projector).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import torch
from torch import nn


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    projector_lr: float | None = None,
    projector: Collection[str] = ("multi_modal_projector",),
) -> list[dict[str, object]]:
    """Groups of trainable parameters: projector or not, decayed (two or more axes) or not.

    A group's "rate" names the setting that its rate is: `lr`, or `projector_lr` where the projector has its own.

    Args:
        named_parameters: of the module; those that do not train are left out.
        lr, weight_decay: of all groups, but 1-D parameters do not decay.
        projector_lr: of the projector; `lr` where None.
        projector: names of the modules that make it up.

    Raises:
        ValueError: nothing is trainable.
    """
    projector_names = set(projector)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_projector = not projector_names.isdisjoint(name.split("."))
            # norms, biases and scales have one axis: as in OpenCLIP, they do not decay
            groups.setdefault((is_projector, parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise ValueError("No parameter is trainable: nothing to optimise; check model.tune and model.adapter.targets.")
    # by whether a group is the projector's
    rates = {False: ("lr", lr), True: ("lr", lr) if projector_lr is None else ("projector_lr", projector_lr)}
    return [
        {
            "params": parameters,
            "rate": rates[is_projector][0],
            "lr": rates[is_projector][1],
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        # sorted, since a checkpoint's optimiser state goes by the place of a group, not by its name
        for (is_projector, is_matrix), parameters in sorted(groups.items())
    ]


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate at `step` (0-based): up linearly to 1, then down a half cosine to 0.

    >>> [round(warmup_cosine(step, total_steps=6, warmup_steps=2), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        # + 1 as in OpenCLIP: a first step with rate 0 would change nothing
        return (step + 1) / warmup_steps
    # a schedule is asked once more after the last step, and all steps may be warm-up
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw_warmup_cosine(
    groups: list[dict[str, object]],
    *,
    betas: tuple[float, float],
    eps: float = 1e-8,
    total_steps: int,
    warmup_ratio: float,
    warmup_steps: int | None = None,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser and its schedule over `total_steps` optimiser steps; `warmup_steps` overrules the ratio."""
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps)
    # rounded up as in Transformers, which trains LLaVA
    warmup = math.ceil(warmup_ratio * total_steps) if warmup_steps is None else warmup_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps=total_steps, warmup_steps=warmup)
    )
    return optimizer, schedule
