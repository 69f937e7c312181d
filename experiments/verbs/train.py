"""`itm train`: one experiment, from its configuration to a checkpoint.

The run's folder holds `config.yaml` and `provenance.json`, `logs/` (JSON lines, always), `wandb/` (unless disabled),
`checkpoints/last.ckpt` (Lightning's, to resume from), `base.json` where it starts from a published checkpoint,
and at the end `processor/` and `weights.safetensors`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.build import build_datamodule, build_module
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import TrainerConfig
from experiments.runs.devices import resolve_device
from experiments.runs.made_by import former_made_by, made_by, note_former
from experiments.runs.outputs import METRICS_FILE, OutputFolder
from experiments.runs.progress import is_terminal, say
from experiments.runs.ranks import check_launched, end_ranks, is_main_process
from experiments.runs.tracking import wandb_logger
from lightning_modules.scoring import PROCESSOR_FOLDER, WEIGHTS_FILE, weights_dtype
from negatives.tables import InputError, write_json

if TYPE_CHECKING:
    import lightning as L

    from datamodules import ImageTextDataModule
    from lightning_modules.backbones import Backbone

LAST_FILE = "last.ckpt"


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        last: The checkpoint that it goes on from; None where it begins at step 0.
        frozen: Fingerprint of the published weights that stay as they are; None where no checkpoint was published.
        former: What `last` says of who made it, where an older version may have; see `former_made_by`.
    """

    last: Path | None
    frozen: str | None
    former: str | None = None


def run(config: ExperimentConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Trains and saves; with `resume` goes on from the last checkpoint, or does nothing where the run is finished.

    Raises:
        InputError: an existing folder, missing hardware, unusable tables, or a model that cannot be loaded.
    """
    folder = Path(config.output_dir)
    output = check_folder(config, resume=resume, overwrite=overwrite)
    if resume and (folder / WEIGHTS_FILE).is_file():
        return
    resolve_device(config.trainer.accelerator)
    check_launched(config.trainer)
    module, datamodule = build_parts(config, recorded=resume)
    start = find_start(config, module, resume=resume, main=output is not None)
    trainer = make_trainer(config, last_wandb_run(folder) if start.last is not None else None)
    # An existing run is untouched up to here, whatever is refused above.
    if output is not None:
        prepare_folder(config, output, module, start)
    fit(trainer, module, datamodule, start.last)
    save_run(module, folder, write=trainer.is_global_zero)
    end_ranks()
    if trainer.is_global_zero:
        say_end(config, module)


def check_folder(config: ExperimentConfig, *, resume: bool, overwrite: bool) -> OutputFolder | None:
    """The run's folder, checked and untouched; None for the processes that leave it to the main one.

    Raises:
        InputError: the folder exists without a flag, or is not this run's.
    """
    if not is_main_process():
        return None
    output = OutputFolder(config, verb="train", result=WEIGHTS_FILE, resume=resume, overwrite=overwrite)
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
    return output


def build_parts(config: ExperimentConfig, *, recorded: bool = False) -> tuple[Backbone, ImageTextDataModule]:
    """The scorer and its data, connected.

    The seed is set before anything draws, and the tables are read before the scorer is built: a tiny model makes its
    tokenizer from their words.

    Args:
        config: of the run.
        recorded: go on with what the run's `base.json`, if it has one, says of its checkpoint.

    Raises:
        InputError: unusable tables, or a model that cannot be loaded.
    """
    import lightning as L

    from lightning_modules.scoring import BASE_FILE, as_recorded

    _quiet()
    L.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build_datamodule(config.data, config.seed)
    datamodule.setup()
    words = datamodule.captions_to_train_on()
    dtype = weights_dtype(config.trainer.precision)
    folder, model = Path(config.output_dir), config.model
    if recorded and (folder / BASE_FILE).is_file():
        model = as_recorded(folder, model)
    module = build_module(model, config.optim, captions=words, dtype=dtype, seed=config.seed)
    module.trainable_only = config.model.checkpoint is not None
    datamodule.connect(module.collator())
    return module, datamodule


def find_start(config: ExperimentConfig, module: Backbone, *, resume: bool, main: bool) -> Start:
    """Where the training begins, checked; the main process alone reads the checkpoint, and says from which step.

    Raises:
        InputError: there is a checkpoint to go on from that is damaged, unsafe, of another model or configuration, or
            was trained on another base.
    """
    from lightning_modules import frozen_fingerprint
    from lightning_modules.scoring import check_base

    folder = Path(config.output_dir)
    last = folder / "checkpoints" / LAST_FILE
    goes_on = resume and last.is_file()
    base = config.model.checkpoint
    frozen = frozen_fingerprint(module.network) if base is not None else None
    # checkpoints hold no frozen weights, so these have to be the same as then
    if goes_on and base is not None:
        check_base(folder, module, base)
    former = former_made_by(folder, config) if goes_on and main else None
    if goes_on and main:
        # either one: a run that an older version began may have written a checkpoint since
        marks = [made_by(config), *([former] if former else [])]
        say(f"{folder} goes on from step {check_last(last, module, *marks)}.")
    elif resume and main and folder.exists():
        say(f"{folder} has no checkpoint yet; it starts from step 0.")
    return Start(last if goes_on else None, frozen, former)


def make_trainer(config: ExperimentConfig, wandb_run: str | None) -> L.Trainer:
    """Lightning's Trainer, as `build_trainer` builds it.

    Raises:
        InputError: Lightning finds that the settings do not go with this machine, or with each other.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        return build_trainer(config, Path(config.output_dir), wandb_run)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error


def prepare_folder(config: ExperimentConfig, output: OutputFolder, module: Backbone, start: Start) -> None:
    """Takes the folder, notes on which weights the run is based, and prints what trains."""
    from rich.console import Console

    from experiments.report.trainable import trainable_table
    from lightning_modules.scoring import BASE_FILE, base_record

    # before `claim` writes a configuration from which it cannot be told
    if start.former is not None:
        note_former(output.path, start.former)
    folder = output.claim()
    remove_partial(folder)
    if start.frozen is not None:
        write_json(base_record(config.model, module, start.frozen), folder / BASE_FILE)
    Console().print(trainable_table(module))


def say_end(config: ExperimentConfig, module: Backbone) -> None:
    """Says where the weights are, and how many captions were cut."""
    from experiments.runs.scoring import say_cut

    say_cut(module)
    say(f"Trained {config.name}: {Path(config.output_dir) / WEIGHTS_FILE}")


def check_last(last: Path, module: Backbone, *made_by: str) -> int:
    """Refuses a checkpoint that training cannot go on from, before anything is written; returns its step.

    Raises:
        InputError: it is damaged, unsafe, or of another model.
    """
    from lightning_modules import check_resumable

    try:
        return check_resumable(last, module, *made_by)
    except ValueError as error:
        raise InputError(str(error)) from error


def remove_partial(folder: Path) -> None:
    """Removes what a run that was killed while it wrote has left behind."""
    from lightning_modules import partial_path

    for path in (folder / WEIGHTS_FILE, folder / "checkpoints" / LAST_FILE):
        partial_path(path).unlink(missing_ok=True)


def fit(trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule, last: Path | None) -> None:
    """Fits, from the checkpoint `last` where there is one, and closes W&B's run whatever happens.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
    """
    try:
        # weights_only: a pickled object in a checkpoint could run code
        trainer.fit(module, datamodule, ckpt_path=last, weights_only=True)
    except SystemExit:
        raise KeyboardInterrupt from None  # how Lightning ends on Ctrl-C
    finally:
        finish_logging(trainer.loggers)


def finish_logging(loggers: Iterable[Any]) -> None:
    """Closes W&B's run, so that the next one in this process is a run of its own."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        # `logger.experiment` would start a run where none is open
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish()


def _quiet() -> None:
    """Silences Lightning's advertisements and warnings about itself; errors still show."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # the accuracy is computed over all ranks already
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*accumulate the metric across devices.*")
    # Lightning looks for a state of the loader; ours asks Lightning how far it has come
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")


def save_run(module: Any, folder: Path, *, write: bool) -> None:
    """Saves the processor, then the weights: a folder with weights is a finished run.

    Args:
        module: what was trained; to be called on all ranks, since they may have to gather its weights.
        folder: of the run.
        write: whether this is the rank that writes.
    """
    from lightning_modules import full_state_dict, write_weights

    tensors = full_state_dict(module.network, trainable_only=module.trainable_only, loss=module.objective)
    if write:
        module.processor.save_pretrained(folder / PROCESSOR_FOLDER)
        write_weights(tensors, folder / WEIGHTS_FILE, backbone=module.backbone)


def build_strategy(settings: TrainerConfig) -> Any:
    """Lightning's name or object for `trainer.strategy`; auto is ddp where there is more than one device."""
    world_size = settings.devices * settings.num_nodes
    if settings.strategy != "fsdp":
        return "ddp" if settings.strategy == "auto" and world_size > 1 else settings.strategy
    from lightning.pytorch.strategies import ModelParallelStrategy

    # One file that any number of ranks can resume from and that is replaced as a whole.
    # The others wait for rank 0 to write it, which takes a while where it holds 100 GB.
    # FSDP2; Lightning's FSDPStrategy is FSDP1
    return ModelParallelStrategy(
        data_parallel_size=world_size,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
        timeout=timedelta(hours=2),
    )


def last_wandb_run(folder: Path) -> str | None:
    """The id of the W&B run that a run's folder records already, for a resumed run to go on in."""
    # names begin with the time of their start, behind "offline-" where W&B was offline
    recorded = sorted((folder / "wandb").glob("*run-*_*-*"), key=lambda path: path.name.removeprefix("offline-"))
    return recorded[-1].name.rsplit("-", 1)[-1] if recorded else None


def build_trainer(config: ExperimentConfig, folder: Path, wandb_run: str | None = None) -> L.Trainer:
    """Lightning's Trainer, with JSONL and W&B logs, resumable checkpoints and progress.

    Args:
        config: the experiment.
        folder: of the run.
        wandb_run: id of the W&B run to go on in; a new one where None.
    """
    import lightning as L

    from experiments.runs.metric_log import MetricLog
    from experiments.runs.plain_progress import PlainProgress
    from lightning_modules import LastCheckpoint, WholeFiles

    settings = config.trainer
    wandb = wandb_logger(
        config.logging, folder=folder, name=config.name, job_type="train", settings=config, run_id=wandb_run
    )
    callbacks: list[L.Callback] = [
        LastCheckpoint(folder / "checkpoints" / LAST_FILE, settings.checkpoint_every, made_by(config))
    ]
    if not is_terminal():
        callbacks.append(PlainProgress())
    validate = settings.validate_every
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings),
        precision=settings.precision,  # type: ignore[arg-type]
        # of two bounds Lightning takes the one that comes first; max_steps overrules max_epochs
        max_epochs=-1 if settings.max_steps > 0 else settings.max_epochs,
        max_steps=settings.max_steps if settings.max_steps > 0 else -1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=config.optim.gradient_clip or None,
        # None: the interval counts on across epochs. It counts batches, the setting optimiser steps.
        check_val_every_n_epoch=None if validate else 1,
        val_check_interval=validate * settings.accumulate if validate else 1.0,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if config.data.validation else 0,
        log_every_n_steps=settings.log_every,
        logger=[MetricLog(folder / "logs" / METRICS_FILE), *([wandb] if wandb else [])],
        callbacks=callbacks,
        plugins=[WholeFiles()],
        # the data module shares out its batches itself; a sampler would share them out once more
        use_distributed_sampler=False,
        # sharded parameters that were gathered in inference mode cannot be trained afterwards
        inference_mode=False,
        enable_progress_bar=is_terminal(),
        enable_model_summary=is_terminal(),
        default_root_dir=folder,
    )
