"""Scorers with weights: a run and which of its weights, an exported folder, adapters, a checkpoint's name or folder."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.build import load_run, quiet_transformers
from experiments.config.run_folders import is_run, split_checkpoint
from experiments.runs.fingerprint import file_hash, fingerprint, versions
from experiments.scoring.models import answer_apart, answer_pairs, say_cut
from experiments.scoring.ranks import rank_device
from experiments.scoring.scorer import Engine, Options, Trained
from lightning_modules import LAST, checkpoint_faults, describe_kept, run_label
from negatives.tables import InputError

if TYPE_CHECKING:
    import torch

    from experiments.config.schemas import ExperimentConfig
    from lightning_modules.backbones import Backbone

DTYPES = {"32-true": "float32", "bf16-true": "bfloat16", "16-true": "float16"}
"""Precision in Lightning's words -> the type of the weights."""


def open_model(word: str, options: Options) -> Engine:
    """The scorer of a run, or of a checkpoint in Transformers' or PEFT's format.

    Raises:
        InputError: there is none, it cannot be loaded, or it takes no such setting.
    """
    name, which = split_checkpoint(word)
    folder = Path(name)
    if is_run(folder):
        for fault in checkpoint_faults(which or LAST, ""):
            raise InputError(f"{word}: {fault}.")
        module, experiment = load_run(folder, score=options.score, checkpoint=which or LAST)
        return run_scorer(module, experiment, folder, which or LAST, options)
    from lightning_modules import load_scorer

    if options.score is not None:
        raise InputError(f"score must be left out: {word} is no run, and says by its scorer.json which score it has.")
    quiet_transformers()
    loaded = load_scorer(name, device="cpu", dtype=_dtype(options), revision=which)
    published: Any = loaded.module
    return engine_of(published, folder.name if folder.is_dir() else word, options, {"checkpoint_name": name})


def run_scorer(
    module: Backbone, experiment: ExperimentConfig, folder: Path, checkpoint: str, options: Options
) -> Engine:
    """The scorer of a run that is loaded."""
    import torch

    if (dtype := _dtype(options)) is not None:
        for parameter in module.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    weights = describe_kept(folder, checkpoint)
    about = {"run": experiment.name, "checkpoint": weights}
    scorer = engine_of(module, run_label(experiment.name, weights), options, about)
    # the files too, as `itm score` names them: weights that are missing from a sample of them are among these
    files = fingerprint(module, experiment.model, folder, checkpoint)
    trained = Trained(folder, experiment.data.captions)
    return replace(scorer, fingerprint={**scorer.fingerprint, **files}, trained=trained)


def engine_of(module: Backbone, name: str, options: Options, about: dict[str, Any]) -> Engine:
    """A module as a scorer of the engine, on this rank's device."""
    device = rank_device(options.accelerator)
    found = module_fingerprint(module)
    module.eval().to(device)
    answers = answer_apart if module.encodes_apart else answer_pairs
    return Engine(
        name,
        module.calibrated,
        found,
        partial(answers, module, device),
        partial(_scores, module, device),
        about=about,
        after=partial(say_cut, module),
    )


def module_fingerprint(module: Backbone) -> dict[str, str]:
    """What the scores of a module depend on: versions, precision, settings, and hashes of weights and processor."""
    import json

    from lightning_modules import weights_fingerprint

    with tempfile.TemporaryDirectory() as folder:
        module.processor.save_pretrained(folder)
        processor = file_hash(sorted(path for path in Path(folder).rglob("*") if path.is_file()))
    weights = weights_fingerprint(module.network.named_parameters())
    settings = json.dumps({"backbone": module.backbone, **module.scorer_settings()}, sort_keys=True)
    return {**versions(module), "scorer": settings, "network": weights, "preprocessing": processor}


def _scores(module: Backbone, device: torch.device, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch

    with torch.inference_mode():
        # in float32, in which logits are computed: a score is what `load_scorer` says
        scores = module.score(torch.from_numpy(logits.astype(np.float32)).to(device))
    found: NDArray[np.float64] = scores.cpu().double().numpy()
    return found


def _dtype(options: Options) -> str | None:
    return None if options.precision is None else DTYPES[options.precision]
