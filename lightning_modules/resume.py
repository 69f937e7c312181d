"""Lightning's checkpoint to go on from: written whole, when Lightning can resume it exactly, and checked before use."""

from __future__ import annotations

import pickle
import re
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.checkpoint import misfit, replaced
from lightning_modules.preemption import Preemption, StoppedError

if TYPE_CHECKING:
    from lightning_modules.base import AlignmentModule

LOSS_STATE = "loss_state"
"""Where a checkpoint keeps what `Loss.remembered` gave."""
FORMER_LOSS_STATE = "ce_clip.rank_thresholds.of."
"""Before there was `LOSS_STATE`, CE-CLIP's thresholds stood among the weights, under names that began so."""
NOTHING, SAVE, STOP = range(3)
"""What a rank requests after a step; of the requests of all ranks, the largest is done."""
PARTS = {"state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict}


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints such that kill -9 leaves the one before.

    Lightning's own writes into the folder for temporary files and moves the file from there. Where that is another file
    system, moving is copying, over the only good checkpoint. It also holds the whole file in memory first.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves a checkpoint; a reader sees the old file or the whole new one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as beside:
            torch.save(checkpoint, beside)


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint to go on from.

    It is written every so often and at the end, always after an optimiser step: accumulated gradients are not part of
    it. All that belongs to the step has to be done by then, since a resumed run does not do it again. Lightning logs a
    step's metrics after `on_train_batch_end`, and validates after that. So the first hook that is late enough is the
    start of the next batch, or the end of the epoch.

    Args:
        path: of the file.
        every: optimiser steps between checkpoints; one at the end of each epoch where None.
        made_by: says whose checkpoints these are, for `check_resumable`.
        minutes: time between checkpoints, beside those of `every`; not counted where None.
        preemption: asks for a checkpoint and an end after the optimiser step under way.

    Raises:
        StoppedError: in a hook, after the checkpoint that `preemption` asked for.
    """

    def __init__(
        self,
        path: Path,
        every: int | None = None,
        made_by: str = "",
        *,
        minutes: float | None = None,
        preemption: Preemption | None = None,
    ):
        self.path, self.every, self.made_by = path, every, made_by
        self.minutes, self.preemption = minutes, preemption or Preemption()
        self._due = self._stops = False
        self._begun: int | None = None
        self._last_save = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and takes the signals from Lightning."""
        self.preemption.listen()
        self._last_save = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether a checkpoint is due after this batch, and whether the training stops there."""
        last = batch_idx + 1 == trainer.num_training_batches
        # Lightning steps at the end of an epoch too, whatever it has accumulated by then
        if not last and (batch_idx + 1) % trainer.accumulate_grad_batches != 0:
            return
        ended = trainer.global_step >= trainer.estimated_stepping_batches
        due = last if self.every is None else trainer.global_step % self.every == 0
        request = self._agreed_request(trainer)
        self._due = due or ended or request >= SAVE
        # a training at its end has nothing to stop
        self._stops = request == STOP and not ended

    def _agreed_request(self, trainer: L.Trainer) -> int:
        """What any rank wants: a scheduler may signal one of them, and clocks differ, but all have to save together."""
        is_time = self.minutes is not None and time.monotonic() - self._last_save >= 60 * self.minutes
        request = STOP if self.preemption.asked else SAVE if is_time else NOTHING
        if trainer.world_size == 1:
            return request
        requests = torch.tensor(request, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(requests, reduce_op="max"))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Saves what is due within an epoch."""
        self._save_due(trainer, begun=1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what is due at an epoch's end, or where training ends within one."""
        self._save_due(trainer, begun=0)

    def _save_due(self, trainer: L.Trainer, *, begun: int) -> None:
        if self._due:
            self._due, self._begun = False, begun
            trainer.save_checkpoint(self.path)
            self._begun, self._last_save = None, time.monotonic()
            if self._stops:
                raise StoppedError(trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Says whose this is, and puts the loops' progress into words that Lightning resumes exactly."""
        checkpoint["made_by"] = self.made_by
        if self._begun is not None:
            progress = checkpoint["loops"]["fit_loop"]
            settle_progress(progress, begun=self._begun, batches_in_epoch=trainer.num_training_batches)


def settle_progress(progress: dict[str, Any], *, begun: int, batches_in_epoch: float) -> None:
    """Rewrites the fit loop's progress to "in an epoch, in the hook after its k-th batch", k = 0 for a new epoch.

    Lightning (2.6) resumes exactly from there and not from elsewhere: from the end of an epoch, and where `max_steps`
    is set, it runs that end twice or does not count the next epoch as started.

    Args:
        progress: the fit loop's state in a checkpoint after an optimiser step; changed in place.
        begun: batches that have begun and are not trained on, 0 or 1.
        batches_in_epoch: after so many, the epoch is over, and all of its hooks have run.
    """
    batches, epochs = progress["epoch_loop.batch_progress"], progress["epoch_progress"]
    epoch_ended = batches["current"]["ready"] - begun == batches_in_epoch
    epoch = epochs["current"]["started"] - (0 if epoch_ended else 1)
    for part in ("total", "current"):
        epochs[part] = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
        done = 0 if epoch_ended and part == "current" else batches[part]["ready"] - begun
        # the hook after the batch belongs to it, so the batch is not complete
        batches[part] = {"ready": done, "started": done, "processed": done, "completed": done - 1}
    batches["is_last_batch"] = False
    # Lightning counts the step that the batch made when it resumes
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    if epoch_ended:
        optimizer = progress["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        # Lightning zeroes these where an epoch starts, but not in the epoch that it resumes in
        # (_TrainingEpochLoop.reset)
        per_epoch = [progress["epoch_loop.scheduler_progress"], optimizer["step"], optimizer["zero_grad"]]
        for counts in (
            *(counter["current"] for counter in per_epoch),
            progress["epoch_loop.val_loop.batch_progress"]["total"],
        ):
            counts.update(dict.fromkeys(counts, 0))


def check_resumable(path: Path, module: AlignmentModule, *made_by: str) -> int:
    """Refuses a checkpoint that training cannot go on from, before anything is changed; runs nothing that is in it.

    Args:
        path: of the file.
        module: what is to be trained.
        made_by: whose checkpoints it may be, see `LastCheckpoint`.

    Returns:
        The optimiser steps made so far.

    Raises:
        ValueError: it is damaged, would run code, is no checkpoint of a training, or is one of another model or, by
            `made_by`, of another run.
    """
    try:
        checkpoint = _read_checked(path)
        check_fit(checkpoint, module)
        if checkpoint.get("made_by", "") not in (made_by or ("",)):
            raise ValueError("is the checkpoint of a run with another configuration")
        return int(checkpoint.get("global_step", 0))
    except ValueError as error:
        raise ValueError(f"{path} {error}; copy it anew, or start anew with --overwrite.") from None


def _read_checked(path: Path) -> dict[str, Any]:
    """A checkpoint whose checksums are right and that holds the parts of one; its tensors stay on the disk."""
    try:
        with zipfile.ZipFile(path) as file:
            # reads all checksums: `torch.load` maps the file below, and then looks at none
            damaged = file.testzip()
    except Exception as error:  # a damaged file leads its reader to anything
        raise ValueError(f"is damaged or no checkpoint ({_first_line(error)})") from None
    if damaged is not None:
        raise ValueError(f"is damaged (wrong checksum of {damaged})")
    try:
        # weights_only: no class or function that the file names is called
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ValueError(f"holds more than tensors and plain values{what}, nothing of which was run") from None
    except Exception as error:
        raise ValueError(f"is damaged or no checkpoint ({_first_line(error)})") from None
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    lacking = [part for part, kind in PARTS.items() if not isinstance(parts.get(part), kind)]
    if lacking:
        raise ValueError(f"is no checkpoint of a training (no {', '.join(lacking)})")
    return parts


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__


def check_fit(checkpoint: Mapping[str, Any], module: AlignmentModule) -> None:
    """Whether a loaded checkpoint holds exactly the tensors that `module` saves, and what its loss can recall.

    Raises:
        ValueError: names what does not fit.
    """
    state = module.state_dict()
    expected = {name: state[name].shape for name in module.checkpoint_names()}
    found = {
        name: getattr(tensor, "shape", ())
        for name, tensor in checkpoint["state_dict"].items()
        if not name.startswith(FORMER_LOSS_STATE)
    }
    fault = misfit(found, expected, backbone=(checkpoint.get("backbone", ""), module.backbone))
    if fault := fault or module.objective.misfit(loss_state(checkpoint)):
        raise ValueError(f"does not fit the model: {fault}")


def loss_state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the loss of a checkpoint remembered, where it stands now or where it formerly stood."""
    weights = checkpoint.get("state_dict", {})  # sharded, Lightning has taken them out
    former = {name: value for name, value in weights.items() if name.startswith(FORMER_LOSS_STATE)}
    state = {name.removeprefix(FORMER_LOSS_STATE): value for name, value in former.items()}
    return {**state, **checkpoint.get(LOSS_STATE, {})}


def take_loss_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """`loss_state`; what formerly stood among the weights is taken out of them, since no module has it now."""
    state, weights = loss_state(checkpoint), checkpoint.get("state_dict", {})
    for name in [name for name in weights if name.startswith(FORMER_LOSS_STATE)]:
        del weights[name]
    return state
