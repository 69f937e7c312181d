"""CE-CLIP's losses beside ITC: intra-modal contrast (IMC) and cross-modal rank (CMR) with adaptive rank thresholds.

Zhang et al., Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives, CVPR 2024. The official code went through
several states; `reference` takes its newest one (ef87eb7), texts that it marks as invalid included. The default differs
in two points: missing negatives take part in nothing, and IMC is the one that its idea asks for, see `imc_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import NEGATIVE, UNKNOWN, ImageTextBatch
from lightning_modules.losses.global_batch import (
    ContrastLayout,
    gather_names,
    gather_rows,
    local_layout,
    rank_share,
    rank_sizes,
)
from lightning_modules.losses.itc import ItcLoss, itc_loss
from lightning_modules.losses.loss import Report, joined, masked_mean
from lightning_modules.losses.rank_thresholds import RankThresholds, next_rank_thresholds


@dataclass
class CeClipSettings:
    """Loss ce_clip: contrast over the batch (ITC), intra-modal contrast (IMC) and cross-modal rank (CMR).

    The defaults are the paper's recipe.
    """

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
    """Rank threshold of a type's first step, in logit units."""
    # 10 is the default of the official flag, upper_bound
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


@dataclass(frozen=True)
class CeClipTerms:
    """CE-CLIP's terms on one rank's anchors, unweighted, and the logits that move the rank thresholds.

    Attributes:
        itc, imc: means over the A anchors.
        cmr: mean over the hard negatives that exist; over all of them in the reference.
        right: [A] bool, whether no other text beats the anchor's own.
        anchor_logits: [A] of each anchor's own text.
        positive_logits, negative_logits: [n] of each existing hard negative's anchor, and its own.
        types: [n] long, their negative types.
    """

    itc: torch.Tensor
    imc: torch.Tensor
    cmr: torch.Tensor
    right: torch.Tensor
    anchor_logits: torch.Tensor
    positive_logits: torch.Tensor
    negative_logits: torch.Tensor
    types: torch.Tensor


def ce_clip_terms(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    scale: torch.Tensor,
    layout: ContrastLayout,
    rank_thresholds: torch.Tensor,
    *,
    hard_negatives: bool = True,
    with_imc: bool = True,
    reference: bool = False,
) -> CeClipTerms:
    """ITC, IMC and CMR of a batch (CE-CLIP, section 3); gradients reach both features and the scale.

    Args:
        image_features: [G, D] of all ranks, of length 1.
        text_features: [T, D] of all ranks, of length 1.
        scale: [1], what cosines are multiplied by.
        layout: of the batch; a hard negative exists where its label is 0. Its blind logits join those of all three
            terms, and not those that move the thresholds.
        rank_thresholds: [K], of each negative type, in logit units.
        hard_negatives: whether hard negatives stand in the softmax of ITC.
        with_imc: whether to compute IMC, which takes as many similarities again; 0 stands for it otherwise.
        reference: as the official code's newest state: hard negatives that do not exist stand in both softmaxes, and
            count in CMR's divisor. Batches from tables have none such; the official data marks them with "###".
    """
    # before the reference makes a text of what is missing
    exists = layout.text_labels[layout.hard_texts] == NEGATIVE
    if reference:
        # the official code masks no text: a missing negative, "###", stands in every denominator
        layout = replace(layout, text_labels=layout.text_labels.masked_fill(layout.text_labels == UNKNOWN, NEGATIVE))
    false = layout.text_labels == NEGATIVE
    contrasted = (
        layout if hard_negatives else replace(layout, text_labels=layout.text_labels.masked_fill(false, UNKNOWN))
    )
    # a negative that is left out is UNKNOWN, which `itc_loss` masks
    itc, right = itc_loss(image_features, text_features, scale, contrasted)

    own_images, own_texts = image_features[layout.anchor_images], text_features[layout.anchor_texts]
    anchor_logits = pair_logits(own_images, own_texts, scale)
    hard_images = own_images[layout.hard_anchors]
    negative_logits = pair_logits(hard_images, text_features[layout.hard_texts], scale)
    positive_logits = anchor_logits[layout.hard_anchors]
    together = joined(negative_logits, layout.blind_of(layout.hard_texts))
    losses = cmr_losses(positive_logits, together, rank_thresholds[layout.hard_types])
    others = false & with_imc  # none without IMC, for which it is 0
    imc = imc_loss(own_texts, text_features[others], anchor_logits, scale, layout.blind_of(others), reference=reference)
    return CeClipTerms(
        itc=itc,
        imc=imc,
        cmr=torch.where(exists, losses, 0.0).sum() / max(1, len(losses)) if reference else masked_mean(losses, exists),
        right=right,
        # the thresholds follow these logits, and no gradient flows back through a threshold
        anchor_logits=anchor_logits.detach(),
        positive_logits=positive_logits.detach()[exists],
        negative_logits=negative_logits.detach()[exists],
        types=layout.hard_types[exists],
    )


def pair_logits(image_features: torch.Tensor, text_features: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[N] scale x cosine of N pairs of features [N, D]; a sum of products, which autocast does not round."""
    return scale * (image_features * text_features).sum(-1)


def imc_loss(
    anchor_texts: torch.Tensor,
    negative_texts: torch.Tensor,
    anchor_logits: torch.Tensor,
    scale: torch.Tensor,
    blind_logits: torch.Tensor | None = None,
    *,
    reference: bool = False,
) -> torch.Tensor:
    """Intra-modal contrast, mean over anchors: a caption shall be nearer to its image than to hard negatives' texts.

    -log(e^d / (e^d + sum over all hard negatives n of the batch of e^(scale x cosine(caption, n)))), d the logit of the
    pair: CE-CLIP's equation 3 with the positive in its denominator, the official code's state of January 2024.

    Args:
        anchor_texts: [A, D] of length 1.
        negative_texts: [M, D] of all ranks, own ones and those of other captions.
        anchor_logits: [A], d.
        scale: [1].
        blind_logits: [M] what the text alone says of the negatives, which joins their logits.
        reference: the newest state instead, in which the first hard negative of the batch stands for the positive:
            it draws all captions to that one. For comparison only.
    """
    if not len(negative_texts) or not len(anchor_texts):
        # not a plain 0: DDP waits for a gradient of every parameter
        return 0 * anchor_logits.sum()
    with torch.autocast(anchor_texts.device.type, enabled=False):
        # as in ITC, autocast would round cosines
        similarities = joined(scale * anchor_texts @ negative_texts.T, blind_logits)
    if reference:
        return (similarities.logsumexp(1) - similarities[:, 0]).mean()
    # log(1 + e^(lse - d)), which neither overflows nor loses a small loss to rounding
    return F.softplus(similarities.logsumexp(1) - anchor_logits).mean()


def cmr_losses(
    positive_logits: torch.Tensor, negative_logits: torch.Tensor, rank_thresholds: torch.Tensor
) -> torch.Tensor:
    """Cross-modal rank (CE-CLIP, section 3): [N] by how much each hard negative comes closer than its threshold [N]."""
    return F.relu(rank_thresholds + negative_logits - positive_logits)


class CeClipLoss(ItcLoss):
    """CE-CLIP's loss with its rank thresholds, which move once for each optimiser step.

    Thresholds come from the logits of all ranks and all accumulated batches: they are equal on all ranks, and a step
    uses those that the step before has left.
    """

    Settings = CeClipSettings

    def __init__(self, settings: CeClipSettings | None = None):
        super().__init__(settings)
        self.rank_thresholds = RankThresholds(self.settings.initial_rank_threshold)
        self._seen: list[tuple[torch.Tensor, ...]] = []

    @classmethod
    def needs_negatives(cls, settings: CeClipSettings) -> bool:
        """IMC and CMR are about hard negatives; ITC alone has other rows."""
        return bool(settings.imc_weight or settings.cmr_weight)

    def layout(self, batch: ImageTextBatch) -> ContrastLayout:
        """The layout, with each hard negative's place among the types that any rank has met so far."""
        cells = (batch.caption_mask & (batch.labels == NEGATIVE)).nonzero().tolist()
        types = {batch.negative_type[row][column] for row, column in cells}
        # a rank that knew more types than another one would log and save others
        self.rank_thresholds.meet(gather_names(types - set(self.rank_thresholds.types), device=batch.labels.device))
        return local_layout(
            batch,
            self.rank_thresholds.types,
            distinct_images=self.settings.reference,
            blind_logit=self.blind_logit(batch),
        )

    def contrast(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        scale: torch.Tensor,
        layout: ContrastLayout,
        *,
        anchors: int,
        hard_texts: int,
    ) -> tuple[torch.Tensor, torch.Tensor, Report]:
        """The weighted sum of the terms, as a mean over this rank's anchors; see `ItcLoss.contrast`."""
        settings, thresholds = self.settings, self.rank_thresholds()
        terms = ce_clip_terms(
            image_features,
            text_features,
            scale,
            layout,
            thresholds,
            hard_negatives=settings.hard_negatives,
            with_imc=settings.imc_weight > 0,
            reference=settings.reference,
        )
        # validation moves no threshold
        if torch.is_grad_enabled() and self.training:
            self._seen.append((terms.anchor_logits, terms.positive_logits, terms.negative_logits, terms.types))
        own = len(layout.anchor_texts)
        # CMR is a mean over hard negatives and the loss one over anchors, of which ranks have different numbers. Hard
        # texts of a batch all exist, so the mean times their number is the sum.
        cmr = rank_share(terms.cmr * len(layout.hard_texts), hard_texts, own_terms=own, all_terms=anchors)
        loss = terms.itc + settings.imc_weight * terms.imc + settings.cmr_weight * cmr
        named = zip(self.rank_thresholds.types, thresholds, strict=True)
        report = {
            "itc/loss": terms.itc,
            "imc/loss": terms.imc,
            "cmr/loss": cmr,
            **{f"rank_threshold/{name}": value for name, value in named},
        }
        return loss, terms.right, report

    def on_epoch_start(self) -> None:
        """In the reference, rank thresholds begin anew."""
        if self.settings.reference:
            # there the thresholds are local to the function that trains an epoch
            self.rank_thresholds.reset()

    def on_optimizer_step(self) -> None:
        """Moves the thresholds by the logits since the last step."""
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        own = [torch.cat(logits) for logits in zip(*seen, strict=True)]
        # ranks have different numbers of negatives, also over several batches
        sizes = rank_sizes(*map(len, own), device=own[0].device)
        anchor_logits, *hard = (gather_rows(values, size) for values, size in zip(own, sizes, strict=True))
        following = next_rank_thresholds(
            self.rank_thresholds(),
            *hard,
            mode=self.settings.rank_threshold,
            upper_bound=self.settings.rank_threshold_bound,
            anchor_logits=anchor_logits if self.settings.reference else None,
        )
        self.rank_thresholds.take(following)

    def remembered(self) -> dict[str, torch.Tensor]:
        """Negative type -> its rank threshold."""
        return self.rank_thresholds.by_type()

    def recall(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on with these rank thresholds; those of other types begin when they are met."""
        self.rank_thresholds.restore(state)

    def misfit(self, state: Mapping[str, Any]) -> str:
        """Anything but one number for each negative type."""
        wrong = sorted(name for name, value in state.items() if getattr(value, "shape", None) != ())
        return f"the rank thresholds of {', '.join(wrong[:3])} are no single numbers" if wrong else ""
