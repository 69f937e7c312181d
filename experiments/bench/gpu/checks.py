"""What has to be right before a rate means anything: packing, resuming, sharding; each on a small model."""

from __future__ import annotations

import copy
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datamodules import ImageTextDataModule, ImageTextRow
from datamodules.scenes import write_scenes
from experiments.bench.gpu.shapes import MODELS, build
from experiments.bench.implementations import rows_of_noise
from experiments.bench.measure import cast_parameters
from experiments.bench.models import FULL, LORA
from lightning_modules import AlignmentModule, LastCheckpoint, Preemption, StoppedError, WholeFiles

TOLERANCE = 1e-4
"""How far match logits of a pair may lie apart in float32."""
WEIGHT_TOLERANCE = 1e-5
"""How far a weight may lie apart after some steps of a learning rate a hundred times as large."""
RATE, STEPS, STOP = 1e-3, 6, 3
"""Learning rate of the trainings here; their steps; after how many one is stopped."""
Checked = tuple[bool, str]


@torch.no_grad()
def packing(name: str, scale: str, device: torch.device) -> Checked:
    """Packed and plain logits are equal in float32; in bf16 packing is as near to them as the plain model is.

    Captions of an image whose order is another one in bf16 are counted: of random weights, some lie close together.
    """
    module = build(name, scale, device, torch.float32).eval()
    rows = rows_of_noise(4, 6)
    exact = both_ways(name, module, rows, device)
    span = float(exact[0].max() - exact[0].min())
    apart = largest(exact[0] - exact[1])
    pairs = len(rows) * 6 * 5 // 2
    cast_parameters(module, torch.bfloat16)
    rounded = both_ways(name, module, rows, device)
    # the plain float32 logits judge both
    errors = [largest(logits - exact[1]) for logits in rounded]
    flips = [flipped(logits, exact[1]) for logits in rounded]
    # roundings of two orders of adding differ by chance; a wrong mask or position is orders of magnitude further off
    near = errors[0] <= 3 * errors[1] + TOLERANCE and flips[0] <= 3 * flips[1] + pairs // 10
    return apart <= TOLERANCE and span > 10 * TOLERANCE and near, (
        f"float32: largest difference {apart:.1e} (allowed {TOLERANCE:.0e}) of logits that span {span:.2g}; bf16: "
        f"largest difference {largest(rounded[0] - rounded[1]):.1e}, against float32 packed {errors[0]:.1e}, plain "
        f"{errors[1]:.1e}; rank flips of {pairs}: packed {flips[0]}, plain {flips[1]}"
    )


def both_ways(
    name: str, module: AlignmentModule, rows: Sequence[ImageTextRow], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C) match logits, packed and by the plain Transformers model; all rows have as many captions."""
    batch = module.collator()(rows).to(device)
    pairs = [(row, caption) for row in rows for caption in row.captions]
    plain = MODELS[name].plain_logits(module, MODELS[name].plain(module, pairs, device))
    return module.logits(batch), plain.view(len(rows), -1)


def largest(difference: torch.Tensor) -> float:
    """The largest absolute number; nan where there is one."""
    return float(difference.abs().max())


def flipped(logits: torch.Tensor, right: torch.Tensor) -> int:
    """Pairs of captions of an image that two matrices (B, C) of logits order differently.

    >>> flipped(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 1.0, 3.0]]))
    1
    """
    signs = [(matrix.unsqueeze(2) - matrix.unsqueeze(1)).sign() for matrix in (logits, right)]
    return int((signs[0] != signs[1]).sum()) // 2


def resuming(scale: str, device: torch.device) -> Checked:
    """A training that is stopped, saved and resumed has the losses and weights of one that ran through."""
    with deterministic(), scenes() as folder:
        path = folder / "last.ckpt"
        # copies: a tokenizer that is trained anew may number its pieces in another order
        through = build("llava", scale, device, torch.float32, tune=LORA)
        first, second = copy.deepcopy(through), copy.deepcopy(through)
        expected = fit(through, folder, device)
        with Preemption() as preemption:
            stops = [Stop(preemption), LastCheckpoint(path, preemption=preemption)]
            losses = fit(first, folder, device, callbacks=stops)
        with torch.no_grad():
            for parameter in second.parameters():
                if parameter.requires_grad:
                    parameter.zero_()  # so that what is right afterwards was in the file
        losses += fit(second, folder, device, resume=path)
        apart = weights_apart(weights_of(second), weights_of(through))
    differences = [abs(one - other) for one, other in zip(losses, expected, strict=False)]
    passed = len(losses) == len(expected) == STEPS and max(differences) <= TOLERANCE and apart <= WEIGHT_TOLERANCE
    return passed, (
        f"stopped after step {STOP} of {STEPS}, {len(losses)} losses of {len(expected)}: largest difference of a loss "
        f"{max(differences):.1e}, of a weight {apart:.1e} (allowed {WEIGHT_TOLERANCE:.0e}, learning rate {RATE:.0e})"
    )


def sharding(scale: str, device: torch.device) -> Checked:
    """A step under FSDP2 on one rank (`trainer.strategy=fsdp`) is the plain step."""
    plain = build("llava", scale, device, torch.float32, tune=FULL)
    sharded, before = copy.deepcopy(plain), weights_of(plain)
    gathered = Gather()
    try:
        with deterministic(), scenes() as folder:
            losses = fit(plain, folder, device, steps=1)
            strategy = ModelParallelStrategy(
                data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False
            )
            other = fit(sharded, folder, device, steps=1, callbacks=[gathered], strategy=strategy)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    after = weights_of(plain)
    apart, moved = weights_apart(gathered.weights, after), weights_apart(before, after)
    loss = abs(losses[0] - other[0])
    passed = gathered.sharded > 0 and loss <= TOLERANCE and apart <= WEIGHT_TOLERANCE < moved
    return passed, (
        f"{gathered.sharded} weights sharded; difference of the loss {loss:.1e}, largest of a weight {apart:.1e} "
        f"(allowed {WEIGHT_TOLERANCE:.0e}), which the step has moved by up to {moved:.1e}"
    )


class Losses(L.Callback):
    """Keeps the loss of every step: the mean over its terms."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes it from what was logged."""
        self.values.append(float(trainer.callback_metrics["loss"]))


class Stop(L.Callback):
    """Asks a training to stop, as a scheduler's signal does."""

    def __init__(self, preemption: Preemption):
        self.preemption = preemption

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After `STOP` steps."""
        if trainer.global_step == STOP:
            self.preemption.asked = signal.SIGTERM


class Gather(L.Callback):
    """Keeps the whole weights of a sharded module at the end, while its ranks are still there."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.sharded = 0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers them."""
        self.sharded = sum(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
        self.weights = weights_of(pl_module)


def fit(
    module: AlignmentModule,
    folder: Path,
    device: torch.device,
    *,
    steps: int = STEPS,
    callbacks: Sequence[L.Callback] = (),
    strategy: Any = "auto",
    resume: Path | None = None,
) -> list[float]:
    """Trains on the scenes in `folder`, 4 batches an epoch; a stop that was asked for ends it.

    Returns:
        The losses of its steps.
    """
    module.lr, losses = RATE, Losses()
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=strategy,
        max_steps=steps,
        logger=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses, *callbacks],
        plugins=[WholeFiles()],
    )
    data = ImageTextDataModule(folder / "captions.parquet", folder / "negatives.parquet", batch_size=2)
    data.connect(module.collator())
    with suppress(StoppedError):
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return losses.values


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights on the CPU, whole."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().clone()
        for name, value in module.named_parameters()
    }


def weights_apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight; infinite where they are not of the same names."""
    if one.keys() != other.keys():
        return float("inf")
    return max(largest(one[name] - other[name]) for name in one)


@contextmanager
def scenes() -> Iterator[Path]:
    """A folder with tables of drawn scenes, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), train=8, held_out=1, image_size=32, seed=0)
        yield Path(folder) / "train"


@contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that compute the same every time, where there are such: AdamW turns rounding into whole steps."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
