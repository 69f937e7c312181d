"""CE-CLIP's losses beside ITC: intra-modal contrast (IMC) and cross-modal rank (CMR) with adaptive rank thresholds.

Zhang et al., Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives, CVPR 2024. The official code went through
several states; `reference` takes its newest one (ef87eb7), texts that it marks as invalid included. The default is
careful where that is not: what does not exist takes part in nothing, and IMC has the form of its idea.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from datamodules.batch import NEGATIVE, UNKNOWN
from lightning_modules.losses.cell_losses import masked_mean
from lightning_modules.losses.itc import ContrastLayout, gather_rows, itc_loss, rank_share, rank_sizes
from lightning_modules.metrics import VALIDATION_TYPES

THRESHOLD_MODES = ("mean", "max", "fixed")


@dataclass(frozen=True)
class CeClipSettings:
    """The weights of CE-CLIP's terms, and how its rank thresholds move; the defaults are the paper's recipe.

    Attributes:
        hard_negatives: whether hard negatives stand in the softmax of ITC.
        imc_weight, cmr_weight: of the two terms beside ITC.
        rank_threshold: how the thresholds follow the data, one of `THRESHOLD_MODES`.
        initial_rank_threshold: what they begin with, in logit units.
        rank_threshold_bound: what they never exceed.
        types: the negative types that have a threshold each, names as of Python's variables.
        reference: see `ce_clip_terms`, `imc_loss` and `next_rank_thresholds`; thresholds begin anew with each epoch.
    """

    hard_negatives: bool = True
    imc_weight: float = 0.3
    cmr_weight: float = 0.2
    rank_threshold: str = "mean"
    initial_rank_threshold: float = 0.0
    rank_threshold_bound: float = 10.0
    types: tuple[str, ...] = VALIDATION_TYPES
    reference: bool = False

    def __post_init__(self) -> None:
        if self.rank_threshold not in THRESHOLD_MODES:
            choices = ", ".join(THRESHOLD_MODES)
            raise ValueError(f"model.ce_clip.rank_threshold must be one of {choices}, got {self.rank_threshold!r}.")
        taken = [name for name in self.types if not name.isidentifier() or hasattr(nn.Module(), name)]
        if taken or not self.types or len(set(self.types)) < len(self.types):
            raise ValueError(f"CeClipSettings.types must be different names of negative types, got {self.types}.")
        for name in ("imc_weight", "cmr_weight", "initial_rank_threshold", "rank_threshold_bound"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"model.ce_clip.{name} must be >= 0, got {getattr(self, name)}.")
        if self.initial_rank_threshold > self.rank_threshold_bound:
            raise ValueError(
                "model.ce_clip.initial_rank_threshold must be at most rank_threshold_bound, got "
                f"{self.initial_rank_threshold} and {self.rank_threshold_bound}."
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
        layout: of the batch; a hard negative exists where its label is 0.
        rank_thresholds: [K], of each negative type, in logit units.
        hard_negatives: whether hard negatives stand in the softmax of ITC.
        with_imc: whether to compute IMC, which takes as many similarities again; 0 stands for it otherwise.
        reference: as the official code's newest state: hard negatives that do not exist stand in both softmaxes, and
            count in CMR's divisor. Batches from tables have none such; the official data marks them with "###".
    """
    exists = layout.text_labels[layout.hard_texts] == NEGATIVE
    if reference:
        layout = replace(layout, text_labels=layout.text_labels.masked_fill(layout.text_labels == UNKNOWN, NEGATIVE))
    false = layout.text_labels == NEGATIVE
    contrasted = (
        layout if hard_negatives else replace(layout, text_labels=layout.text_labels.masked_fill(false, UNKNOWN))
    )
    itc, right = itc_loss(image_features, text_features, scale, contrasted)

    own_images, own_texts = image_features[layout.anchor_images], text_features[layout.anchor_texts]
    anchor_logits = pair_logits(own_images, own_texts, scale)
    hard_images = own_images[layout.hard_anchors]
    negative_logits = pair_logits(hard_images, text_features[layout.hard_texts], scale)
    positive_logits = anchor_logits[layout.hard_anchors]
    losses = cmr_losses(positive_logits, negative_logits, rank_thresholds[layout.hard_types])
    return CeClipTerms(
        itc=itc,
        imc=imc_loss(own_texts, text_features[false & with_imc], anchor_logits, scale, reference=reference),
        cmr=torch.where(exists, losses, 0.0).sum() / max(1, len(losses)) if reference else masked_mean(losses, exists),
        right=right,
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
    *,
    reference: bool = False,
) -> torch.Tensor:
    """Intra-modal contrast, mean over anchors: no hard negative's text is as near a caption as the caption's image is.

    -log(e^d / (e^d + sum over all hard negatives n of the batch of e^(scale x cosine(caption, n)))), d the logit of the
    pair: CE-CLIP's equation 3 with the positive in its denominator, the official code's state of January 2024.

    Args:
        anchor_texts: [A, D] of length 1.
        negative_texts: [M, D] of all ranks, own ones and those of other captions.
        anchor_logits: [A], d.
        scale: [1].
        reference: the newest state instead, in which the first hard negative of the batch stands for the positive:
            it draws all captions to that one. For comparison only.
    """
    if not len(negative_texts) or not len(anchor_texts):
        return 0 * anchor_logits.sum()
    with torch.autocast(anchor_texts.device.type, enabled=False):
        similarities = scale * anchor_texts @ negative_texts.T
    if reference:
        return (similarities.logsumexp(1) - similarities[:, 0]).mean()
    return F.softplus(similarities.logsumexp(1) - anchor_logits).mean()


def cmr_losses(
    positive_logits: torch.Tensor, negative_logits: torch.Tensor, rank_thresholds: torch.Tensor
) -> torch.Tensor:
    """Cross-modal rank: [N] by how much each hard negative comes closer to its anchor than its rank threshold [N]."""
    return F.relu(rank_thresholds + negative_logits - positive_logits)


def next_rank_thresholds(
    rank_thresholds: torch.Tensor,
    positive_logits: torch.Tensor,
    negative_logits: torch.Tensor,
    types: torch.Tensor,
    *,
    mode: str = "mean",
    upper_bound: float = 10.0,
    anchor_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rank thresholds of the next step: how far apart positives and hard negatives of a type were in this one.

    Args:
        rank_thresholds: [K] of this step; a type without a hard negative keeps its own.
        positive_logits, negative_logits: [n] of all ranks' existing hard negatives: their anchors', and their own.
        types: [n] long, in [0, K).
        mode: `mean` difference; `max`, a fifth of the largest one; `fixed` leaves all as they are.
        upper_bound: thresholds are kept in [0, upper_bound].
        anchor_logits: logits of all anchors; where given, their mean stands for the positives of every type, as in the
            official code, also of anchors that have no hard negative of it.

    Returns:
        [K], without gradient.
    """
    if mode == "fixed":
        return rank_thresholds
    following = rank_thresholds.clone()
    for index in types.unique().tolist():
        positives, negatives = positive_logits[types == index], negative_logits[types == index]
        if mode == "max":
            gap = (positives - negatives).amax() / 5
        else:
            gap = (positives if anchor_logits is None else anchor_logits).mean() - negatives.mean()
        following[index] = gap.clamp(0, upper_bound)
    return following


class RankThresholds(nn.Module):
    """The rank threshold of each negative type, in logit units: a buffer of its type's name, so that it is saved.

    Args:
        types: names of negative types.
        initial: value that all begin with.
    """

    def __init__(self, types: Sequence[str], initial: float = 0.0):
        super().__init__()
        self.types, self.initial = tuple(types), initial
        self.of = nn.Module()  # with no names of its own but a module's
        for name in self.types:
            self.of.register_buffer(name, torch.tensor(float(initial)))

    def forward(self) -> torch.Tensor:
        """[K] in the order of `types`."""
        return torch.stack([self.of.get_buffer(name) for name in self.types])

    def take(self, values: torch.Tensor) -> None:
        """Replaces all by [K] new values."""
        for name, value in zip(self.types, values, strict=True):
            self.of.get_buffer(name).copy_(value)

    def reset(self) -> None:
        """Back to the initial value."""
        self.take(torch.full((len(self.types),), self.initial))


class CeClipLoss(nn.Module):
    """CE-CLIP's loss with its rank thresholds, which `step` moves once for each optimiser step.

    Thresholds come from the logits of all ranks and all accumulated batches: they are equal on all ranks, and a step
    uses those that the step before has left.
    """

    def __init__(self, settings: CeClipSettings):
        super().__init__()
        self.settings = settings
        self.rank_thresholds = RankThresholds(settings.types, settings.initial_rank_threshold)
        self._seen: list[tuple[torch.Tensor, ...]] = []

    def forward(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        scale: torch.Tensor,
        layout: ContrastLayout,
        *,
        anchors: int,
        hard_texts: int,
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum of the terms, as a mean over this rank's anchors.

        Args:
            image_features, text_features, scale, layout: see `ce_clip_terms`.
            anchors, hard_texts: how many all ranks have.

        Returns:
            The loss; [A] bool, whether no other text beats the anchor's own; and a report of terms and thresholds.
        """
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
        if torch.is_grad_enabled() and self.training:
            self._seen.append((terms.anchor_logits, terms.positive_logits, terms.negative_logits, terms.types))
        own = len(layout.anchor_texts)
        cmr = rank_share(terms.cmr * len(layout.hard_texts), hard_texts, own_terms=own, all_terms=anchors)
        loss = terms.itc + settings.imc_weight * terms.imc + settings.cmr_weight * cmr
        named = zip(settings.types, thresholds, strict=True)
        report = {
            "itc/loss": terms.itc,
            "imc/loss": terms.imc,
            "cmr/loss": cmr,
            **{f"rank_threshold/{name}": value for name, value in named},
        }
        return loss, terms.right, report

    @torch.no_grad()
    def step(self) -> None:
        """Moves the thresholds by the logits since the last call; to be called on all ranks."""
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        own = [torch.cat(logits) for logits in zip(*seen, strict=True)]
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
