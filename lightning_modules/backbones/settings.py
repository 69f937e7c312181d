"""What can be set of a scorer: one dataclass for what all backbones share; each backbone's file adds its own keys.

The class that holds a `model` section is chosen by its `backbone` and `loss`: the backbone's, with one more section
where the loss has settings. Fields carry their rules in `metadata` (see `lightning_modules.settings`) and their
explanation in the string below, which `itm train --help` prints. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_modules.adapters import LoraSettings, Parts
from lightning_modules.losses.table import LOSSES, loss_class
from lightning_modules.settings import field_types


@dataclass
class TinyShape:
    """Sizes of a model built from scratch."""

    hidden_size: int = field(default=128, metadata={"min": 8, "max": 65_536})
    """Width of the language model, text tower or Q-Former."""
    layers: int = field(default=4, metadata={"min": 1, "max": 1000})
    """Layers of the language model, text tower or Q-Former."""
    heads: int = field(default=4, metadata={"min": 1, "max": 1024})
    """Attention heads of the language model, text tower or Q-Former."""
    vision_hidden_size: int = field(default=96, metadata={"min": 8, "max": 65_536})
    """Width of the vision tower."""
    vision_layers: int = field(default=3, metadata={"min": 2, "max": 1000})
    """Layers of the vision tower; LLaVA reads the last but one."""
    image_size: int = field(default=32, metadata={"min": 8, "max": 4096})
    """Pixels of an image's side."""
    patch_size: int = field(default=8, metadata={"min": 2, "max": 4096})
    """Pixels of a patch's side."""
    queries: int = field(default=8, metadata={"min": 1, "max": 65_536})
    """Query tokens of BLIP-2's Q-Former."""
    vocab_size: int = field(default=1000, metadata={"min": 300, "max": 10_000_000})
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
        recorded: those of the `scorer_keys` that a checkpoint's files decide where they are not given.
        adapter_parts: names for what LoRA can be put on; see `Backbone.parts`.
        former_values: of keys that older versions did not write into a `scorer.json` or a run's record: what they did.
    """

    default_loss: ClassVar[str] = ""
    scorer_keys: ClassVar[tuple[str, ...]] = ("max_text_tokens", "long_captions")
    recorded: ClassVar[tuple[str, ...]] = ()
    former_values: ClassVar[dict[str, Any]] = {}
    adapter_parts: ClassVar[Parts] = {}

    backbone: str = "llava"
    """The scorer's family, a name in the table of backbones."""
    checkpoint: str | None = None
    """Published weights, by hub name or folder (llava-hf/llava-1.5-7b-hf, Salesforce/blip2-itm-vit-g,
    openai/clip-vit-base-patch32, google/siglip2-base-patch16-224). Not given: a model built from `tiny`."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub. Not given: its default branch. A run keeps the commit:
    it is resumed and loaded with it."""
    tiny: TinyShape = field(default_factory=TinyShape)
    """Sizes of the model that is built where no checkpoint is given."""
    loss: str | None = field(default=None, metadata={"choices": LOSSES})
    """What it is trained by, of the losses that the backbone can compute. A loss with settings has a section of its own
    name. Not given: the backbone's default."""
    tune: str = field(default="full", metadata={"choices": ("full", "lora")})
    """full: all weights, of the vision tower too where `train_vision` says so. lora: adapters, and beside them what the
    backbone needs (projector, heads, query tokens, projections, logit scale)."""
    train_vision: bool | None = None
    """Also train the vision tower (a tiny model from scratch has to). Not given: as the backbone's authors do; clip and
    siglip do, llava and blip2 do not."""
    adapter: LoraSettings = field(default_factory=LoraSettings)
    """Used where `tune` is lora."""
    max_text_tokens: int | None = field(default=None, metadata={"min": 8, "max": 10_000_000})
    """Most tokens of a caption with its special tokens, or of prompt and image together where the backbone reads both
    in one sequence. Not given: as many as the backbone was trained with (blip2: 32, clip: 77,
    siglip: 64)."""
    long_captions: str = field(default="truncate", metadata={"choices": ("truncate", "error")})
    """truncate: longer captions are cut, and their number is printed. error: the first one stops the run."""
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

    def faults(self, place: str) -> Iterator[str]:
        """A revision of nothing, and a misspelt part for adapters."""
        if self.tune == "lora":
            yield from self.adapter.misspelt(self.adapter_parts, place)
        if self.revision is not None and self.checkpoint is None:
            yield f"`{place}revision` must not be given without `{place}checkpoint`, a name on the hub"

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the backbone's class; what is not given is left to its own defaults."""
        given = {name: getattr(self, name) for name in ("train_vision", "max_text_tokens")}
        return {
            **{name: value for name, value in given.items() if value is not None},
            "loss": self.own_loss,
            "loss_settings": self.loss_section,
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


class BackboneTraits:
    """What a backbone says of itself that a configuration has to know, without how it scores.

    Attributes:
        Settings: what can be set, a subclass of `ModelSettings`.
        offers: what a loss can be computed from, see the losses' `reads`.
        learns_scale: whether match logits are multiplied by a learnt scale, whatever the loss. In half precision a
            step of such a scale is smaller than its rounding, so `itm train` refuses bf16-true, and fsdp with
            bf16-mixed.
        encodes_images: whether `image_features` are there: images are read without captions.
    """

    Settings: ClassVar[type[ModelSettings]]
    offers: ClassVar[tuple[str, ...]] = ()
    learns_scale: ClassVar[bool] = False
    encodes_images: ClassVar[bool] = False
