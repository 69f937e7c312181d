"""Metrics on match logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torchmetrics import Metric

from datamodules.batch import NEGATIVE, POSITIVE, ImageTextBatch
from lightning_modules.losses.global_batch import gather_names


class PairedAccuracy(Metric):
    """Fraction of (positive, negative) cells of a row in which the positive has the higher logit; ties are wrong.

    Counted for each negative type that the batches name; over ranks, which may have met different ones, the counts are
    summed. `compute` adds the unweighted `mean` of the types. This is the accuracy of SugarCrepe (Hsieh et al.,
    NeurIPS 2023), and the pairwise accuracy acc_r of VALSE (Parcalabescu et al., ACL 2022).

    Attributes:
        types: the negative types met so far, sorted; `right` and `total` [K] are in their order.
    """

    # torchmetrics would otherwise run `update` twice for each call of the metric
    full_state_update = False
    right: torch.Tensor
    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.types: list[str] = []
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, batch: ImageTextBatch) -> None:
        """Compares every negative of a row with every positive of that row.

        Args:
            logits: (B, C) match logits.
            batch: their labels, types and mask.
        """
        labels, mask = batch.labels, batch.caption_mask
        cells = (mask & (labels == NEGATIVE)).nonzero().tolist()
        self._meet(batch.negative_type[row][column] for row, column in cells)
        for row, column in cells:
            # compared strictly, as SugarCrepe and VALSE do: a scorer that answers all alike is always wrong
            positives = logits[row][mask[row] & (labels[row] == POSITIVE)]
            index = self.types.index(batch.negative_type[row][column])
            self.right[index] += (positives > logits[row, column]).sum()
            self.total[index] += len(positives)

    def compute(self) -> dict[str, torch.Tensor]:
        """Accuracy in [0, 1] for each type that had a positive beside it, and `mean`; empty where nothing was seen."""
        seen = self.total > 0
        accuracy = self.right / self.total.clamp(min=1)
        # a type whose rows never had a positive is left out: 0 of 0 is no accuracy
        result = {name: accuracy[index] for index, name in enumerate(self.types) if seen[index]}
        return {**result, "mean": accuracy[seen].mean()} if result else {}

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Sums over ranks, once every rank counts the types of all: counts are added up place by place."""
        if should_sync:
            # before torchmetrics copies the counts, which it puts back after `compute`: the copy fits `types` then
            self._meet(gather_names(self.types, device=self.total.device))
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def reset(self) -> None:
        """Forgets the counts, and which types there were."""
        super().reset()
        self.types = []

    def _meet(self, types: Iterable[str]) -> None:
        """Makes room for types that are new."""
        # sorted: ranks that met the types in another order add up the same places
        known = sorted({*self.types, *types})
        if known == self.types:
            return
        places = torch.tensor([known.index(name) for name in self.types], dtype=torch.long, device=self.total.device)
        for state in ("right", "total"):
            counts = getattr(self, state)
            setattr(self, state, counts.new_zeros(len(known)).index_copy(0, places, counts))
        self.types = known
