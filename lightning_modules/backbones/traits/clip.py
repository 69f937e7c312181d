"""What a configuration has to know of a CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from lightning_modules.backbones.settings import BackboneTraits, ModelSettings

ACTIVATIONS = ("quick_gelu", "gelu")
PARTS = {
    "towers": ("text_model", "vision_model"),
    "language_model": ("text_model",),
    "vision": ("vision_model",),
    "projector": ("visual_projection", "text_projection"),
}
"""What LoRA can be put on; both towers where nothing is said."""


@dataclass
class ClipSettings(ModelSettings):
    """What can be set of a CLIP."""

    default_loss = "itc"
    adapter_parts = PARTS
    scorer_keys = ("activation", *ModelSettings.scorer_keys)

    backbone: str = "clip"
    activation: str | None = field(default=None, metadata={"choices": ACTIVATIONS})
    """Overrules the activation in the checkpoint's configuration; OpenAI's weights need quick_gelu."""

    def faults(self, place: str) -> Iterator[str]:
        """A tower that is to train beside its adapters."""
        yield from super().faults(place)
        if self.tune == "lora" and self.train_vision:
            yield f"`{place}train_vision` must not be true where `{place}tune` is lora for clip: its adapters train"


class ClipTraits(BackboneTraits):
    """Of `backbones.clip.ClipModule`."""

    Settings = ClipSettings
    offers: ClassVar[tuple[str, ...]] = ("features", "match_logits")
    learns_scale = True
    encodes_images = True
