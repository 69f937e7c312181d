"""What all scorers share: the training step, validation, optimiser, and loss normalisation over ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from datamodules.batch import NEGATIVE, POSITIVE, Collator, ImageTextBatch
from lightning_modules.metrics import PairedAccuracy
from lightning_modules.optim import adamw_warmup_cosine, parameter_groups


class AlignmentModule(L.LightningModule):
    """An image-text matching scorer that Lightning can train.

    A backbone implements `collator`, `logits`, `score` and `loss`, and owns one `network`, whose `forward` is all that
    it calls. Losses are means over the terms of a batch (`loss_terms`); here they are weighted back by their number,
    and gradients divided by the terms of all ranks and accumulated batches, so that a step does not depend on how its
    terms were spread.

    Args:
        lr: peak learning rate.
        projector_lr: peak learning rate of the projector; `lr` where None.
        weight_decay: of parameters with two or more axes.
        betas: AdamW's averaging coefficients.
        warmup_ratio: part of all steps spent warming up.
        seed: what dropout draws in a batch depends on it, the epoch, the batch's number and the rank, and on nothing
            else.
    """

    backbone: str
    network: nn.Module

    def __init__(
        self,
        *,
        lr: float,
        projector_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_ratio: float = 0.03,
        seed: int = 0,
    ):
        super().__init__()
        self.lr, self.projector_lr, self.weight_decay = lr, projector_lr, weight_decay
        self.betas, self.warmup_ratio, self.seed = betas, warmup_ratio, seed
        self.validation_accuracy = PairedAccuracy()
        self.captions_cut = 0
        self._terms_in_step = 0.0

    @abstractmethod
    def collator(self) -> Collator:
        """A picklable function from rows to a batch with this backbone's `inputs`; runs in loader workers."""

    @abstractmethod
    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 match logits, larger = better match; cells that do not exist hold arbitrary numbers."""

    @abstractmethod
    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The backbone's published score of a match logit, higher = better match; same shape."""

    @abstractmethod
    def loss(self, batch: ImageTextBatch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The mean over this rank's `loss_terms`, and a report that is only logged."""

    def loss_terms(self, batch: ImageTextBatch) -> int:
        """How many terms of this rank `loss` is the mean of; its existing labelled cells where not overridden."""
        return int(labelled_cells(batch).sum())

    def count_cut(self, batch: ImageTextBatch) -> None:
        """Adds the batch's cut captions, `inputs["cut"]` [B], to `captions_cut`; warns at the first one."""
        cut = int(batch.inputs["cut"].sum()) if "cut" in batch.inputs else 0
        if cut and not self.captions_cut:
            rank_zero_warn("Captions longer than the text limit are cut (model.long_captions=truncate); counting them.")
        self.captions_cut += cut

    def on_fit_start(self) -> None:
        """Train mode for all: Lightning leaves modules from `from_pretrained` in eval mode."""
        self.network.train()

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> torch.Tensor:
        """The summed loss of the batch's terms; `on_before_optimizer_step` divides by how many there were."""
        loss, report = self.loss(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss.item()} at step {self.global_step}, images {batch.image_ids}.")
        self.count_cut(batch)
        terms = self.loss_terms(batch)
        self._terms_in_step += terms
        metrics = {"train/loss/value": loss, **{f"train/{name}": value for name, value in report.items()}}
        metrics["train/optim/lr"] = self.trainer.optimizers[0].param_groups[-1]["lr"]
        self.log_dict(metrics, batch_size=max(1, terms), prog_bar=False, sync_dist=True)
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=max(1, terms))
        return loss * terms * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns gradients of sums into gradients of the mean over the terms of all ranks and accumulated batches."""
        terms = self.trainer.strategy.reduce(torch.tensor(self._terms_in_step, device=self.device), reduce_op="mean")
        self._terms_in_step = 0.0
        # a plain number, since a sharded gradient (DTensor) and a tensor do not mix
        divisor = max(1.0, terms.item())
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(divisor)

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects paired accuracy per negative type."""
        self.count_cut(batch)
        self.validation_accuracy.update(self.logits(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/<negative_type>/accuracy` and their unweighted mean, `val/mean/accuracy`."""
        for name, value in self.validation_accuracy.compute().items():
            self.log(f"val/{name}/accuracy", value, prog_bar=name == "mean", rank_zero_only=True)
        self.validation_accuracy.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, warm-up and cosine over all of the trainer's steps."""
        groups = parameter_groups(
            self.named_parameters(), lr=self.lr, weight_decay=self.weight_decay, projector_lr=self.projector_lr
        )
        optimizer, schedule = adamw_warmup_cosine(
            groups,
            betas=self.betas,
            total_steps=int(self.trainer.estimated_stepping_batches),
            warmup_ratio=self.warmup_ratio,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def labelled_cells(batch: ImageTextBatch) -> torch.Tensor:
    """(B, C) bool: the cells that exist and are known to be true or false."""
    return batch.caption_mask & ((batch.labels == POSITIVE) | (batch.labels == NEGATIVE))
