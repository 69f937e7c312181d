"""The folder of a finished training: its settings, its processor and its weights, back as a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.kept_weights import LAST, find_kept

if TYPE_CHECKING:
    import torch

    from lightning_modules.backbones.backbone import Backbone
    from lightning_modules.backbones.settings import ModelSettings

# torch is imported in functions: commands read these names and a run's settings before they need it
CONFIG_FILE, PROCESSOR_FOLDER, WEIGHTS_FILE = "config.yaml", "processor", "weights.safetensors"
TRANSFORMERS_FILE = "config.json"
"""In a checkpoint in Transformers' format."""
BASE_FILE = "base.json"
"""In a run from a published checkpoint: the fingerprint of its weights that do not train."""
SCORER_FILE = "scorer.json"
"""In a folder of `itm export`: see `scorer_file`."""


def check_finished(folder: Path) -> None:
    """That a folder holds weights and a processor.

    Raises:
        InputError: names what it lacks, or says that another verb wrote it.
    """
    from datamodules.batch import InputError

    is_exported = (folder / SCORER_FILE).is_file()
    if is_exported or (not (folder / WEIGHTS_FILE).is_file() and (folder / TRANSFORMERS_FILE).is_file()):
        raise InputError(
            f"{folder} is {'an exported scorer' if is_exported else 'a checkpoint'}, and no run; give a run's folder, "
            f"or score it by `itm score model.checkpoint={folder}` or `itm evaluate {folder}`."
        )
    if not (folder / WEIGHTS_FILE).is_file() and not _is_training(folder):
        raise InputError(f"{folder} is no folder of a training; give one that `itm train` wrote.")
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} is no finished run (no {WEIGHTS_FILE}); finish it with `itm train --resume`.")
    if not (folder / PROCESSOR_FOLDER).is_dir():
        raise InputError(f"{folder} lacks its {PROCESSOR_FOLDER}/; copy the whole folder, or train again.")


def _is_training(folder: Path) -> bool:
    """Whether a folder's configuration is one of `itm train`, as far as it can be read: it alone has an `optim`."""
    from lightning_modules.plain_yaml import read_plain_yaml

    # not by its error: a reader of YAML has its own for a file that is not there
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        return "optim" in read_plain_yaml(folder / CONFIG_FILE)
    except Exception:  # whatever a damaged file makes the parser stumble over
        return True


def find_weights(folder: Path, checkpoint: str = LAST) -> Path:
    """The file of a run's weights: its `last` ones, the `best` it kept, or those of a step.

    Raises:
        InputError: the run kept none such.
    """
    if checkpoint == LAST:
        return folder / WEIGHTS_FILE
    _, kept = find_kept(folder, checkpoint)
    return folder / "checkpoints" / kept.file


def load_trained(
    folder: Path, model: ModelSettings, *, dtype: torch.dtype, optim: Mapping[str, Any], checkpoint: str = LAST
) -> Backbone:
    """The trained scorer of a run's folder, in eval mode.

    Args:
        folder: of a finished run, `check_finished`.
        model: the run's settings.
        dtype: of the published weights that it was trained from.
        optim: keyword arguments of `AlignmentModule`.
        checkpoint: which of its weights, see `find_weights`.

    Raises:
        InputError: the settings make no scorer, the weights do not fit it, or the checkpoint that they were trained
            from holds other weights now.
    """
    from datamodules.batch import InputError
    from lightning_modules.checkpoint import load_weights

    model = as_recorded(folder, model)
    # from the published weights first, where there are some: the file holds only what trained
    module = build_backbone(model, Source(processor_folder=folder / PROCESSOR_FOLDER, dtype=dtype), optim)
    published = model.checkpoint is not None
    try:
        load_weights(
            module.network,
            find_weights(folder, checkpoint),
            trainable_only=published,
            backbone=module.backbone,
            loss=module.objective,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    if published:
        check_base(folder, module, str(model.checkpoint))
    return module.eval()


def check_base(folder: Path, module: Backbone, checkpoint: str) -> None:
    """That a run's checkpoint is what it was when the run began, as far as its weights do not train.

    Args:
        folder: of the run; one without a `base.json` is not checked.
        module: built from the checkpoint, in the run's precision, and not sharded.
        checkpoint: named in the error.

    Raises:
        InputError: other weights.
    """
    from datamodules.batch import InputError
    from lightning_modules.checkpoint import frozen_fingerprint

    record = read_base(folder)
    if record is None:
        return
    expected = record["frozen"]
    if (found := frozen_fingerprint(module.network)) != expected:
        raise InputError(
            f"{checkpoint} holds other weights ({found}) than when {folder} was trained on it ({expected}); restore "
            "it, or train again."
        )


def base_record(model: ModelSettings, module: Backbone, frozen: str) -> dict[str, Any]:
    """What `base.json` says of a published checkpoint: its name, commit and frozen weights, and what its files decided.

    Args:
        model: the run's settings.
        module: built from the checkpoint.
        frozen: `frozen_fingerprint` of it.
    """
    settings = module.scorer_settings()
    decided = {key: settings[key] for key in model.recorded}
    commit = module.commit()
    return {
        "checkpoint": model.checkpoint,
        "frozen": frozen,
        **({"revision": commit} if commit else {}),
        **({"model": decided} if decided else {}),
    }


def read_base(folder: Path) -> dict[str, Any] | None:
    """The `base.json` of a run; None where it has none.

    Raises:
        InputError: it is damaged.
    """
    import json

    from datamodules.batch import DAMAGED, InputError

    path = folder / BASE_FILE
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["frozen"], str) or not isinstance(content.get("revision", ""), str):
            raise ValueError("frozen and revision must be texts")
        if not isinstance(content.get("model", {}), dict):
            raise ValueError("model must be a mapping")
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({error!r}); copy the run's folder anew.") from None
    return content


def as_recorded(folder: Path, model: ModelSettings) -> ModelSettings:
    """The settings of a run with the commit of its checkpoint, and what this decided, when it began (`base.json`).

    Raises:
        InputError: the file is damaged.
    """
    import dataclasses

    from datamodules.batch import InputError

    if model.checkpoint is None:
        return model
    record = read_base(folder) or {}
    found = record.get("model", {})
    known = {**model.former_values, **{key: value for key, value in found.items() if key in model.recorded}}
    if not all(isinstance(value, str) for value in known.values()):
        raise InputError(
            f"{folder / BASE_FILE}: model must hold texts, got {found!r:.200}; copy the run's folder anew."
        )
    return dataclasses.replace(model, **known, revision=record.get("revision", model.revision))


def read_settings(folder: Path) -> tuple[ModelSettings, str]:
    """The `model` section of a run's `config.yaml`, and the precision it was trained in.

    Raises:
        InputError: the file cannot be read, or describes no model.
    """
    from omegaconf import OmegaConf

    from datamodules.batch import InputError
    from lightning_modules.backbones.model_section import model_settings, without_former_keys
    from lightning_modules.plain_yaml import plain_values

    path = folder / CONFIG_FILE
    try:
        # resolved when it was written: nothing of it is looked up in the environment now
        config: Any = plain_values(OmegaConf.load(path))
        model, precision = config["model"], config.get("trainer", {}).get("precision", "32-true")
    except Exception as error:  # whatever a damaged file makes the parser stumble over
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no configuration of a run ({reason}); copy it anew.") from None
    if not isinstance(model, dict) or not all(isinstance(key, str) for key in model):
        raise InputError(f"{path}: model must be a mapping with settings, got {model!r}; copy the file anew.")
    try:
        return model_settings(without_former_keys(model)), str(precision)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def weights_dtype(precision: str) -> torch.dtype:
    """The type that published weights are loaded in: half only where all computation is, whatever they were saved in.

    Args:
        precision: in Lightning's words.
    """
    import torch

    return torch.bfloat16 if precision == "bf16-true" else torch.float32
