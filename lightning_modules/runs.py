"""The folder of a finished training: its settings, its processor and its weights, back as a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.backbones import Source, build_backbone

if TYPE_CHECKING:
    import torch

    from lightning_modules.base import AlignmentModule

CONFIG_FILE, PROCESSOR_FOLDER, WEIGHTS_FILE = "config.yaml", "processor", "weights.safetensors"
SCORER_FILE = "scorer.json"
"""In a folder of `itm export`: see `scorer_file`."""


def check_finished(folder: Path) -> None:
    """That a folder holds weights and a processor.

    Raises:
        InputError: names what it lacks.
    """
    from datamodules.batch import InputError

    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} is no finished run (no {WEIGHTS_FILE}); finish it with `itm train --resume`.")
    if not (folder / PROCESSOR_FOLDER).is_dir():
        raise InputError(f"{folder} lacks its {PROCESSOR_FOLDER}/; copy the whole folder, or train again.")


def load_trained(
    folder: Path, model: Mapping[str, Any], *, dtype: torch.dtype, optim: Mapping[str, Any]
) -> AlignmentModule:
    """The trained scorer of a run's folder, in eval mode.

    Args:
        folder: of a finished run, `check_finished`.
        model: the run's settings, see `build_backbone`.
        dtype: of the published weights that it was trained from.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        InputError: the settings make no scorer, or the weights do not fit it.
    """
    from datamodules.batch import InputError
    from lightning_modules.checkpoint import load_weights

    module = build_backbone(model, Source(processor_folder=folder / PROCESSOR_FOLDER, dtype=dtype), optim)
    published = model.get("checkpoint") is not None
    try:
        load_weights(module.network, folder / WEIGHTS_FILE, trainable_only=published, backbone=module.backbone)
    except ValueError as error:
        raise InputError(str(error)) from error
    return module.eval()


def read_settings(folder: Path) -> tuple[dict[str, Any], str]:
    """The `model` section of a run's `config.yaml` as plain data, and the precision it was trained in.

    Raises:
        InputError: the file cannot be read, or says nothing about a model.
    """
    from omegaconf import OmegaConf

    from datamodules.batch import InputError

    path = folder / CONFIG_FILE
    try:
        # resolved when it was written: nothing of it is looked up in the environment now
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        model, precision = config["model"], config.get("trainer", {}).get("precision", "32-true")
    except Exception as error:  # whatever a damaged file makes the parser stumble over
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no configuration of a run ({reason}); copy it anew.") from None
    if not isinstance(model, dict) or not all(isinstance(key, str) for key in model):
        raise InputError(f"{path}: model must be a mapping with settings, got {model!r}; copy the file anew.")
    return model, str(precision)


def weights_dtype(precision: str) -> torch.dtype:
    """The type that published weights are loaded in: half only where all computation is, whatever they were saved in.

    Args:
        precision: in Lightning's words.
    """
    import torch

    return torch.bfloat16 if precision == "bf16-true" else torch.float32
