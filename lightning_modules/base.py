"""What all scorers share: the training step, validation, optimiser, and loss normalisation over ranks."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from PIL import Image
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from datamodules.batch import Collator, ImageTextBatch, collate_rows
from lightning_modules.adapters import Parts
from lightning_modules.checkpoint import saved_names
from lightning_modules.losses.table import build_loss
from lightning_modules.metrics import PairedAccuracy
from lightning_modules.optim import adamw_warmup_cosine, parameter_groups
from lightning_modules.resume import LOSS_STATE, check_fit, take_loss_state
from lightning_modules.sharding import shard_network

LONG_CAPTIONS = ("truncate", "error")


class AlignmentModule(L.LightningModule):
    """An image-text matching scorer that Lightning can train.

    A backbone implements `logits` and `score`, and `loss_inputs` for losses that read more than match logits. Its
    `encoder` makes a batch's `inputs`; its `network` is what it calls, by `forward` alone; its `parts` name the modules
    of its `projector` and of what else can get adapters.

    Its `objective` is the loss, a module too: parameters of its own train, are saved and resume like the network's.
    Losses are means over the terms of a batch (`Loss.terms`); here they are weighted back by their number, and
    gradients divided by the terms of all ranks and accumulated batches, so that a step does not depend on how its
    terms were spread.

    Args:
        loss: name of the loss, one of those that read what the backbone `offers`.
        loss_settings: of the loss, see `Loss.Settings`; its defaults where None.
        lr: peak learning rate.
        projector_lr: peak learning rate of the projector; `lr` where None.
        weight_decay: of parameters with two or more axes.
        betas, eps: AdamW's averaging coefficients, and its term against division by zero.
        warmup_ratio: part of all steps spent warming up.
        warmup_steps: steps spent warming up; overrules the ratio where not None.
        seed: what dropout draws in a batch depends on it, the epoch, the batch's number and the rank, and on nothing
            else.

    Raises:
        ValueError: an unknown loss, one that does not fit the backbone, or settings out of range.

    Attributes:
        trainable_only: checkpoints leave out what does not train, since a published checkpoint brings it along.
        offers: what losses can be computed from, see `Loss.reads`.
    """

    backbone: str
    offers: ClassVar[tuple[str, ...]] = ("match_logits",)
    parts: ClassVar[Parts] = {}
    encoder: Any
    network: nn.Module
    trainable_only = False

    def __init__(
        self,
        *,
        loss: str,
        loss_settings: Any | None = None,
        lr: float,
        projector_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        warmup_ratio: float = 0.03,
        warmup_steps: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.loss_name = loss
        self.objective = build_loss(loss, loss_settings, offers=self.offers)
        self.lr, self.projector_lr, self.weight_decay = lr, projector_lr, weight_decay
        self.betas, self.eps, self.seed = betas, eps, seed
        self.warmup_ratio, self.warmup_steps = warmup_ratio, warmup_steps
        self.validation_accuracy = PairedAccuracy()
        self.captions_cut = 0
        self._terms_in_step = 0.0
        self._rates: list[str] = []

    def collator(self) -> Collator:
        """A picklable function from rows to a batch with this backbone's `inputs`; runs in loader workers."""
        # a function and the encoder alone: a bound method would send the whole model to every worker
        return partial(collate_rows, encoder=self.encoder)

    @property
    def calibrated(self) -> bool:
        """Whether a match logit is a log-odds, so that it has a meaning of its own: 0 is one half."""
        # a loss on pairs leaves open what it adds to all logits of an image
        return self.objective.blind_unit != "pair"

    @abstractmethod
    def logits(self, batch: ImageTextBatch) -> torch.Tensor:
        """(B, C) float32 match logits, larger = better match; cells that do not exist hold arbitrary numbers."""

    @abstractmethod
    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """The backbone's published score of a match logit, higher = better match; same shape."""

    def matrix_logits(
        self, images: Iterable[Sequence[Image.Image]], captions: Iterable[Sequence[str]]
    ) -> torch.Tensor | None:
        """(M, N) float32 match logits of each of M images with each of N captions, which come in batches.

        For backbones that read images and captions apart, so that each is read once; None where they do not, and then
        no batch is taken.
        """
        return None

    def loss(self, batch: ImageTextBatch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The mean over this rank's `loss_terms`, and a report that is only logged."""
        loss, report = self.objective(batch, **self.loss_inputs(batch))
        return loss, report

    def loss_inputs(self, batch: ImageTextBatch) -> Mapping[str, Any]:
        """What the loss is computed from, by the name of what it `reads`; match logits where not overridden."""
        return {"match_logits": self.logits(batch)}

    def loss_terms(self, batch: ImageTextBatch) -> int:
        """How many terms of this rank `loss` is the mean of."""
        return self.objective.terms(batch)

    def count_cut(self, batch: ImageTextBatch) -> None:
        """Adds the batch's captions that were longer than the text limit, `inputs["cut"]` [B], to `captions_cut`."""
        if "cut" in batch.inputs:
            self.captions_cut += int(batch.inputs["cut"].sum())

    def configure_model(self) -> None:
        """Shards the network, and a loss with parameters, where the strategy is `fsdp`; may be called again."""
        # only Lightning's ModelParallelStrategy, which `fsdp` stands for, makes a mesh
        if self.device_mesh is None:
            return
        mesh, mixed = self.device_mesh["data_parallel"], self.trainer.precision == "bf16-mixed"
        shard_network(self.network, mesh, compute_dtype=torch.bfloat16 if mixed else None)
        if any(True for _ in self.objective.parameters()):
            # not in half precision: a bias or a scale would round most of its steps away
            shard_network(self.objective, mesh)

    def on_fit_start(self) -> None:
        """Train mode for all: Lightning leaves modules from `from_pretrained` in eval mode."""
        self.train()

    def on_train_batch_start(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Seeds dropout from where the batch stands, so that no generator's state is part of going on."""
        if batch_idx == 0:  # which comes once in an epoch, however often the epoch is resumed
            self.objective.on_epoch_start()
        key = f"{self.seed} {self.trainer.current_epoch} {batch_idx} {self.trainer.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big"))

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> torch.Tensor:
        """The summed loss of the batch's terms; `on_before_optimizer_step` divides by how many there were."""
        # configurations are refused before; ignored, the training would not be the one that was asked for
        if batch.blind_logit is not None and self.objective.blind_unit is None:
            raise ValueError(f"data.debias must be none where model.loss is {self.loss_name}, which takes no offset.")
        loss, report = self.loss(batch)
        if not torch.isfinite(loss):
            # before the backward pass: one step by nan would reach every weight
            raise FloatingPointError(f"The loss is {loss.item()} at step {self.global_step}, images {batch.image_ids}.")
        self.count_cut(batch)
        terms = self.loss_terms(batch)
        self._terms_in_step += terms
        means = self._means_over_ranks({"loss/value": loss, **report}, terms)
        metrics = {f"train/{name}": value for name, value in means.items()}
        groups = self.trainer.optimizers[0].param_groups
        # groups of one name have one rate
        metrics |= {f"train/optim/{name}": group["lr"] for name, group in zip(self._rates, groups, strict=False)}
        self.log_dict(metrics, batch_size=max(1, terms), prog_bar=False)
        self.log("loss", means["loss/value"], prog_bar=True, logger=False, batch_size=max(1, terms))
        # Lightning divides by the number of accumulated batches, which weights them alike; terms are the weights here
        return loss * terms * self.trainer.accumulate_grad_batches

    def _means_over_ranks(self, values: Mapping[str, torch.Tensor], terms: int) -> dict[str, torch.Tensor]:
        """Means over the terms of all ranks, of means over this rank's; same names."""
        # means over ranks of the sums and of the count: the number of ranks cancels out
        sums = torch.stack([value.detach().float() * terms for value in values.values()])
        sums = torch.cat([sums, sums.new_tensor([terms])])
        *totals, count = self.trainer.strategy.reduce(sums, reduce_op="mean")
        return {name: total / count.clamp(min=1e-9) for name, total in zip(values, totals, strict=True)}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns gradients of sums into gradients of the mean over the terms of all ranks and accumulated batches."""
        # a mean, as DDP and FSDP have made of the gradients. Lightning clips after this hook: the norm is that of the
        # true mean.
        terms = self.trainer.strategy.reduce(torch.tensor(self._terms_in_step, device=self.device), reduce_op="mean")
        self._terms_in_step = 0.0
        # a plain number, since a sharded gradient (DTensor) and a tensor do not mix
        divisor = terms.item() or 1.0
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(divisor)
        # before it is clipped; of sharded gradients each rank has a part
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.log("train/optim/gradient_norm", norm.float())

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Steps, and lets the loss move its state or keep its bounds."""
        # a closure in the arguments runs `training_step` and the backward pass: only after it the step is done
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: checkpoints are written by then
        with torch.no_grad():
            self.objective.on_optimizer_step()

    def on_train_end(self) -> None:
        """Sums the counts of cut captions over the ranks."""
        cut = torch.tensor(float(self.captions_cut), device=self.device)
        self.captions_cut = int(self.trainer.strategy.reduce(cut, reduce_op="sum"))

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> None:
        """Collects paired accuracy per negative type."""
        self.count_cut(batch)
        self.validation_accuracy.update(self.logits(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/<negative_type>/accuracy` and their unweighted mean, `val/mean/accuracy`."""
        # `compute` has added up the ranks, so rank 0 logs what it has
        for name, value in self.validation_accuracy.compute().items():
            self.log(f"val/{name}/accuracy", value, prog_bar=name == "mean", rank_zero_only=True)
        self.validation_accuracy.reset()

    def checkpoint_names(self) -> set[str]:
        """Names of the tensors in Lightning's checkpoints: weights of the network, and all that the loss has."""
        names = set(self.state_dict())  # with the loss's buffers, which a weights file leaves out: a training goes on
        if not self.trainable_only:
            return names
        beside = {name for name in names if not name.startswith("network.")}
        return beside | {f"network.{name}" for name in saved_names(self.network, trainable_only=True)}

    @property  # type: ignore[misc]  # the property of Lightning can be set
    def strict_loading(self) -> bool:
        """Whether Lightning insists on all tensors; `on_load_checkpoint` insists on those that were saved."""
        return not self.trainable_only

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what does not train, says whose weights these are, and adds what the loss remembers.

        Sharded, all tensors are on rank 0.
        """
        names, state = self.checkpoint_names(), checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: tensor for name, tensor in state.items() if name in names}
        checkpoint["backbone"] = self.backbone
        if remembered := self.objective.remembered():
            checkpoint[LOSS_STATE] = remembered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that exactly the tensors that were saved are there, and hands the loss what it remembered.

        Sharded, Lightning has loaded the tensors already.

        Raises:
            ValueError: names what does not fit.
        """
        if "state_dict" in checkpoint:
            check_fit(checkpoint, self)
        self.objective.recall(take_loss_state(checkpoint))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, warm-up and cosine over all of the trainer's steps."""
        groups = parameter_groups(
            self.named_parameters(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            projector_lr=self.projector_lr,
            projector=self.parts.get("projector", ()),
        )
        # kept here and not in the groups: those of an older checkpoint, which have no names, replace them
        self._rates = [str(group.pop("rate")) for group in groups]
        optimizer, schedule = adamw_warmup_cosine(
            groups,
            betas=self.betas,
            eps=self.eps,
            total_steps=int(self.trainer.estimated_stepping_batches),
            warmup_ratio=self.warmup_ratio,
            warmup_steps=self.warmup_steps,
        )
        # "step", since Lightning moves a schedule once an epoch where nothing is said
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError where `value` of `model.<key>` is none of `choices`."""
    if value not in choices:
        raise ValueError(f"model.{key} must be one of {', '.join(choices)}, got {value!r}.")


def recompute_activations(model: PreTrainedModel) -> None:
    """Recomputes a Transformers model's activations in the backward pass: less memory, more time."""
    # The old name warns in Transformers 5.23, where the new one exists; 5.10 has the old one only.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    # the reentrant kind gives no gradients where a block's input needs none, as behind frozen embeddings
    # (torch.utils.checkpoint)
    enable({"use_reentrant": False})
