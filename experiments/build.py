"""Where configuration stops: checked configurations come in, objects made of plain keyword arguments go out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.config.data_schemas import DataConfig, PairsConfig
from experiments.config.evaluation_schemas import SetConfig
from experiments.config.generate_schemas import GenerateConfig
from experiments.config.schemas import ExperimentConfig
from experiments.config.trainer_schemas import OptimConfig
from experiments.runs.progress import is_terminal, say
from experiments.runs.ranks import is_main_process
from lightning_modules import LAST, field_types
from lightning_modules.backbones import ModelSettings
from negatives.tables import InputError

if TYPE_CHECKING:
    import torch

    from datamodules import ImageTextDataModule
    from datamodules.benchmarks import Benchmark, Pairs
    from lightning_modules.backbones import Backbone

Plan = TypeVar("Plan")


def build_pairs(config: PairsConfig) -> Pairs:
    """The evaluation pairs that `config` names."""
    from datamodules.benchmarks import as_pairs, read_benchmark

    benchmark = read_benchmark(
        config.format,
        captions=config.captions,
        negatives=config.negatives,
        annotations=config.annotations,
        image_root=config.image_root,
        image_ids=config.image_ids,
    )
    return as_pairs(benchmark)


def build_benchmark(config: SetConfig) -> Benchmark:
    """The benchmark that `config` names, as far as its images are there."""
    from datamodules.benchmarks import read_benchmark

    return read_benchmark(
        config.format,
        captions=config.captions,
        negatives=config.negatives,
        annotations=config.annotations,
        image_root=config.image_root,
        image_ids=config.image_ids,
        **config.options,
    )


def writer_settings(config: GenerateConfig) -> dict[str, Any]:
    """The keys that the builder of the offline writer takes, as the plain values that its rows keep.

    >>> writer_settings(GenerateConfig(generator="rules", output_dir="negatives", per_type=2))
    {'per_type': 2, 'rules': {'oddest_swap': 1}}
    """
    from negatives.writers import builder_keys

    # a writer is given no key that its builder does not name, so a new writer changes nothing here
    return {
        key: dataclasses.asdict(getattr(config, key)) if dataclasses.is_dataclass(hint) else getattr(config, key)
        for key, hint in builder_keys(config.generator).items()
    }


def plan_of(cls: type[Plan], config: Plan) -> Plan:
    """The plain settings that a configuration inherits, without the files, folders and sections that it adds.

    >>> from experiments.config.filter_schemas import AuditConfig
    >>> from negatives.filtering.plan import AuditPlan
    >>> plan_of(AuditPlan, AuditConfig(output_dir="audit", top=5))
    AuditPlan(bootstrap=200, top=5, seed=0)
    """
    return cls(**{declared.name: getattr(config, declared.name) for declared in dataclasses.fields(cls)})  # type: ignore[arg-type]


def build_datamodule(config: DataConfig, seed: int, *, blind_unit: str | None = None) -> ImageTextDataModule:
    """The data module; call `connect` on it.

    Args:
        config: of the data.
        seed: of the draw and of the order.
        blind_unit: which blind logits the loss takes, see `Loss.blind_unit`.
    """
    from datamodules import Debias, ImageTextDataModule

    debias = Debias(blind_unit or "text", config.debias_strength) if config.debias != "none" else None
    return ImageTextDataModule(
        config.captions,
        config.negatives,
        verdicts=config.verdicts,
        subset=config.subset,
        harmonise=config.harmonise,
        image_root=config.image_root,
        neighbours=config.neighbours,
        mixing=config.mixing,
        debias=debias,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        validation=build_pairs(config.validation) if config.validation else None,
        max_pixels=config.max_pixels,
        seed=seed,
    )


def build_module(
    model: ModelSettings,
    optim: OptimConfig | None = None,
    *,
    captions: Iterable[str] = (),
    processor_folder: Path | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Backbone:
    """A scorer, from published weights or built tiny.

    Args:
        model: which one.
        optim: how to train it; defaults where it only scores.
        captions: words for a tiny model's tokenizer.
        processor_folder: a saved processor to use instead of training a tokenizer.
        dtype: of published weights; float32 where None, whatever they were saved in.
        seed: of what dropout draws.

    Raises:
        InputError: the checkpoint cannot be loaded, or the settings contradict each other.
    """
    from lightning_modules.backbones import Source, build_backbone

    quiet_transformers()
    source = Source(captions, processor_folder, dtype or "float32")
    module = build_backbone(model, source, {**_optim_arguments(optim or OptimConfig()), "seed": seed})
    _print_notes(module)
    return module


def _print_notes(module: Backbone) -> None:
    for note in module.notes if is_main_process() else ():
        say(note)


def quiet_transformers() -> None:
    """No messages of Transformers, and no bars where they would fill a log."""
    from transformers.utils import logging as transformers_logging

    if not is_terminal():  # a bar would fill a job's log with one line for each redraw
        transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _optim_arguments(config: OptimConfig) -> dict[str, Any]:
    arguments = dataclasses.asdict(config)
    # the Trainer clips, not the module; of a tuple OmegaConf makes a list
    arguments.pop("gradient_clip")
    return {**arguments, "betas": tuple(arguments["betas"])}


def load_run(folder: Path, *, score: str | None = None, checkpoint: str = LAST) -> tuple[Backbone, ExperimentConfig]:
    """The trained scorer of a run's folder, in eval mode, and the run's configuration.

    Args:
        folder: of the run.
        score: overrules `model.score` of the run: which of the scorer's named scores is the match logit.
        checkpoint: which of its weights: `last`, the `best` that it kept, or those of a step.

    Raises:
        InputError: the folder is no finished run, or its weights do not fit its configuration.
    """
    from experiments.config.load import load_saved
    from lightning_modules.scoring import check_finished, load_trained, weights_dtype

    check_finished(folder)
    config = load_saved(ExperimentConfig, folder / "config.yaml")
    if score is not None:
        if "score" not in field_types(type(config.model)):
            raise InputError(f"score must be left out: a {config.model.backbone} has one score only ({folder}).")
        # read again, since only the run says whether its backbone has a score to choose
        config = load_saved(ExperimentConfig, folder / "config.yaml", [f"model.score={score}"])
    quiet_transformers()
    # in the precision of the training: another would give other scores
    dtype = weights_dtype(config.trainer.precision)
    optim = _optim_arguments(config.optim)
    module = load_trained(folder, config.model, dtype=dtype, optim=optim, checkpoint=checkpoint)
    _print_notes(module)
    return module, config
