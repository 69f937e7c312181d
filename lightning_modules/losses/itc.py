"""Image-text contrast (ITC) with hard negatives over the global batch: NegCLIP's loss.

When and Why Vision-Language Models Behave like Bags-Of-Words (Yuksekgonul et al., ICLR 2023), section 4: CLIP's
contrast (Radford et al., ICML 2021, figure 3), to whose texts a hard negative of every caption is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import POSITIVE, UNKNOWN, ImageTextBatch
from lightning_modules.losses.global_batch import ContrastLayout, gather_layout, gather_rows, local_layout, rank_sizes
from lightning_modules.losses.loss import Loss, Report


class ItcLoss(Loss):
    """`itc_loss` over the images and texts of all ranks, mean over this rank's anchors.

    The contrast is that of each batch: a step over several accumulated batches is the mean of their contrasts.
    """

    reads = "features"
    contrasts_rows = True
    anchors_only = True
    blind_unit = "pair"

    @classmethod
    def needs_negatives(cls, settings: Any) -> bool:
        """Other rows are negatives too."""
        return False

    def terms(self, batch: ImageTextBatch) -> int:
        """This rank's anchors: images with a positive in column 0."""
        return int((batch.caption_mask[:, 0] & (batch.labels[:, 0] == POSITIVE)).sum())

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The contrast, the part of anchors that no other text beats, and the scale.

        `inputs` are `image_features` [B, D], `text_features` [N, D] of this rank and the `scale` [1].
        """
        images, texts, scale = (inputs[name] for name in ("image_features", "text_features", "scale"))
        local = self.layout(batch)
        counts = len(images), len(texts), len(local.anchor_texts), len(local.hard_texts)
        image_sizes, text_sizes, anchors, hard_texts = rank_sizes(*counts, device=images.device)
        features = gather_rows(images, image_sizes), gather_rows(texts, text_sizes)
        layout = gather_layout(local, image_sizes, text_sizes)
        loss, right, report = self.contrast(*features, scale, layout, anchors=sum(anchors), hard_texts=sum(hard_texts))
        report["itc/i2t_accuracy"] = right.sum() / max(1, len(right))
        report["itc/logit_scale"] = scale.detach().squeeze()
        return loss, report

    def layout(self, batch: ImageTextBatch) -> ContrastLayout:
        """What images and texts of this rank's batch are to each other; all ranks call it together."""
        return local_layout(batch, blind_logit=self.blind_logit(batch))

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
        """The loss in the batch of all ranks.

        Args:
            image_features, text_features, scale, layout: see `itc_loss`.
            anchors, hard_texts: how many all ranks have.

        Returns:
            The mean over this rank's A anchors; [A] bool, whether no other text beats the anchor's own; and a report.
        """
        return *itc_loss(image_features, text_features, scale, layout), {}


def itc_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, scale: torch.Tensor, layout: ContrastLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of image-to-text and text-to-image cross entropy: the ITC with hard negatives of NegCLIP and CE-CLIP.

    An anchor's image is compared with all texts of the batch, hard negatives of every image included; its text with all
    images. Negatives appear only as candidates, never as queries. Unlike the published code, denominators leave out
    what is also true (other true texts of the image, other copies of the image) and texts that do not exist. The
    layout's blind logits join those of image-to-text.

    Args:
        image_features: [G, D] of all ranks, of length 1.
        text_features: [T, D] of all ranks, of length 1.
        scale: [1], what cosines are multiplied by.
        layout: of the batch.

    Returns:
        The mean over anchors (0 where there is none), and [A] bool: whether no other text beats the anchor's own.
    """
    anchor_images, anchor_texts = layout.anchor_images, layout.anchor_texts
    query_ids = layout.image_ids[anchor_images]
    true_texts = (layout.text_labels == POSITIVE).nonzero().flatten()
    rows, matches = equal_pairs(query_ids, layout.text_image_ids[true_texts])
    also_true = _without_own(rows, true_texts[matches], anchor_texts)
    same_image = _without_own(*equal_pairs(query_ids, layout.image_ids), anchor_images)
    # autocast would round cosines to half precision, and hard negatives to ties
    with torch.autocast(image_features.device.type, enabled=False):
        # the scale times the features first: they are smaller than the matrix of logits
        image_to_text = scale * image_features[anchor_images] @ text_features.T
        text_to_image = scale * text_features[anchor_texts] @ image_features.T
    # In place, pair by pair, and without autograd, since what is -inf gets no gradient anyway: a mask as large as the
    # matrix, and masked copies of it and of its gradient, would double what the loss takes.
    nothing = image_to_text.new_tensor(-torch.inf)
    image_to_text.detach().masked_fill_(layout.text_labels == UNKNOWN, nothing).index_put_(also_true, nothing)
    text_to_image.detach().index_put_(same_image, nothing)
    right = image_to_text.detach().argmax(1) == anchor_texts
    # a constant moves no gradient of its own, so in place again; behind `right`, which is of the scorer alone
    if layout.blind_logits is not None:
        image_to_text.detach().add_(layout.blind_logits)
    # summed, since the mean of no anchor would be nan
    losses = F.cross_entropy(image_to_text, anchor_texts, reduction="none") + F.cross_entropy(
        text_to_image, anchor_images, reduction="none"
    )
    return losses.sum() / (2 * max(1, len(losses))), right


def equal_pairs(wanted: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All (i, j) with wanted[i] == values[j], [P] each, in the order of i: by sorting, without an A x N comparison.

    >>> rows, columns = equal_pairs(torch.tensor([7, 9, 8]), torch.tensor([8, 7, 8]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2, 2], [1, 0, 2])
    """
    ordered, order = values.sort(stable=True)
    first = torch.searchsorted(ordered, wanted)
    counts = torch.searchsorted(ordered, wanted, right=True) - first
    rows = torch.arange(len(wanted), device=wanted.device).repeat_interleave(counts)
    # 0, 1, ... within each i: the place of the row minus where its i begins
    within = torch.arange(len(rows), device=wanted.device) - (counts.cumsum(0) - counts)[rows]
    return rows, order[first[rows] + within]


def _without_own(rows: torch.Tensor, columns: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    others = columns != own[rows]
    return rows[others], columns[others]
