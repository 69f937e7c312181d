"""`itm train`: one experiment, from its configuration to a checkpoint.

The run's folder holds `config.yaml` and `provenance.json`, `logs/` (CSV, always), `wandb/` (unless disabled),
`checkpoints/last.ckpt` (Lightning's, to resume from), and at the end `processor/` and `weights.safetensors`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.build import (
    PROCESSOR_FOLDER,
    WEIGHTS_FILE,
    build_datamodule,
    build_module,
    resolve_device,
    wandb_logger,
    weights_dtype,
)
from experiments.outputs import OutputFolder
from experiments.progress import is_terminal, say
from experiments.schemas import ExperimentConfig
from negatives.records import InputError

if TYPE_CHECKING:
    import lightning as L


def run(config: ExperimentConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Trains and saves; with `resume` goes on from the last checkpoint, or does nothing where the run is finished.

    Raises:
        InputError: an existing folder, missing hardware, unusable tables, or a model that cannot be loaded.
    """
    folder = Path(config.output_dir)
    if resume and (folder / WEIGHTS_FILE).is_file() and not is_main_process():
        return
    output = None
    if is_main_process():
        output = OutputFolder(config, verb="train", result=WEIGHTS_FILE, resume=resume, overwrite=overwrite)
        if output.finished:
            say(f"{folder} is finished; nothing to resume.")
            return
    resolve_device(config.trainer.accelerator)
    import lightning as L
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    _quiet()
    L.seed_everything(config.seed, workers=True, verbose=False)
    datamodule = build_datamodule(config.data, config.seed)
    datamodule.setup()
    words = datamodule.captions_to_train_on()
    dtype = weights_dtype(config.trainer.precision)
    module = build_module(config.model, config.optim, captions=words, dtype=dtype)
    datamodule.connect(module.collator())
    try:
        trainer = build_trainer(config, folder)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    if output is not None:
        output.claim()
    fit(trainer, module, datamodule, folder / "checkpoints" / "last.ckpt" if resume else None)
    if trainer.is_global_zero:
        save_run(module, folder, trainable_only=config.model.checkpoint is not None)
        say(f"Trained {config.name}: {folder / WEIGHTS_FILE}")


def is_main_process() -> bool:
    """Whether this is the one process of a job that prepares the folder, by the launchers' environment variables."""
    ranks = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, 0)) == 0 for name in ranks)


def fit(trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule, last: Path | None) -> None:
    """Fits, from the checkpoint `last` where there is one, and closes W&B's run whatever happens.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
    """
    try:
        trainer.fit(module, datamodule, ckpt_path=last if last and last.is_file() else None, weights_only=True)
    except SystemExit:
        raise KeyboardInterrupt from None  # how Lightning ends on Ctrl-C
    finally:
        finish_logging(trainer.loggers)


def finish_logging(loggers: Iterable[Any]) -> None:
    """Closes W&B's run, so that the next one in this process is a run of its own."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish()


def _quiet() -> None:
    """Silences Lightning's advertisements and warnings about itself; errors still show."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def save_run(module: Any, folder: Path, *, trainable_only: bool) -> None:
    """Saves the processor, then the weights: a folder with weights is a finished run."""
    from lightning_modules.checkpoint import save_weights

    module.processor.save_pretrained(folder / PROCESSOR_FOLDER)
    save_weights(module.network, folder / WEIGHTS_FILE, trainable_only=trainable_only)


def build_trainer(config: ExperimentConfig, folder: Path) -> L.Trainer:
    """Lightning's Trainer, with CSV and W&B logs, resumable checkpoints and progress.

    Args:
        config: the experiment.
        folder: of the run.
    """
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from experiments.plain_progress import PlainProgress

    settings = config.trainer
    wandb = wandb_logger(config.logging, folder=folder, name=config.name, job_type="train", settings=config)
    loggers = [CSVLogger(save_dir=folder, name="logs"), *([wandb] if wandb else [])]
    saved = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="last",
        every_n_train_steps=settings.checkpoint_every,
        every_n_epochs=None if settings.checkpoint_every else 1,
        save_on_train_epoch_end=None if settings.checkpoint_every else True,
        enable_version_counter=False,
    )
    callbacks: list[L.Callback] = [saved]
    if not is_terminal():
        callbacks.append(PlainProgress())
    validate = settings.validate_every
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]
        max_epochs=-1 if settings.max_steps > 0 else settings.max_epochs,
        max_steps=settings.max_steps if settings.max_steps > 0 else -1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=config.optim.gradient_clip or None,
        check_val_every_n_epoch=None if validate else 1,
        val_check_interval=validate * settings.accumulate if validate else 1.0,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if config.data.validation else 0,
        log_every_n_steps=settings.log_every,
        logger=loggers,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_progress_bar=is_terminal(),
        enable_model_summary=is_terminal(),
        default_root_dir=folder,
    )
