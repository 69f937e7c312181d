"""What every loss is: a module that turns what a backbone has computed of a batch into a mean over terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from datamodules.batch import NEGATIVE, POSITIVE, ImageTextBatch

Report = dict[str, torch.Tensor]
"""Name -> value that is logged under `train/` and is no part of what trains; every rank has the same names."""


@dataclass
class NoSettings:
    """Settings of a loss that has none."""


class Loss(nn.Module):
    """Base of all losses. One that has parameters of its own trains, saves and resumes them as those of a network.

    Parameters have one axis at least (FSDP2 shards no scalars) and are in the graph of every batch, one without terms
    too (DDP waits for their gradients). They are gathered in `forward` alone, and a report holds copies of them.

    Args:
        settings: an instance of `Settings`; its defaults where None.

    Attributes:
        reads: what it is computed from; a backbone whose `offers` hold this name passes it to `forward`:
            "match_logits": `match_logits` (B, C) float32; every backbone has them.
            "itm_logits": `itm_logits` (B, C) float32, match - no-match logit of a matching head.
            "answer_logits": a language model's `answer_logits` (B, C, A, V) behind each of A places of the answer, the
            `answer_ids` (B, C, A) that should follow, the ids `yes_no_ids` of both answers, and `match_logits` (B, C).
            "features": a dual encoder's `image_features` [B, D] and, of the N captions of `flat_captions`,
            `text_features` [N, D], of this rank and of length 1, and the `scale` [1] of their cosines.
            "biased_features": those, and the `bias` [1] that is added to scaled cosines.
            "itc_itm": see `losses.itc_itm.ItcItmLoss`, from which such a loss derives.
        Settings: dataclass of what can be set, in a section of `model` that is called as the loss. A docstring under
            each field; `field(metadata=...)` holds its rule (`min`, `max`, `above`, `choices`); `faults(place)`, where
            there is one, yields what is wrong between fields.
        contrasts_rows: rows of the global batch are negatives of each other. Then a row must be what it says (no noise
            for its image), and half precision would round what similarities are multiplied by.
        anchors_only: of the true captions of a row, only the first one is a query.
        blind_unit: which blind logits join the match logits in a training with `data.debias`: "text", each text's by
            itself; "pair", where the loss compares, those of texts against the first one of their row. None: it takes
            none.
    """

    reads: ClassVar[str]
    Settings: ClassVar[type] = NoSettings
    contrasts_rows: ClassVar[bool] = False
    anchors_only: ClassVar[bool] = False
    blind_unit: ClassVar[str | None] = None

    def __init__(self, settings: Any | None = None):
        super().__init__()
        self.settings: Any = self.Settings() if settings is None else settings

    @classmethod
    def needs_negatives(cls, settings: Any) -> bool:
        """Whether rows without a negative would teach nothing, with these settings (an instance of `Settings`)."""
        return True

    @abstractmethod
    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The mean over this rank's `terms`, a graph-connected 0 where there is none, and what is logged.

        Args:
            batch: of this rank.
            inputs: what `reads` says.
        """

    def terms(self, batch: ImageTextBatch) -> int:
        """How many terms of this rank `forward` is the mean of; the labelled cells where not overridden."""
        return int(labelled_cells(batch).sum())

    def blind_logit(self, batch: ImageTextBatch) -> torch.Tensor | None:
        """(B, C) what joins the match logits, 0 in cells that do not exist; None outside training and without any."""
        # outside training a scorer answers alone: the product of experts only shapes what it learns
        if batch.blind_logit is None or not self.training:
            return None
        return torch.where(batch.caption_mask, batch.blind_logit, 0.0)

    def on_epoch_start(self) -> None:
        """Called before the first batch of every epoch."""

    def on_optimizer_step(self) -> None:
        """Called without gradients after every optimiser step, on all ranks: the place to move state or keep bounds."""

    def remembered(self) -> dict[str, torch.Tensor]:
        """State whose names come from the data, for a checkpoint to hold; what has a fixed name is a buffer instead."""
        return {}

    def recall(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `remembered` gave, whatever names it has; called on all ranks where training goes on."""

    def misfit(self, state: Mapping[str, Any]) -> str:
        """Why `recall` cannot take a checkpoint's state; empty where it can."""
        return f"unexpected state of the loss, {', '.join(sorted(state)[:3])}" if state else ""


def labelled_cells(batch: ImageTextBatch) -> torch.Tensor:
    """(B, C) bool: the cells that exist and are known to be true or false."""
    return batch.caption_mask & ((batch.labels == POSITIVE) | (batch.labels == NEGATIVE))


def joined(logits: torch.Tensor, blind_logits: torch.Tensor | None) -> torch.Tensor:
    """The logits with those of the text alone, which have as many columns; as they are where there are none.

    A product of experts adds log probabilities (Clark et al., EMNLP 2019, section 3).
    """
    return logits if blind_logits is None else logits + blind_logits


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` over the cells where `mask` is True; a graph-connected 0 where there is none."""
    # where, not a product: cells that do not exist may hold nan
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def cell_accuracy(match_logits: torch.Tensor, batch: ImageTextBatch) -> torch.Tensor:
    """Part of the labelled cells whose match logit is on the right side of 0, which is score 0.5; 0 without any."""
    # a logit of exactly 0 counts as "no match", as in VALSE: p_f counts scores up to 0.5
    mask = labelled_cells(batch)
    right = ((match_logits > 0) == (batch.labels == POSITIVE)) & mask
    return right.sum() / mask.sum().clamp(min=1)
