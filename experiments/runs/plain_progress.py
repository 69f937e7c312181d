"""Training progress as plain lines, for logs of jobs without a terminal."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from experiments.runs.progress import SECONDS_BETWEEN_LINES, say


class PlainProgress(L.Callback):
    """Prints step, loss and time left every few seconds, and the mean accuracy of every validation."""

    def __init__(self) -> None:
        self._start = self._last = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock; a resumed run counts its own steps only."""
        self._start = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One line every few seconds."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        # optimiser steps, not batches: as max_steps and all logs count
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        left = (now - self._start) / max(1, done - self._first_step) * (total - done)
        loss = trainer.callback_metrics.get("loss", float("nan"))
        say(f"step {done} of {total}, loss {float(loss):.3f}, {left:.0f} s left")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The mean paired accuracy."""
        accuracy = trainer.callback_metrics.get("val/mean/accuracy")
        if trainer.is_global_zero and accuracy is not None:
            say(f"step {trainer.global_step}, validation accuracy {float(accuracy):.3f}")
