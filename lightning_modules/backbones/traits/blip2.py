"""What a configuration has to know of a BLIP-2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_modules.backbones.settings import BackboneTraits, ModelSettings

SCORES = {
    "itm": ("match - no-match logit of the matching head", "p(match), the sigmoid of the logit, in [0, 1]"),
    "itc": ("cosine of text and image, the largest over the queries", "the logit itself, in [-1, 1]"),
    "itm_itc": ("match logit of the matching head + cosine of text and image", "the logit itself"),
}
"""Name -> what the match logit is, and what the score is."""
PARTS = {
    "qformer": ("qformer",),
    "vision": ("vision_model",),
    "projector": ("vision_projection", "text_projection", "itm_head"),
}
"""What LoRA can be put on; the Q-Former where nothing is said."""


@dataclass
class Blip2Settings(ModelSettings):
    """What can be set of a BLIP-2."""

    default_loss = "itm"
    adapter_parts = PARTS
    scorer_keys = ("score", *ModelSettings.scorer_keys)

    backbone: str = "blip2"
    score: str | None = field(default=None, metadata={"choices": SCORES})
    """The match logit: itm (the matching head's; default), itc (similarity of the unfused features), or itm_itc (their
    sum, as in BLIP-2's retrieval evaluation)."""

    def arguments(self) -> dict[str, Any]:
        """Also which score."""
        return {**super().arguments(), "score": self.score or "itm"}

    def faults(self, place: str) -> Iterator[str]:
        """A score by heads that nothing trains: a tiny model's are random."""
        yield from super().faults(place)
        score = self.score or "itm"
        if self.checkpoint is not None:
            return
        # ITM alone trains the matching head; the projections of ITC stay as they were drawn
        if self.own_loss != "itc_itm":
            if score != "itm":
                yield (
                    f"`{place}score` must be itm without `{place}checkpoint`, or `{place}loss` itc_itm: no other loss "
                    "trains a tiny model's ITC heads"
                )
            return
        own: Any = self.loss_section
        weights = {"itm": own.itm_weight, "itc": own.itc_weight}
        # both weights 0 train nothing at all, which the loss says itself
        for head in score.split("_") if any(weights.values()) else ():
            if not weights[head]:
                yield (
                    f"`{place}itc_itm.{head}_weight` must be above 0 where `{place}score` is {score}: nothing else "
                    "trains a tiny model's head"
                )


class Blip2Traits(BackboneTraits):
    """Of `backbones.blip2_itm.Blip2ItmModule`."""

    Settings = Blip2Settings
    offers: ClassVar[tuple[str, ...]] = ("itm_logits", "match_logits", "itc_itm")
