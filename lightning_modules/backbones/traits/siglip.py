"""What a configuration has to know of a SigLIP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from lightning_modules.backbones.settings import BackboneTraits, ModelSettings

PARTS = {
    "towers": ("text_model", "vision_model"),
    "language_model": ("text_model",),
    "vision": ("vision_model",),
    "projector": ("head",),
}
"""What LoRA can be put on; both towers, their heads included, where nothing is said."""


@dataclass
class SiglipSettings(ModelSettings):
    """What can be set of a SigLIP."""

    default_loss = "sigmoid"
    adapter_parts = PARTS

    backbone: str = "siglip"
    naflex: bool = False
    """Whether a model that is built where no checkpoint is given is a SigLIP 2 NaFlex, which keeps an image's shape."""

    def faults(self, place: str) -> Iterator[str]:
        """A tower that is to train beside its adapters, and a shape of images that the checkpoint decides."""
        yield from super().faults(place)
        if self.tune == "lora" and self.train_vision:
            yield f"`{place}train_vision` must not be true where `{place}tune` is lora for siglip: its adapters train"
        if self.naflex and self.checkpoint is not None:
            yield f"`{place}naflex` must not be given beside `{place}checkpoint`, which says itself what it is"


class SiglipTraits(BackboneTraits):
    """Of `backbones.siglip.SiglipModule`."""

    Settings = SiglipSettings
    offers: ClassVar[tuple[str, ...]] = ("biased_features", "features", "match_logits")
    learns_scale = True
    encodes_images = True
