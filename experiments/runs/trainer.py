"""Lightning's Trainer as the `trainer`, `optim` and `logging` sections describe it: strategy, logs, checkpoints."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import TrainerConfig
from experiments.runs.made_by import made_by
from experiments.runs.outputs import METRICS_FILE
from experiments.runs.progress import is_terminal
from experiments.runs.tracking import wandb_logger
from lightning_modules import did_you_mean
from negatives.tables import InputError

if TYPE_CHECKING:
    import lightning as L

    from experiments.validate_benchmarks import ValidateBenchmarks
    from lightning_modules import Preemption

LAST_FILE = "last.ckpt"


def make_trainer(
    config: ExperimentConfig,
    wandb_run: str | None,
    preemption: Preemption,
    benchmarks: ValidateBenchmarks | None = None,
) -> L.Trainer:
    """Lightning's Trainer, as `build_trainer` builds it.

    Raises:
        InputError: Lightning finds that the settings do not go with this machine, or with each other.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        return build_trainer(config, Path(config.output_dir), wandb_run, preemption, benchmarks)
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error


def check_best_metric(settings: TrainerConfig, types: Collection[str], benchmarks: Collection[str] = ()) -> None:
    """That `trainer.best_metric` is one that validation will log, before an epoch is spent.

    Args:
        settings: of the trainer.
        types: negative types of the validation pairs.
        benchmarks: metrics of `trainer.validate_benchmarks`.

    Raises:
        InputError: names those that it will log.
    """
    names = [*(f"val/{name}/accuracy" for name in (*sorted(types), "mean")), *benchmarks]
    if settings.keep_best and settings.best_metric not in names:
        near = did_you_mean(settings.best_metric, names)
        who = "data.validation gives" if not benchmarks else "data.validation and trainer.validate_benchmarks give"
        raise InputError(
            f"`trainer.best_metric` must be one that {who} ({', '.join(names)}), got {settings.best_metric!r}{near}"
        )


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


def build_trainer(
    config: ExperimentConfig,
    folder: Path,
    wandb_run: str | None = None,
    preemption: Preemption | None = None,
    benchmarks: ValidateBenchmarks | None = None,
) -> L.Trainer:
    """Lightning's Trainer, with JSONL and W&B logs, resumable checkpoints and progress.

    Args:
        config: the experiment.
        folder: of the run.
        wandb_run: id of the W&B run; the one that the folder keeps, or a new one, where None.
        preemption: asks for a checkpoint and an end.
        benchmarks: scores `trainer.validate_benchmarks`.
    """
    import lightning as L

    from lightning_modules import HalfParameters, WholeFiles

    settings = config.trainer
    half = [HalfParameters("bf16-true")] if settings.precision == "bf16-true" else []
    validate = settings.validate_every
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings),
        precision=None if half else settings.precision,  # type: ignore[arg-type]
        # of two bounds Lightning takes the one that comes first; max_steps overrules max_epochs
        max_epochs=settings.max_epochs if settings.max_steps < 0 else -1,
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=config.optim.gradient_clip or None,
        # None: the interval counts on across epochs. It counts batches, the setting optimiser steps.
        check_val_every_n_epoch=None if validate else 1,
        val_check_interval=validate * settings.accumulate if validate else 1.0,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if config.data.validation else 0,
        log_every_n_steps=settings.log_every,
        logger=build_loggers(config, folder, wandb_run),
        callbacks=build_callbacks(config, folder, preemption, benchmarks),
        plugins=[WholeFiles(), *half, *_slurm_without_requeue()],
        # the data module shares out its batches itself; a sampler would share them out once more
        use_distributed_sampler=False,
        # sharded parameters that were gathered in inference mode cannot be trained afterwards
        inference_mode=False,
        enable_progress_bar=is_terminal(),
        enable_model_summary=is_terminal(),
        default_root_dir=folder,
    )


def build_loggers(config: ExperimentConfig, folder: Path, wandb_run: str | None = None) -> list[Any]:
    """Our own records of metrics and of speed, and W&B's logger where it is not disabled; see `build_trainer`."""
    from experiments.runs.metric_log import MetricLog
    from experiments.runs.metric_record import SPEED_FILE
    from experiments.runs.speed import PREFIX
    from experiments.runs.wandb_id import new_id, recorded_id

    wandb = wandb_logger(
        config.logging,
        folder=folder,
        name=config.name,
        job_type="train",
        settings=config,
        run_id=wandb_run or recorded_id(folder) or new_id(),
        tags=(config.model.backbone,),
    )
    # what a clock says is no result, and differs when a run goes on
    records = [
        MetricLog(folder / "logs" / METRICS_FILE, others=(PREFIX,)),
        MetricLog(folder / "logs" / SPEED_FILE, PREFIX),
    ]
    return [*records, *([wandb] if wandb else [])]


def build_callbacks(
    config: ExperimentConfig,
    folder: Path,
    preemption: Preemption | None = None,
    benchmarks: ValidateBenchmarks | None = None,
) -> list[L.Callback]:
    """What scores benchmarks, saves checkpoints and the best weights, and without a terminal also prints progress."""
    from experiments.runs.plain_progress import PlainProgress
    from experiments.runs.speed import Speed
    from lightning_modules import BestWeights, LastCheckpoint

    settings, checkpoints = config.trainer, folder / "checkpoints"
    callbacks: list[L.Callback] = [
        LastCheckpoint(
            checkpoints / LAST_FILE,
            settings.checkpoint_every,
            made_by(config),
            minutes=settings.checkpoint_minutes,
            preemption=preemption,
        )
    ]
    callbacks.append(Speed())
    if benchmarks is not None:
        callbacks.append(benchmarks)
    if settings.keep_best:
        gives = benchmarks is not None and benchmarks.benchmarks.gives(settings.best_metric)
        due = benchmarks.due if benchmarks is not None and gives else None
        callbacks.append(BestWeights(checkpoints, settings.best_metric, settings.keep_best, due))
    # a bar would fill a job's log with one line for each redraw
    if not is_terminal():
        callbacks.append(PlainProgress())
    return callbacks


def _slurm_without_requeue() -> list[Any]:
    """SLURM's environment, where Lightning would find it, without the checkpoints that Lightning requeues from.

    It would write `hpc_ckpt_1.ckpt` from inside a signal handler, in the middle of a step, and requeue the job itself.
    """
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    # in the order in which Lightning asks: torchrun may have been started by srun
    found = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if found else []


def begin_logging(loggers: Iterable[Any], folder: Path, facts: Mapping[str, Any], *, anew: bool) -> None:
    """Starts W&B's run once the run's folder is its own: keeps its id, and says what is known of the data.

    Args:
        loggers: of the Trainer.
        folder: of the run.
        facts: about its data, for W&B's config under `facts`.
        anew: whether the training begins at step 0: what an attempt before it has logged is not uploaded then.
    """
    from lightning.pytorch.loggers import WandbLogger

    from experiments.runs.wandb_id import keep_id, supersede

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if anew:
                supersede(folder)
            keep_id(folder, str(logger.version))
            logger.experiment.config.update({"facts": dict(facts)}, allow_val_change=True)


def finish_logging(loggers: Iterable[Any], *, failed: bool, summary: Mapping[str, Any] | None = None) -> None:
    """Closes W&B's run, so that the next one in this process is a run of its own.

    Args:
        loggers: of the Trainer.
        failed: whether W&B is to show it as failed; as preempted, where `mark_preempted` came before.
        summary: of the run, in place of what W&B has of the same metrics.
    """
    for run in _wandb_runs(loggers):
        run.summary.update(dict(summary or {}))
        run.finish(exit_code=int(failed))


def mark_preempted(loggers: Iterable[Any]) -> None:
    """Tells W&B that the run is preempted; with an exit code of 0 it would be finished all the same."""
    for run in _wandb_runs(loggers):
        run.mark_preempting()


def _wandb_runs(loggers: Iterable[Any]) -> list[Any]:
    """W&B's runs that are open in this process."""
    from lightning.pytorch.loggers import WandbLogger

    # `logger.experiment` would start a run where none is open
    return [
        logger.experiment for logger in loggers if isinstance(logger, WandbLogger) and logger._experiment is not None
    ]


def quiet_lightning() -> None:
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
