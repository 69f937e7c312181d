"""Metrics on match logits."""

from __future__ import annotations

import torch
from torchmetrics import Metric

from datamodules.batch import NEGATIVE, POSITIVE, ImageTextBatch

VALIDATION_TYPES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")


class PairedAccuracy(Metric):
    """Fraction of (positive, negative) cells of a row in which the positive has the higher logit; ties are wrong.

    Counted per negative type; over ranks the counts are summed. `compute` leaves out types that were not seen and adds
    their unweighted `mean`.
    """

    full_state_update = False
    right: torch.Tensor
    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(len(VALIDATION_TYPES), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(VALIDATION_TYPES), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, batch: ImageTextBatch) -> None:
        """Compares every negative of a row with every positive of that row.

        Args:
            logits: (B, C) match logits.
            batch: their labels, types and mask.
        """
        labels, mask = batch.labels, batch.caption_mask
        for row, types in enumerate(batch.negative_type):
            positives = logits[row][mask[row] & (labels[row] == POSITIVE)]
            for column in (mask[row] & (labels[row] == NEGATIVE)).nonzero().flatten().tolist():
                index = VALIDATION_TYPES.index(types[column])
                self.right[index] += (positives > logits[row, column]).sum()
                self.total[index] += len(positives)

    def compute(self) -> dict[str, torch.Tensor]:
        """Accuracy in [0, 1] for each type seen, and `mean`; empty where nothing was seen."""
        seen = self.total > 0
        accuracy = self.right / self.total.clamp(min=1)
        result = {name: accuracy[i] for i, name in enumerate(VALIDATION_TYPES) if seen[i]}
        return {**result, "mean": accuracy[seen].mean()} if result else {}
