"""`itm train`: one experiment, from its configuration to a checkpoint.

The run's folder holds `config.yaml` and `provenance.json`, `train_images.parquet` (which images it draws), `logs/`
(JSON lines, always), `wandb/` (unless disabled), `checkpoints/last.ckpt` (Lightning's, to resume from), `base.json`
where it starts from a published checkpoint, and at the end `processor/` and `weights.safetensors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.build import build_datamodule, build_module
from experiments.config.schemas import ExperimentConfig
from experiments.exit_codes import PreemptedError
from experiments.runs.devices import resolve_device
from experiments.runs.made_by import former_made_by, made_by, note_former
from experiments.runs.outputs import OutputFolder
from experiments.runs.progress import say
from experiments.runs.ranks import check_launched, end_ranks, is_main_process, starts_ranks
from experiments.runs.train_images import record_train_images
from experiments.runs.trainer import (
    LAST_FILE,
    begin_logging,
    check_best_metric,
    finish_logging,
    make_trainer,
    mark_preempted,
    quiet_lightning,
)
from experiments.runs.wandb_id import new_id, recorded_id
from experiments.scoring.overlaps import set_images
from experiments.tracking.facts import data_facts
from lightning_modules.losses import loss_class
from lightning_modules.scoring import PROCESSOR_FOLDER, WEIGHTS_FILE, weights_dtype
from negatives.tables import InputError, write_json

if TYPE_CHECKING:
    import lightning as L

    from datamodules import ImageTextDataModule
    from experiments.validate_benchmarks import ValidationBenchmarks
    from lightning_modules import Preemption
    from lightning_modules.backbones import Backbone


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
        PreemptedError: a scheduler asked for an end by SIGTERM or SIGUSR1, and a checkpoint is saved.
    """
    from lightning_modules import Preemption

    output = check_folder(config, resume=resume, overwrite=overwrite)
    if resume and (Path(config.output_dir) / WEIGHTS_FILE).is_file():
        return
    resolve_device(config.trainer.accelerator)
    check_launched(config.trainer)
    with Preemption() as preemption:
        train(config, output, preemption, resume=resume)


def train(config: ExperimentConfig, output: OutputFolder | None, preemption: Preemption, *, resume: bool) -> None:
    """The training itself, in a folder that was checked; see `run`."""
    from experiments.validate_benchmarks import build_validation, read_validation_benchmarks
    from lightning_modules import StoppedError

    folder = Path(config.output_dir)
    benchmarks = read_validation_benchmarks(config)
    module, datamodule = build_parts(config, recorded=resume, benchmarks=benchmarks)
    validation = build_validation(config, module, benchmarks)
    start = find_start(config, module, resume=resume, main=output is not None)
    # one that replaces another is another run; one that goes on, from whatever step, is the same
    wandb_run = recorded_id(folder) if resume else new_id()
    trainer = make_trainer(config, wandb_run, preemption, validation)
    # loading a large model may take longer than the notice that a scheduler gives
    if preemption.asked and starts_ranks(config.trainer):
        raise PreemptedError(f"{preemption.asked.name} came before the first step; nothing was written.")
    # An existing run is untouched up to here, whatever is refused above.
    if output is not None:
        prepare_folder(config, output, module, start)
        sets = benchmarks.sets if benchmarks is not None else {}
        record_train_images(datamodule, folder, [set_images(name, one) for name, one in sets.items()])
        if trainer.is_global_zero:
            facts = data_facts(datamodule, config.data.verdicts)
            begin_logging(trainer.loggers, folder, facts, anew=start.last is None)
    try:
        fit(trainer, module, datamodule, start.last)
    except StoppedError as stopped:
        end_ranks()
        # one exit code for all: Lightning's launcher would take that of another rank for a crash
        if trainer.is_global_zero:
            asked = preemption.asked.name if preemption.asked else "a signal to another rank"
            raise PreemptedError(
                f"{asked}; step {stopped.step} is saved in {folder}. The same command goes on with --resume=auto."
            ) from None
        return
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
    # of the images that are read it changes nothing: a run that met one too large goes on with a larger limit
    free = {"data.max_pixels"}
    output = OutputFolder(
        config, verb="train", result=WEIGHTS_FILE, resume=resume, overwrite=overwrite, may_differ=free
    )
    if output.finished:
        say(f"{output.path} is finished; nothing to resume.")
    return output


def build_parts(
    config: ExperimentConfig, *, recorded: bool = False, benchmarks: ValidationBenchmarks | None = None
) -> tuple[Backbone, ImageTextDataModule]:
    """The scorer and its data, connected.

    The seed is set before anything draws, and the tables are read before the scorer is built: a tiny model makes its
    tokenizer from their words.

    Args:
        config: of the run.
        recorded: go on with what the run's `base.json`, if it has one, says of its checkpoint.
        benchmarks: of the validation, whose metrics `trainer.best_metric` may be.

    Raises:
        InputError: unusable tables, a metric that nothing gives, or a model that cannot be loaded.
    """
    import lightning as L

    from lightning_modules.scoring import BASE_FILE, as_recorded

    quiet_lightning()
    L.seed_everything(config.seed, workers=True, verbose=False)
    unit = loss_class(config.model.own_loss).blind_unit
    datamodule = build_datamodule(config.data, config.seed, blind_unit=unit)
    datamodule.setup()
    pairs = datamodule.validation
    types = set(pairs.negatives["negative_type"].to_pylist()) if pairs else set()
    if benchmarks is not None:
        benchmarks.check_names(types)
    check_best_metric(config.trainer, types, benchmarks.metrics() if benchmarks is not None else ())
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
    """Says where the weights are, which validation was best, and how many captions were cut."""
    from experiments.scoring.models import say_cut
    from lightning_modules import read_kept

    say_cut(module)
    folder = Path(config.output_dir)
    for best in read_kept(folder / "checkpoints", missing_ok=True).kept[:1]:
        say(f"Best {config.trainer.best_metric}: {best.value:.3f} after step {best.step} (checkpoint=best reads it)")
    say(f"Trained {config.name}: {folder / WEIGHTS_FILE}")


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

    partial_path(folder / WEIGHTS_FILE).unlink(missing_ok=True)
    for path in (folder / "checkpoints").glob(partial_path(Path("*")).name):
        path.unlink()


def fit(trainer: L.Trainer, module: L.LightningModule, datamodule: L.LightningDataModule, last: Path | None) -> None:
    """Fits, from the checkpoint `last` where there is one, and closes W&B's run whatever happens.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        StoppedError: after the checkpoint that a scheduler's signal asked for.
    """
    from experiments.tracking.summary import training_summary
    from lightning_modules import StoppedError

    done = False
    try:
        # weights_only: a pickled object in a checkpoint could run code
        trainer.fit(module, datamodule, ckpt_path=last, weights_only=True)
        done = True
    except StoppedError:
        mark_preempted(trainer.loggers)
        raise
    except SystemExit:
        raise KeyboardInterrupt from None  # how Lightning ends on Ctrl-C
    finally:
        summary = training_summary(Path(trainer.default_root_dir)) if done and trainer.is_global_zero else {}
        finish_logging(trainer.loggers, failed=not done, summary=summary)


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
