"""Where configuration stops: resolved schemas in, objects made of plain keyword arguments out."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.schemas import (
    DataConfig,
    ExperimentConfig,
    LoggingConfig,
    OptimConfig,
    PairsConfig,
)
from experiments.config.text_schemas import GenerateConfig, JudgeConfig
from experiments.runs.progress import is_terminal
from lightning_modules.backbones.settings import ModelSettings
from lightning_modules.scoring.runs import PROCESSOR_FOLDER, WEIGHTS_FILE
from lightning_modules.settings import field_types
from negatives.tables.captions import InputError

if TYPE_CHECKING:
    import torch

    from datamodules.benchmarks import Pairs
    from datamodules.image_text import ImageTextDataModule
    from lightning_modules.backbones.backbone import Backbone
    from lightning_modules.base import AlignmentModule
    from negatives.judging.linear import Judge
    from negatives.writers.write import BatchWriter, Writer


def build_pairs(config: PairsConfig) -> Pairs:
    """The evaluation pairs that `config` names."""
    from datamodules.benchmarks.own_tables import read_pairs
    from datamodules.benchmarks.sugarcrepe import read_sugarcrepe

    if config.format == "sugarcrepe":
        assert config.annotations is not None
        assert config.image_root is not None
        return read_sugarcrepe(config.annotations, image_root=config.image_root, image_ids=config.image_ids)
    assert config.captions is not None
    assert config.negatives is not None
    return read_pairs(config.captions, config.negatives, image_root=config.image_root, image_ids=config.image_ids)


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
    from datamodules.mixing import Curriculum

    curriculum = config.mixing.curriculum
    return ImageTextDataModule(
        config.captions,
        config.negatives,
        verdicts=config.verdicts,
        subset=config.subset,
        harmonise=config.harmonise,
        image_root=config.image_root,
        neighbours=config.neighbours,
        unit=config.mixing.unit,
        positives_per_row=config.mixing.positives,
        negatives_per_positive=config.mixing.negatives,
        swap_ratio=config.mixing.swap_ratio,
        paraphrase_ratio=config.mixing.paraphrase_ratio,
        image_dropout=config.mixing.image_dropout,
        curriculum=Curriculum(**dataclasses.asdict(curriculum)) if curriculum else None,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        validation=build_pairs(config.validation) if config.validation else None,
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
        dtype: of published weights; as saved where None.
        seed: of what dropout draws.

    Raises:
        InputError: the checkpoint cannot be loaded, or the settings contradict each other.
    """
    from lightning_modules.backbones.build import Source, build_backbone

    _quiet_transformers()
    source = Source(captions, processor_folder, dtype or "auto")
    return build_backbone(model, source, {**_optim_arguments(optim or OptimConfig()), "seed": seed})


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    if not is_terminal():
        transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _optim_arguments(config: OptimConfig) -> dict[str, Any]:
    arguments = dataclasses.asdict(config)
    arguments.pop("gradient_clip")
    return {**arguments, "betas": tuple(arguments["betas"])}


def load_run(folder: Path, *, score: str | None = None) -> tuple[Backbone, ExperimentConfig]:
    """The trained scorer of a run's folder, in eval mode, and the run's configuration.

    Args:
        folder: of the run.
        score: overrules `model.score` of the run: which of the scorer's named scores is the match logit.

    Raises:
        InputError: the folder is no finished run, or its weights do not fit its configuration.
    """
    from experiments.config.load import load_saved
    from lightning_modules.scoring.runs import check_finished, load_trained, weights_dtype

    check_finished(folder)
    config = load_saved(ExperimentConfig, folder / "config.yaml")
    if score is not None:
        if "score" not in field_types(type(config.model)):
            raise InputError(f"score must be left out: a {config.model.backbone} has one score only ({folder}).")
        config = load_saved(ExperimentConfig, folder / "config.yaml", [f"model.score={score}"])
    _quiet_transformers()
    dtype = weights_dtype(config.trainer.precision)
    return load_trained(folder, config.model, dtype=dtype, optim=_optim_arguments(config.optim)), config


def resolve_device(accelerator: str) -> torch.device:
    """The device that an accelerator's name stands for.

    Raises:
        InputError: the machine has none.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    name = accelerator
    if accelerator == "gpu":
        name = "mps" if available["mps"] and not available["cuda"] else "cuda"
    if not available[name]:
        raise InputError(
            f"accelerator={accelerator} needs a GPU and this machine has none; use accelerator=cpu or auto."
        )
    return torch.device(name)


def wandb_logger(
    config: LoggingConfig, *, folder: Path, name: str, job_type: str, settings: Any, run_id: str | None = None
) -> Any | None:
    """Lightning's WandbLogger as configured, or None where W&B is disabled; `run_id` of a run to go on in."""
    if config.wandb == "disabled":
        return None
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name,
        id=run_id,
        save_dir=str(folder),
        offline=config.wandb == "offline",
        project=config.project,
        group=config.group,
        job_type=job_type,
        config=dataclasses.asdict(settings),
        settings=wandb.Settings(console="off", silent=config.wandb == "offline"),
    )


def fingerprint(module: AlignmentModule, model: ModelSettings, run: Path | None) -> dict[str, str]:
    """What a score depends on: the model's configuration, hashes of weights and processor, precision and versions."""
    result = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    result["precision"] = str(next(module.network.parameters()).dtype)
    result["model"] = json.dumps(dataclasses.asdict(model), sort_keys=True)
    if run is not None:
        result["weights"] = file_hash([run / WEIGHTS_FILE])
        result["processor"] = file_hash(sorted((run / PROCESSOR_FOLDER).rglob("*.json")))
    return result


def file_hash(files: Sequence[Path]) -> str:
    """A hash of the files' names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]
