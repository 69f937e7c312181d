"""LoRA adapters (PEFT) on parts of a backbone, and the table of what trains.

Importing this imports neither torch nor PEFT: a configuration is read before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


Parts = Mapping[str, Sequence[str]]
"""Name of a part -> names of the modules that make it up; the first one is the default target."""


@dataclass
class LoraSettings:
    """LoRA adapters (Hu et al., ICLR 2022, section 4.1) by PEFT; the defaults are LLaVA-1.5's recipe."""

    rank: int = field(default=128, metadata={"min": 1, "max": 65_536})
    """Rank of the update matrices."""
    alpha: int = field(default=256, metadata={"min": 1})
    """Scale: updates are multiplied by alpha / rank."""
    dropout: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    """Dropout in front of the update matrices."""
    targets: list[str] = field(default_factory=list)
    """Parts of the backbone whose linear layers get adapters (language_model, vision, projector; blip2: qformer; clip
    and siglip: towers), or names of modules. Empty: the part that the backbone's authors train."""

    def misspelt(self, parts: Parts, place: str) -> Iterator[str]:
        """A target that is nearly a part; what is no module's name either is refused by `add_lora`, with the model."""
        for target in self.targets:
            # nearer than in other errors: a module's name (projection) must not be taken for a part's (projector)
            near = difflib.get_close_matches(target.lower(), parts, n=1, cutoff=0.85)
            if near and target not in parts:
                rule = f"must be parts ({', '.join(parts)}) or names of modules"
                yield f"`{place}adapter.targets` {rule}, got {target!r}. Did you mean {near[0]}?"


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
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    # nn.MultiheadAttention multiplies by its projection's weight itself: an adapter beside it would never run
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
    names: list[str] = []
    for target in settings.targets or tuple(parts)[:1]:
        modules = parts.get(target, (target,))
        # by whole words between the dots: a part must not match a module whose name only contains it
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
        # full names, since PEFT takes each for an ending and would match other layers by a shorter one
        target_modules=sorted(set(names)),
    )
    # asked before injection, which changes it
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

    >>> from torch import nn
    >>> parts = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 1).requires_grad_(False)})
    >>> [(row.module, row.trainable, row.total) for row in trainable_rows(nn.ModuleDict({"clip": parts}))]
    [('clip.a', 9, 9), ('clip.b', 0, 4)]
    """
    found: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        kind = "adapter" if "lora_" in name else "weights"
        # LLaVA's parts stand one level deeper, in `llava.model`
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
