"""The backbones, by name: a new one joins by its file, its tiny builder, and a line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.backbones.backbone import Backbone
    from lightning_modules.backbones.settings import BackboneTraits

BACKBONES: dict[str, str] = {
    "llava": "lightning_modules.backbones.llava.LlavaModule",
    "chat_vlm": "lightning_modules.backbones.chat_vlm.ChatVlmModule",
    "blip2": "lightning_modules.backbones.blip2_itm.Blip2ItmModule",
    "clip": "lightning_modules.backbones.clip.ClipModule",
    "siglip": "lightning_modules.backbones.siglip.SiglipModule",
}
"""Name -> where its class is. Strings, so that who asks for the names need not wait for torch."""
TRAITS: dict[str, str] = {
    "llava": "lightning_modules.backbones.traits.llava.LlavaTraits",
    "chat_vlm": "lightning_modules.backbones.traits.chat_vlm.ChatVlmTraits",
    "blip2": "lightning_modules.backbones.traits.blip2.Blip2Traits",
    "clip": "lightning_modules.backbones.traits.clip.ClipTraits",
    "siglip": "lightning_modules.backbones.traits.siglip.SiglipTraits",
}
"""Name -> where its traits stand, so that a configuration is checked without Lightning. Of others: in the class."""


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone; its file is imported now.

    Raises:
        ValueError: no backbone is called so.
    """
    from lightning_modules.settings import did_you_mean, quoted

    if not isinstance(name, str) or name not in BACKBONES:
        names = ", ".join(BACKBONES)
        raise ValueError(f"backbone must be one of {names}, got {quoted(name)}{did_you_mean(name, BACKBONES)}")
    found: type[Backbone] = _imported(BACKBONES[name])
    return found


def backbone_traits(name: str) -> type[BackboneTraits]:
    """What a configuration has to know of a backbone; its file is not imported where the traits stand apart.

    Raises:
        ValueError: as `backbone_class`.
    """
    if name not in TRAITS:
        return backbone_class(name)
    found: type[BackboneTraits] = _imported(TRAITS[name])
    return found


def backbone_of_model_type(model_type: object) -> str | None:
    """The backbone whose checkpoints have this `model_type` in Transformers' `config.json`; None where none has."""
    # imports one backbone after the other, until one has this type
    return next((name for name in BACKBONES if model_type in backbone_class(name).model_types()), None)


def _imported(place: str) -> Any:
    module, _, own = place.rpartition(".")
    return getattr(importlib.import_module(module), own)
