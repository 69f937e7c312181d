"""Which class holds a `model` section: its backbone's, with a section of its loss where the loss has settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any

from lightning_modules.backbones.settings import ModelSettings
from lightning_modules.backbones.table import BACKBONES, backbone_traits
from lightning_modules.losses.table import loss_class, losses_that_read
from lightning_modules.settings import did_you_mean, field_types, quoted, settings_from

FORMER_KEYS = ("score", "system", "question", "activation", "itc_itm", "ce_clip")
"""Keys that a resolved `config.yaml` held for every backbone and loss before each had settings of its own."""


def model_schema(backbone: object, loss: object = None) -> type[ModelSettings]:
    """The class of a `model` section: the backbone's, with a section called as the loss where the loss has settings.

    Args:
        backbone: a name in `BACKBONES`; only this one's file is imported.
        loss: one that the backbone can compute; its default where None.

    Raises:
        UnknownNameError: one of the two is none of these.
    """
    if not isinstance(backbone, str) or backbone not in BACKBONES:
        raise UnknownNameError("backbone", backbone, BACKBONES)
    traits = backbone_traits(backbone)
    losses = losses_that_read(traits.offers)
    if loss is None:
        loss = traits.Settings.default_loss
    if not isinstance(loss, str) or loss not in losses:
        raise UnknownNameError("loss", loss, losses, f" where the backbone is {backbone}")
    return _with_section(traits.Settings, loss)  # type: ignore[arg-type]  # the class has a hash, its instances none


class UnknownNameError(ValueError):
    """A backbone or loss that there is not.

    Args:
        key: of the `model` section.
        value: what it says.
        choices: what it may say.
        where: a condition.

    Attributes:
        key, value: as given.
        rule: what the key must be.
        near: the end of the error, the nearest known name.
    """

    def __init__(self, key: str, value: object, choices: Collection[str], where: str = ""):
        self.key, self.value, self.rule = key, value, f"must be one of {', '.join(choices)}{where}"
        self.near = did_you_mean(value, choices)
        super().__init__(f"`model.{key}` {self.rule}, got {quoted(value)}{self.near}")


# one class for each backbone and loss: dataclasses of two classes are never equal
@functools.cache
def _with_section(settings: type[ModelSettings], loss: str) -> type[ModelSettings]:
    section = loss_class(loss).Settings
    if not field_types(section):
        return settings
    made = dataclasses.make_dataclass(
        settings.__name__, [(loss, section, field(default_factory=section))], bases=(settings,)
    )
    made.__module__, made.__doc__ = settings.__module__, settings.__doc__
    return made


def model_settings(mapping: Mapping[str, Any], place: str = "model.") -> ModelSettings:
    """The settings that a `model` section of plain values describes.

    Args:
        mapping: with its `backbone`; what is missing keeps its default.
        place: what errors put before a key.

    Raises:
        ValueError: one line with all that is wrong.
    """
    return settings_from(model_schema(mapping.get("backbone"), mapping.get("loss")), mapping, place)


def without_former_keys(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A saved `model` section without the keys of other backbones and losses, which older runs wrote for every one."""
    try:
        known = field_types(model_schema(mapping.get("backbone"), mapping.get("loss")))
    except ValueError:
        return dict(mapping)  # refused by who reads it
    return {key: value for key, value in mapping.items() if key in known or key not in FORMER_KEYS}
