"""Which losses there are, what each is computed from, and its settings, as the configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class NoSettings:
    """Of a loss without any."""


@dataclass
class CeClipSection:
    """Loss ce_clip: contrast over the batch (ITC), intra-modal contrast (IMC) and cross-modal rank (CMR)."""

    hard_negatives: bool = True
    """Negatives stand in the image-to-text softmax of ITC."""
    imc_weight: float = field(default=0.3, metadata={"min": 0.0})
    """Weight of IMC: captions against the texts of negatives."""
    cmr_weight: float = field(default=0.2, metadata={"min": 0.0})
    """Weight of CMR: how far below its positive a negative has to stay, by a rank threshold for each type."""
    rank_threshold: str = field(default="mean", metadata={"choices": ("mean", "max", "fixed")})
    """mean: by how much positives were above negatives of the type in the step before. max: a fifth of the largest such
    difference. fixed: `initial_rank_threshold`."""
    initial_rank_threshold: float = field(default=0.0, metadata={"min": 0.0})
    """Rank threshold of the first step, in logit units."""
    rank_threshold_bound: float = field(default=10.0, metadata={"above": 0.0})
    """Largest rank threshold, in logit units."""
    reference: bool = False
    """The official code's newest losses, for comparison: IMC draws all captions to one negative, thresholds begin anew
    with each epoch, and copies of an image count as different images."""

    def faults(self, place: str) -> Iterator[str]:
        """Thresholds that begin beyond their bound."""
        if self.initial_rank_threshold > self.rank_threshold_bound:
            yield (
                f"`{place}initial_rank_threshold` must be at most `{place}rank_threshold_bound`, got "
                f"{self.initial_rank_threshold:g} and {self.rank_threshold_bound:g}"
            )


@dataclass
class ItcItmSection:
    """BLIP-2's loss `itc_itm`: image-text contrast (ITC) and the matching head (ITM), as LAVIS trains retrieval."""

    itc_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITC, over the true captions of the global batch."""
    itm_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITM, over the captions of each row and the in-batch negatives."""
    in_batch_negatives: bool = True
    """For the first true caption of each row draw another image of the global batch, and for its image another
    caption, by the softmax of ITC's similarities."""
    label_smoothing: float = field(default=0.1, metadata={"min": 0.0})
    """Part of ITC's targets that is spread over the whole batch, below 1."""
    temperature: float = field(default=0.07, metadata={"min": 0.001, "max": 0.5})
    """What ITC's similarities are divided by at first; it is learnt, and stays in [0.001, 0.5]."""

    def faults(self, place: str) -> Iterator[str]:
        """Targets that say nothing, and weights that train nothing."""
        if self.label_smoothing >= 1:
            yield f"`{place}label_smoothing` must be in [0, 1), got {self.label_smoothing}"
        if not self.itc_weight and not self.itm_weight:
            yield f"`{place}itc_weight` or `{place}itm_weight` must be above 0"


@dataclass(frozen=True)
class KnownLoss:
    """What is known of a loss without computing it."""

    reads: str
    Settings: type = NoSettings
    contrasts_rows: bool = False
    anchors_only: bool = False
    needs_negatives: Callable[[Any], bool] = lambda settings: True


LOSSES = {
    "lm": KnownLoss("answer_logits"),
    "binary": KnownLoss("cells"),
    "listwise": KnownLoss("cells"),
    "itm": KnownLoss("itm"),
    "itc_itm": KnownLoss(
        "itc_itm",
        ItcItmSection,
        contrasts_rows=True,
        needs_negatives=lambda own: not own.in_batch_negatives and own.itm_weight > 0,
    ),
    "itc": KnownLoss("features", contrasts_rows=True, anchors_only=True, needs_negatives=lambda own: False),
    "ce_clip": KnownLoss(
        "features",
        CeClipSection,
        contrasts_rows=True,
        anchors_only=True,
        needs_negatives=lambda own: own.imc_weight > 0 or own.cmr_weight > 0,
    ),
}


def loss_class(name: str) -> KnownLoss:
    """What is known of a loss."""
    return LOSSES[name]


def losses_that_read(offers: tuple[str, ...]) -> tuple[str, ...]:
    """The losses that can be computed from what a backbone offers."""
    return tuple(name for name, loss in LOSSES.items() if loss.reads in offers)


def loss_arguments(name: str, settings: Any) -> dict[str, Any]:
    """The keyword arguments of a backbone's class about its loss."""
    if name == "ce_clip":
        from lightning_modules.losses.ce_clip import CeClipSettings

        return {"loss": name, "ce_clip": CeClipSettings(**asdict(settings))}
    if name == "itc_itm":
        from lightning_modules.backbones.blip2_itm import ItcItmSettings

        return {"loss": name, "itc_itm": ItcItmSettings(**asdict(settings))}
    return {"loss": name}
