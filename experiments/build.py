"""Where configuration stops: resolved schemas in, objects made of plain keyword arguments out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.data_schemas import DataConfig, PairsConfig
from experiments.config.model_schemas import ModelConfig
from experiments.config.schemas import ExperimentConfig
from experiments.config.text_schemas import GenerateConfig, JudgeConfig
from experiments.config.trainer_schemas import OptimConfig
from experiments.runs.progress import is_terminal

if TYPE_CHECKING:
    import torch

    from datamodules.benchmarks import Pairs
    from datamodules.image_text import ImageTextDataModule
    from lightning_modules.base import AlignmentModule
    from negatives.judging.linear import Judge
    from negatives.writers.write import BatchWriter, Writer


def build_pairs(config: PairsConfig) -> Pairs:
    """The evaluation pairs that `config` names."""
    from datamodules.benchmarks.read import read_benchmark

    return read_benchmark(
        config.format,
        captions=config.captions,
        negatives=config.negatives,
        annotations=config.annotations,
        image_root=config.image_root,
        image_ids=config.image_ids,
    )


def build_writer(config: GenerateConfig) -> Writer | BatchWriter:
    """The offline writer that `config` names."""
    if config.generator == "rules":
        from negatives.writers.english.rules import RuleWriter

        return RuleWriter(config.per_type)
    from negatives.writers.ce_clip import CeClipWriter
    from negatives.writers.masked_lm import MaskedLm
    from negatives.writers.negclip import NegClipWriter
    from negatives.writers.tagging import Tagger

    tagged, own = config.spacy, config.ce_clip
    if config.generator == "negclip":
        return NegClipWriter(Tagger(tagged.pipeline, noun_chunks=True, batch_size=tagged.batch_size))
    masked_lm = MaskedLm(own.masked_lm, batch_size=own.batch_size, device=own.device)
    return CeClipWriter(Tagger(tagged.pipeline, batch_size=tagged.batch_size), masked_lm, own.mode)


def build_judges(names: Sequence[str], config: JudgeConfig) -> list[Judge]:
    """The text-only judges of these names."""
    from negatives.judging.linear import bayes_judge, char_judge, surface_judge, word_judge

    def transformer() -> Judge:
        from negatives.judging.transformer import TransformerJudge

        return TransformerJudge(**dataclasses.asdict(config.transformer))

    makers: dict[str, Callable[[], Judge]] = {
        "word": lambda: word_judge(config.word_ngrams),
        "char": lambda: char_judge(config.char_ngrams),
        "surface": surface_judge,
        "bayes": bayes_judge,
        "transformer": transformer,
    }
    return [makers[name]() for name in names]


def build_datamodule(config: DataConfig, seed: int) -> ImageTextDataModule:
    """The data module; call `connect` on it."""
    from datamodules.image_text import ImageTextDataModule

    return ImageTextDataModule(
        config.captions,
        config.negatives,
        verdicts=config.verdicts,
        subset=config.subset,
        harmonise=config.harmonise,
        image_root=config.image_root,
        neighbours=config.neighbours,
        mixing=config.mixing,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        validation=build_pairs(config.validation) if config.validation else None,
        seed=seed,
    )


def build_module(
    model: ModelConfig,
    optim: OptimConfig | None = None,
    *,
    captions: Iterable[str] = (),
    processor_folder: Path | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> AlignmentModule:
    """A scorer, from published weights or built tiny.

    Args:
        model: which one.
        optim: how to train it; defaults where it only scores.
        captions: words for a tiny model's tokenizer.
        processor_folder: a saved processor to use instead of training a tokenizer.
        dtype: of published weights; as saved where None.
        seed: of what dropout draws.

    Raises:
        InputError: the checkpoint cannot be loaded, or the settings contradict each other.
    """
    from lightning_modules.backbones.registry import Source, build_backbone

    _quiet_transformers()
    source = Source(captions, processor_folder, dtype or "auto")
    return build_backbone(dataclasses.asdict(model), source, {**_optim_arguments(optim or OptimConfig()), "seed": seed})


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    if not is_terminal():  # a bar would fill a job's log with one line for each redraw
        transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _optim_arguments(config: OptimConfig) -> dict[str, Any]:
    arguments = dataclasses.asdict(config)
    arguments.pop("gradient_clip")
    return {**arguments, "betas": tuple(arguments["betas"])}


def load_run(folder: Path, *, score: str | None = None) -> tuple[AlignmentModule, ExperimentConfig]:
    """The trained scorer of a run's folder, in eval mode, and the run's configuration.

    Args:
        folder: of the run.
        score: overrules `model.score` of the run: which of the scorer's named scores is the match logit.

    Raises:
        InputError: the folder is no finished run, or its weights do not fit its configuration.
    """
    from experiments.config.load import load_config
    from lightning_modules.scoring.runs import check_finished, load_trained, weights_dtype

    check_finished(folder)
    overrides = [] if score is None else [f"model.score={score}"]
    config = load_config(ExperimentConfig, folder / "config.yaml", overrides, check_files=False)
    _quiet_transformers()
    model, dtype = dataclasses.asdict(config.model), weights_dtype(config.trainer.precision)
    return load_trained(folder, model, dtype=dtype, optim=_optim_arguments(config.optim)), config
