"""Binary cross entropy: every labelled cell by itself, true or false.

The loss of a matching head (ALBEF, Li et al., NeurIPS 2021, equation 4: over two classes, cross entropy is this with
the difference of both logits), of cross encoders for reranking, and of LLaVA-score's z(Yes) - z(No).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import ImageTextBatch
from lightning_modules.losses.loss import Loss, Report, cell_accuracy, joined, labelled_cells, masked_mean


class BinaryLoss(Loss):
    """`binary_loss` on match logits; reports the part of cells that are right at score 0.5."""

    reads = "match_logits"
    blind_unit = "text"

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The mean over labelled cells; `inputs` are `match_logits` (B, C)."""
        match_logits = inputs["match_logits"]
        together = joined(match_logits, self.blind_logit(batch))
        loss = binary_loss(together, batch.labels, labelled_cells(batch))
        # the report is of the scorer alone
        return loss, {"cells/accuracy": cell_accuracy(match_logits, batch)}


def binary_loss(match_logits: torch.Tensor, labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Cross entropy of sigmoid(match logit) against the label, mean over existing cells.

    Args:
        match_logits: (B, C), larger = better match.
        labels: (B, C), 1 true and 0 false; other values only where `cell_mask` is False.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    # of logits: a sigmoid that rounds to 0 or 1 would have no finite logarithm
    losses = F.binary_cross_entropy_with_logits(match_logits, labels.to(match_logits.dtype), reduction="none")
    return masked_mean(losses, cell_mask)
