"""Keeps the weights of a training's best validations; `kept_weights` reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from datamodules.batch import InputError
from lightning_modules.checkpoint import full_state_dict, replaced, write_weights
from lightning_modules.kept_weights import BEST_FILE, KeptRecord, KeptWeights, read_kept, weights_file

if TYPE_CHECKING:
    from lightning_modules.base import AlignmentModule


class BestWeights(L.Callback):
    """Saves the weights of a validation that is among the best so far, and removes those that no longer are.

    Of equal validations the earlier counts as better. What is kept is on the disk alone, so that a training that goes
    on from a checkpoint makes again what it kept after it.

    Args:
        folder: of the checkpoints.
        metric: that decides, higher = better.
        keep: how many, 1 or more.
        due: whether the validation that has just ended gives the metric; all do where None.

    Raises:
        ValueError: in a hook, where no such metric is logged, or its record is damaged.
    """

    def __init__(self, folder: Path, metric: str, keep: int, due: Callable[[L.Trainer], bool] | None = None):
        self.folder, self.metric, self.keep, self.due = folder, metric, keep, due

    def on_validation_end(self, trainer: L.Trainer, pl_module: AlignmentModule) -> None:  # type: ignore[override]
        """Decides on rank 0, which alone has the metric, and saves on all, which may have to gather the weights."""
        # where it is not due Lightning still has the metric, of an earlier validation
        if trainer.state.fn != "fit" or (self.due is not None and not self.due(trainer)):
            return
        record = self._with_this(trainer) if trainer.is_global_zero else None
        if not trainer.strategy.broadcast(record is not None, src=0):
            return
        loss = pl_module.objective
        tensors = full_state_dict(pl_module.network, trainable_only=pl_module.trainable_only, loss=loss)
        if record is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_weights(tensors, self.folder / weights_file(trainer.global_step), backbone=pl_module.backbone)
            self._write(record)
            best = record.kept[0]
            logged = {f"best/{self.metric.removeprefix('val/')}": best.value, "best/optim/step": float(best.step)}
            for logger in trainer.loggers:
                # the number that Lightning gives to a validation: the steps before the one it follows
                logger.log_metrics(logged, step=trainer.global_step - 1)

    def _with_this(self, trainer: L.Trainer) -> KeptRecord | None:
        """The record with the validation that has just ended; None where it is not among the best."""
        value = trainer.callback_metrics.get(self.metric)
        if value is None:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise InputError(f"trainer.best_metric must be one that validation logs ({known}), got {self.metric!r}.")
        if not math.isfinite(value):
            return None
        step = trainer.global_step
        # later ones are of a training that was interrupted and is being made again
        before = [one for one in read_kept(self.folder, missing_ok=True).kept if one.step < step]
        this = KeptWeights(step, float(value), weights_file(step))
        kept = sorted([*before, this], key=lambda one: (-one.value, one.step))
        record = KeptRecord(self.metric, tuple(kept[: self.keep]))
        return record if step in {one.step for one in record.kept} else None

    def _write(self, record: KeptRecord) -> None:
        """Writes the record, then removes weights that are not in it: a kill between the two leaves some too many."""
        with replaced(self.folder / BEST_FILE) as beside:
            beside.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        kept = {one.file for one in record.kept}
        for path in self.folder.glob("step-*.safetensors"):
            if path.name not in kept:
                path.unlink()
