"""LoRA adapters (PEFT) on parts of a backbone, and the table of what trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from torch import nn


@dataclass(frozen=True)
class LoraSettings:
    """LoRA's rank, scale and dropout, and the parts of the model whose linear layers it adapts.

    `targets` are names of a backbone's parts (language_model, vision, qformer, projector, text) or of its modules;
    where there are none, the part that the backbone's authors train.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: tuple[str, ...] = ()


Parts = Mapping[str, Sequence[str]]
"""Name of a part -> names of the modules that make it up; the first one is the default target."""


def add_lora(model: nn.Module, settings: LoraSettings, parts: Parts) -> list[str]:
    """Puts trainable adapters beside every linear layer of the targeted parts, in place.

    Args:
        model: whose trainable parameters go on training.
        settings: rank, scale, dropout, targets.
        parts: the backbone's.

    Returns:
        The names of the adapted layers.

    Raises:
        ValueError: a target has no linear layer (an adapter that matches nothing would train nothing).
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names: list[str] = []
    for target in settings.targets or tuple(parts)[:1]:
        modules = parts.get(target, (target,))
        matched = [name for name in linear if any(module in name.split(".") for module in modules)]
        if not matched:
            known = sorted({*parts, *(part for name in linear for part in name.split(".")[:3] if not part.isdigit())})
            raise ValueError(
                f"model.adapter.targets: {target!r} matches no linear layer; parts are {', '.join(known)}."
            )
        names += matched
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=sorted(set(names)),
    )
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inject_adapter_in_model(config, model)
    # Injection freezes all that is no adapter; what trained before (the projector) goes on, unless it is adapted.
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(True)
    return names


@dataclass(frozen=True)
class TrainableRow:
    """A part of the network in the table of what trains; `trainable` and `total` count parameters."""

    module: str
    kind: str
    trainable: int
    total: int
    dtype: str


def trainable_rows(network: nn.Module) -> list[TrainableRow]:
    """What trains, one row for each part of the model inside the network, weights and adapters apart.

    >>> parts = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 1).requires_grad_(False)})
    >>> [(row.module, row.trainable, row.total) for row in trainable_rows(nn.ModuleDict({"clip": parts}))]
    [('clip.a', 9, 9), ('clip.b', 0, 4)]
    """
    found: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        kind = "adapter" if "lora_" in name else "weights"
        part = ".".join([word for word in name.split(".") if word != "model"][:2])
        found.setdefault((part, kind), []).append(parameter)
    return [
        TrainableRow(
            module,
            kind,
            sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            sum(parameter.numel() for parameter in parameters),
            ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})),
        )
        for (module, kind), parameters in found.items()
    ]
