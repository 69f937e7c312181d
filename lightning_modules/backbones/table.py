"""The backbones, by name: a new one joins by its file, its tiny builder, and a line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_modules.backbones.backbone import Backbone

BACKBONES: dict[str, str] = {
    "llava": "lightning_modules.backbones.llava.LlavaModule",
    "blip2": "lightning_modules.backbones.blip2_itm.Blip2ItmModule",
    "clip": "lightning_modules.backbones.clip.ClipModule",
}
"""Name -> where its class is. Strings, so that who asks for the names need not wait for torch."""


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone; its file is imported now.

    Raises:
        ValueError: no backbone is called so.
    """
    from lightning_modules.settings import did_you_mean, quoted

    if not isinstance(name, str) or name not in BACKBONES:
        names = ", ".join(BACKBONES)
        raise ValueError(f"backbone must be one of {names}, got {quoted(name)}{did_you_mean(name, BACKBONES)}")
    module, _, own = BACKBONES[name].rpartition(".")
    found: type[Backbone] = getattr(importlib.import_module(module), own)
    return found


def backbone_of_model_type(model_type: object) -> str | None:
    """The backbone whose checkpoints have this `model_type` in Transformers' `config.json`; None where none has."""
    # imports one backbone after the other, until one has this type
    return next((name for name in BACKBONES if backbone_class(name).model_type() == model_type), None)
