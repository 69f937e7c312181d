"""The mean score of images and captions as a torchmetrics metric, in the manner of its CLIPScore."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torchmetrics import Metric

from lightning_modules.scoring.inputs import ImageLike
from lightning_modules.scoring.loading import load_scorer
from lightning_modules.scoring.scorer import Scorer


class ImageTextScore(Metric):
    """Mean score over (image, caption) pairs, higher = better match; over ranks sums and counts are added.

    Only a sum and a count are kept. The scorer is no part of `state_dict`, stays where it is when the metric moves, and
    is shared by clones.

    Args:
        scorer: a scorer, or what `load_scorer` takes.
        batch_size: most pairs that are computed together.
        settings: keyword arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, scorer: Scorer | str | os.PathLike[str], *, batch_size: int = 64, **settings: Any):
        super().__init__(**settings)
        self.scorer = scorer if isinstance(scorer, Scorer) else load_scorer(scorer)
        self.batch_size = batch_size
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: ImageLike | Iterable[ImageLike], captions: str | Iterable[str]) -> None:
        """Adds pairs: one image and one caption, lists of both, or one of either with a list of the other.

        Raises:
            InputError: see `Scorer.score`; nothing is added.
        """
        scores = torch.as_tensor(self.scorer.score(images, captions, batch_size=self.batch_size))
        # float64 has no place on every device, but in the sum over a batch
        self.total += scores.sum(dtype=torch.float64).to(self.total)
        self.count += scores.numel()

    def compute(self) -> torch.Tensor:
        """The mean score, a scalar; nan where there was no pair."""
        return self.total / self.count
