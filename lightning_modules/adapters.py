"""LoRA adapters (PEFT) on parts of a backbone."""

from __future__ import annotations

from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from torch import nn


@dataclass(frozen=True)
class LoraSettings:
    """LoRA's rank, scale and dropout, and the parts of the model whose linear layers it adapts."""

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: tuple[str, ...] = ("language_model",)


def add_lora(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Puts trainable adapters beside every linear layer of the targeted parts, in place.

    Returns:
        The names of the adapted layers.

    Raises:
        ValueError: a target has no linear layer (an adapter that matches nothing would train nothing).
    """
    names: list[str] = []
    for target in settings.targets:
        matched = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and target in name.split(".")
        ]
        if not matched:
            parts = sorted({part for name, _ in model.named_modules() for part in name.split(".")[1:3] if part})
            raise ValueError(
                f"model.adapter.targets: {target!r} matches no linear layer; parts are {', '.join(parts)}."
            )
        names += matched
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none", target_modules=names
    )
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inject_adapter_in_model(config, model)
    # Injection freezes all that is no adapter; what trained before (the projector) goes on training.
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(True)
    return names
