"""What can be set of a scorer: one dataclass for what all backbones share; each backbone's file adds its own keys.

The class that holds a `model` section is chosen by its `backbone` and `loss`: the backbone's, with one more section
where the loss has settings. Fields carry their rules in `metadata` (see `lightning_modules.settings`) and their
explanation in the string below, which `itm train --help` prints. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_modules.adapters import LoraSettings
from lightning_modules.backbones import BACKBONES, backbone_class
from lightning_modules.backbones.loss_settings import LOSSES, loss_arguments, loss_class, losses_that_read
from lightning_modules.settings import did_you_mean, field_types, settings_from, shown

FORMER_KEYS = ("score", "system", "question", "activation", "itc_itm", "ce_clip")
"""Keys that a resolved `config.yaml` held for every backbone and loss before each had settings of its own."""


@dataclass
class TinyShape:
    """Sizes of a model built from scratch."""

    hidden_size: int = field(default=128, metadata={"min": 8})
    """Width of the language model, text tower or Q-Former."""
    layers: int = field(default=4, metadata={"min": 1})
    """Layers of the language model, text tower or Q-Former."""
    heads: int = field(default=4, metadata={"min": 1})
    """Attention heads of the language model, text tower or Q-Former."""
    vision_hidden_size: int = field(default=96, metadata={"min": 8})
    """Width of the vision tower."""
    vision_layers: int = field(default=3, metadata={"min": 2})
    """Layers of the vision tower; LLaVA reads the last but one."""
    image_size: int = field(default=32, metadata={"min": 8})
    """Pixels of an image's side."""
    patch_size: int = field(default=8, metadata={"min": 2})
    """Pixels of a patch's side."""
    queries: int = field(default=8, metadata={"min": 1})
    """Query tokens of BLIP-2's Q-Former."""
    vocab_size: int = field(default=1000, metadata={"min": 300})
    """Largest number of tokens; 256 of them are bytes."""
    initializer_range: float = field(default=0.02, metadata={"above": 0.0})
    """Standard deviation of initial weights."""

    def faults(self, place: str) -> Iterator[str]:
        """Sizes that do not divide."""
        for whole, part in (("hidden_size", "heads"), ("image_size", "patch_size")):
            if getattr(self, whole) % getattr(self, part):
                yield (
                    f"`{place}{part}` must divide `{place}{whole}`, got {getattr(self, part)} and "
                    f"{getattr(self, whole)}"
                )


@dataclass
class ModelSettings:
    """Which scorer, from which weights, and what of it trains.

    Attributes:
        default_loss: the backbone's, where `loss` is not given.
        scorer_keys: what a score depends on beside the weights; what a `scorer.json` may hold.
    """

    default_loss: ClassVar[str] = ""
    scorer_keys: ClassVar[tuple[str, ...]] = ("max_text_tokens", "long_captions")

    backbone: str = field(default="llava", metadata={"choices": BACKBONES})
    """The scorer's family."""
    checkpoint: str | None = None
    """Published weights, by hub name or folder (llava-hf/llava-1.5-7b-hf, Salesforce/blip2-itm-vit-g,
    openai/clip-vit-base-patch32). Not given: a model built from `tiny`."""
    tiny: TinyShape = field(default_factory=TinyShape)
    """Sizes of the model that is built where no checkpoint is given."""
    loss: str | None = field(default=None, metadata={"choices": LOSSES})
    """What it is trained by, of the losses that the backbone can compute. A loss with settings has a section of its own
    name. Not given: the backbone's default."""
    tune: str = field(default="full", metadata={"choices": ("full", "lora")})
    """full: all weights, of the vision tower too where `train_vision` says so. lora: adapters, and beside them what the
    backbone needs (projector, heads, query tokens, projections, logit scale)."""
    train_vision: bool | None = None
    """Also train the vision tower (a tiny model from scratch has to). Not given: as the backbone's authors do; clip
    does, llava and blip2 do not."""
    adapter: LoraSettings = field(default_factory=LoraSettings)
    """Used where `tune` is lora."""
    max_text_tokens: int | None = field(default=None, metadata={"min": 8})
    """Most tokens of a caption with its special tokens, or of prompt and image together where the backbone reads both
    in one sequence. Not given: as many as the backbone was trained with (blip2: 32, clip: 77)."""
    long_captions: str = field(default="truncate", metadata={"choices": ("truncate", "error")})
    """truncate: longer captions are cut, and how many is said. error: the first one stops the run."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    @property
    def own_loss(self) -> str:
        """The loss, the backbone's default where none is given."""
        return self.loss or self.default_loss

    @property
    def loss_section(self) -> Any | None:
        """The settings of the loss; None where it has none."""
        return vars(self).get(self.own_loss)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the backbone's class; what is not given is left to its own defaults."""
        given = {name: getattr(self, name) for name in ("train_vision", "max_text_tokens")}
        return {
            **{name: value for name, value in given.items() if value is not None},
            **loss_arguments(self.own_loss, self.loss_section),
            "lora": self.adapter if self.tune == "lora" else None,
            "long_captions": self.long_captions,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    @classmethod
    def explain(cls, key: str, place: str) -> str:
        """What is wrong with a key that is the section of a loss, which this class has not; "" where it is none."""
        if key not in LOSSES or not field_types(loss_class(key).Settings):
            return ""
        return f"belongs to the loss {key}, which is not the one of `{place}loss`: choose it there, or leave this out"


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
    module = backbone_class(backbone)
    losses = losses_that_read(module.offers)
    if loss is None:
        loss = module.Settings.default_loss
    if not isinstance(loss, str) or loss not in losses:
        raise UnknownNameError("loss", loss, losses, f" where the backbone is {backbone}")
    return _with_section(module.Settings, loss)  # type: ignore[arg-type]  # the class has a hash, its instances none


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

    def __init__(self, key: str, value: object, choices: Mapping[str, Any] | tuple[str, ...], where: str = ""):
        self.key, self.value, self.rule = key, value, f"must be one of {', '.join(choices)}{where}"
        self.near = did_you_mean(value, choices)
        super().__init__(f"`model.{key}` {self.rule}, got {shown(value)}{self.near}")


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
