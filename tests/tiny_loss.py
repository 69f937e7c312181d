"""A loss with a parameter, a buffer and a setting of its own, which only the tests have in the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn

from datamodules.batch import ImageTextBatch
from lightning_modules.losses.binary import BinaryLoss
from lightning_modules.losses.loss import Report
from lightning_modules.losses.table import LOSSES
from tests.tiny_clip import tiny_clip_module

TABLE = {"biased": f"{__name__}.BiasedLoss"}


@dataclass
class BiasedSettings:
    """Settings of `BiasedLoss`."""

    bias: float = field(default=-1.0, metadata={"max": 0.0})
    """What the bias begins with."""
    bound: float = field(default=100.0, metadata={"above": 0.0})
    """Largest absolute value of the bias."""


class BiasedLoss(BinaryLoss):
    """Binary cross entropy of the match logit + a bias that is learnt, as SigLIP's."""

    Settings = BiasedSettings

    def __init__(self, settings: BiasedSettings | None = None):
        super().__init__(settings)
        self.bias = nn.Parameter(torch.tensor([self.settings.bias]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.epochs = 0

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        loss, report = super().forward(batch, match_logits=inputs["match_logits"] + self.bias)
        return loss, {**report, "bias": self.bias.detach().clone().squeeze()}

    def on_epoch_start(self) -> None:
        self.epochs += 1

    def on_optimizer_step(self) -> None:
        self.steps += 1
        self.bias.clamp_(-self.settings.bound, self.settings.bound)


def in_table() -> Any:
    """Puts the loss into the table, as a context or a decorator."""
    return mock.patch.dict(LOSSES, TABLE)


@in_table()
def biased_clip_module(seed: int = 0, **settings: Any) -> Any:
    """A tiny CLIP that is trained by it."""
    return tiny_clip_module(seed, loss="biased", **settings)
