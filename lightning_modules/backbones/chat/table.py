"""The families of chat VLMs, by what Transformers calls their models: one joins by its file and a line here."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.backbones.chat.family import Family

PLACE = "lightning_modules.backbones.chat."
FAMILIES: dict[str, str] = {
    "llava": "llava.Llava",
    "qwen2_vl": "qwen_vl.QwenVl",
    "qwen2_5_vl": "qwen_vl.QwenVl",
    "qwen3_vl": "qwen_vl.QwenVl",
    "qwen3_5": "qwen_vl.QwenVl",
    "internvl": "family.Family",
    "idefics3": "family.Family",
    "smolvlm": "family.Family",
    "llava_next": "family.Family",
    "llava_onevision": "family.Family",
    "gemma3": "gemma3.Gemma3",
    "paligemma": "paligemma.PaliGemma",
}
"""`model_type` in `config.json` -> where its class is, below this package."""


def check_family(model_type: object, name: str, families: Collection[str] = FAMILIES) -> None:
    """Refuses models of an unknown type.

    Raises:
        ValueError: it is none of `families`.
    """
    if model_type not in families:
        other = "model.backbone=chat_vlm" if model_type in FAMILIES else "the model.backbone that it was made for"
        raise ValueError(
            f"{name} is a checkpoint of type {model_type!r}, and this backbone reads {', '.join(families)}; choose "
            f"{other}."
        )


def family_of(config: Any) -> Family:
    """The family of a model's configuration.

    Raises:
        ValueError: none is known of this type.
    """
    check_family(config.model_type, "the model")
    module, _, name = FAMILIES[config.model_type].rpartition(".")
    family: Family = getattr(import_module(f"{PLACE}{module}"), name)(config)
    return family
