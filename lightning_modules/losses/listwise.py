"""Listwise cross entropy: a true caption among itself and the false ones of its image.

The multiple-choice form of noise contrastive estimation, with the row's hard negatives for noise (InfoNCE, van den Oord
et al., 2018, equation 4; for cross encoders: Gao et al., Rethink Training of BERT Rerankers, ECIR 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import NEGATIVE, ImageTextBatch
from lightning_modules.losses.loss import Loss, Report, joined, labelled_cells, masked_mean


class ListwiseLoss(Loss):
    """`listwise_loss` on match logits; reports the part of positives that beat all negatives of their row.

    It leaves open where score 0.5 lies: only differences within a row are learnt.
    """

    reads = "match_logits"
    blind_unit = "pair"

    def terms(self, batch: ImageTextBatch) -> int:
        """The positives with a negative in their row."""
        return int(listwise_terms(batch.labels, labelled_cells(batch)).sum())

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The mean over positives with a negative; `inputs` are `match_logits` (B, C)."""
        match_logits, mask = inputs["match_logits"], labelled_cells(batch)
        terms = listwise_terms(batch.labels, mask)
        negatives = mask & (batch.labels == NEGATIVE)
        # -inf in rows without a negative, which `terms` leaves out
        best = match_logits.masked_fill(~negatives, -torch.inf).amax(-1, keepdim=True)
        accuracy = ((match_logits > best) & terms).sum() / terms.sum().clamp(min=1)
        # the report is of the scorer alone
        together = joined(match_logits, self.blind_logit(batch))
        return listwise_loss(together, batch.labels, mask), {"listwise/accuracy": accuracy}


def listwise_loss(match_logits: torch.Tensor, labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Cross entropy of picking a positive out of its row: a true caption against the image's false ones.

    For each positive, -log softmax of its logit among itself and the negatives of its row (the row's other positives
    are no rivals of it), mean over `listwise_terms`; a graph-connected 0 where there is none.

    Args:
        match_logits: (B, C), larger = better match.
        labels: (B, C), 1 true and 0 false; other values only where `cell_mask` is False.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    terms, negatives = listwise_terms(labels, cell_mask), cell_mask & (labels == 0)
    # a row of -inf alone would have a gradient of nan
    filler = torch.where(negatives.any(-1, keepdim=True), -torch.inf, 0.0)
    rivals = torch.where(negatives, match_logits, filler).logsumexp(-1, keepdim=True)
    # log(e^z + e^rivals) - z
    return masked_mean(F.softplus(rivals - torch.where(terms, match_logits, 0.0)), terms)


def listwise_terms(labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """(B, C) bool: the terms of `listwise_loss`, existing positives with an existing negative in their row."""
    return cell_mask & (labels == 1) & (cell_mask & (labels == 0)).any(-1, keepdim=True)
