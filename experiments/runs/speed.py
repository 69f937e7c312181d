"""How fast a training goes, and what memory it takes: logged beside its losses, under `speed/`."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
}
"""Words of a GPU's name -> dense bf16 operations per second, from NVIDIA's data sheets; the first that fits."""
PREFIX = "speed/"


class Speed(L.Callback):
    """Logs pairs per second of all ranks, peak memory, and model FLOP utilisation where the GPU's peak is known.

    A pair is an image and one of its captions. The operations of a pair are counted in the first batch, forward and
    backward; adapters' and optimiser's own are small beside them.
    """

    def __init__(self) -> None:
        self._pairs, self._since, self._paused = 0, 0.0, 0.0
        self._counter: FlopCounterMode | None = None
        self._operations: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._pairs, self._since = 0, time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the operations of the first batch."""
        if self._operations is None and peak_of(pl_module.device) is not None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and logs with the losses."""
        pairs = int(batch.caption_mask.sum())
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._operations = self._counter.get_total_flops() / max(1, pairs)
            self._counter = None
            # the first batch is slow: by its counting, and by what a GPU does once
            self._pairs, self._since = 0, time.perf_counter()
            return
        self._pairs += pairs
        if trainer.global_step % trainer.log_every_n_steps or not self._pairs:  # type: ignore[attr-defined]
            return
        rate = self._pairs / (time.perf_counter() - self._since)
        found = {"pairs_per_second": rate * trainer.world_size, "memory_gib": peak_memory(pl_module.device)}
        peak = peak_of(pl_module.device)
        if peak is not None and self._operations is not None:
            found["mfu"] = rate * self._operations / peak
        pl_module.log_dict({f"{PREFIX}{name}": value for name, value in found.items()}, batch_size=1)
        self._pairs, self._since = 0, time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock: a validation is no training."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets the clock go on."""
        self._since += time.perf_counter() - self._paused


def peak_of(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a GPU; None where they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    # A100-SXM4-80GB is an A100, and RTX A1000 none
    words = f" {name.replace('-', ' ')} "
    return next((peak for part, peak in PEAKS.items() if f" {part} " in words), None)


def peak_memory(device: torch.device) -> float:
    """The most memory that was taken so far, in GiB: on a GPU by PyTorch, elsewhere by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
