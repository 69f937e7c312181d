"""A scorer in a few lines of Python: `load_scorer(folder).score(image, caption)`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from datamodules.batch import InputError
from lightning_modules.backbones.build import Source, build_backbone
from lightning_modules.backbones.model_section import model_settings
from lightning_modules.backbones.published import saved_config
from lightning_modules.backbones.table import BACKBONES, backbone_class, backbone_of_model_type
from lightning_modules.base import AlignmentModule
from lightning_modules.kept_weights import LAST, checkpoint_faults
from lightning_modules.scoring.runs import (
    CONFIG_FILE,
    SCORER_FILE,
    TRANSFORMERS_FILE,
    WEIGHTS_FILE,
    check_finished,
    load_trained,
    read_settings,
    weights_dtype,
)
from lightning_modules.scoring.scorer import Scorer, find_device
from lightning_modules.scoring.scorer_file import DTYPES, ScorerSettings, find_scorer_settings
from lightning_modules.settings import quoted

ADAPTERS_FILE = "adapter_config.json"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# what the class of a module asks for and scoring does not use
NO_TRAINING = {"lr": 0.0}
KINDS = "the folder of a finished `itm train`, one of `itm export` or in Transformers' format, or a model's hub name"


def load_scorer(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    base: str | os.PathLike[str] | None = None,
    checkpoint: str | int = LAST,
    revision: str | None = None,
) -> Scorer:
    """The scorer of a training, of a checkpoint in Transformers' format, or of adapters that `itm export` wrote.

    A checkpoint's `model_type` says which backbone it is of; a `scorer.json` beside it, as `itm export` writes it, how
    it scores where that is not the backbone's default. Safetensors only; no code is run that comes with a checkpoint.

    Args:
        path_or_name: the folder of a finished `itm train`, a folder in Transformers' format or of adapters that `itm
            export` wrote, or the name of a whole model on the hub.
        device: where to compute ("cuda", "cuda:1", "cpu"); the best there is where None.
        dtype: of the weights ("bfloat16"); where None, float32, or what a run was trained in where that is `bf16-true`,
            or what `scorer.json` says.
        base: hub name or folder of the base of adapters, where it is not where it was in training.
        checkpoint: which weights of a training: `last`, the `best` that it kept, or those of a step that it kept.
        revision: branch, tag or commit of a name on the hub; its default branch where None.

    Raises:
        InputError: a ValueError of one line: there is no such scorer, its training is not finished, its weights are
            damaged or do not fit, adapters were trained on another base, or this machine has no such device.
    """
    device, wanted = find_device(device), find_dtype(dtype)
    if not isinstance(path_or_name, str | os.PathLike) or not os.fspath(path_or_name):
        raise InputError(f"path_or_name must be a path or a name, got {quoted(path_or_name)}; give {KINDS}.")
    folder = Path(path_or_name).expanduser()
    if revision is not None and (folder.exists() or not is_hub_name(path_or_name)):
        raise InputError(f"revision must be left out, got {quoted(revision)}: {folder} is no name on the hub.")
    # adapters first: their folder may hold a config.json too
    if (folder / ADAPTERS_FILE).is_file():
        module = _adapters_module(folder, wanted, base)
    elif (folder / TRANSFORMERS_FILE).is_file() or is_hub_name(path_or_name):
        module = _published_module(folder if folder.is_dir() else Path(path_or_name), wanted, revision)
    elif (folder / CONFIG_FILE).is_file() or (folder / WEIGHTS_FILE).is_file():
        module = _trained_module(folder, wanted, str(checkpoint))
    else:
        found = f"holds neither {CONFIG_FILE} nor {TRANSFORMERS_FILE}" if folder.is_dir() else "is no folder"
        raise InputError(f"{folder} {found}; give {KINDS}.")
    return Scorer(module, device=device)


def is_hub_name(path_or_name: str | os.PathLike[str]) -> bool:
    """Whether this can be a name on the hub: it is like one, and nothing here is called so.

    >>> is_hub_name("openai/clip-vit-base-patch32"), is_hub_name("runs/a/b"), is_hub_name("./clip")
    (True, False, False)
    """
    name = os.fspath(path_or_name)
    return bool(HUB_NAME.fullmatch(name)) and not os.path.exists(name)


def _trained_module(folder: Path, dtype: torch.dtype | None, checkpoint: str) -> AlignmentModule:
    check_finished(folder)
    if faults := [*checkpoint_faults(checkpoint, "")]:
        raise InputError(f"{faults[0]}.")
    model, precision = read_settings(folder)
    module = load_trained(folder, model, dtype=weights_dtype(precision), optim=NO_TRAINING, checkpoint=checkpoint)
    if dtype is not None:  # buffers stay as `from_pretrained` leaves them
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
    return module


def _published_module(name_or_folder: Path, dtype: torch.dtype | None, revision: str | None) -> AlignmentModule:
    name = str(name_or_folder)
    try:
        model_type = saved_config(name, revision).get("model_type")
        settings = find_scorer_settings(name, revision)
    except (OSError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    backbone = backbone_of_model_type(model_type)
    if backbone is None:
        types = ", ".join(dict.fromkeys(name for key in BACKBONES for name in backbone_class(key).model_types()))
        raise InputError(f"{name} is a checkpoint of type {quoted(model_type)}; a scorer is made of {types}.")
    settings = settings or ScorerSettings(backbone)
    if settings.backbone != backbone:
        raise InputError(
            f"{name}: backbone in {SCORER_FILE} must be {backbone}, as {TRANSFORMERS_FILE} says, got "
            f"{settings.backbone}; export the scorer again."
        )
    model = model_settings({"backbone": backbone, "checkpoint": name, "revision": revision, **settings.model})
    return build_backbone(model, Source(dtype=dtype or settings.dtype), NO_TRAINING)


def _adapters_module(folder: Path, dtype: torch.dtype | None, base: str | os.PathLike[str] | None) -> AlignmentModule:
    from lightning_modules.scoring.export import load_adapters

    try:
        model, processor, settings = load_adapters(folder, None if base is None else os.fspath(base), dtype=dtype)
    except (OSError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    # the checkpoint is only named, so that what holds for models from scratch does not apply
    own = model_settings({"backbone": settings.backbone, "checkpoint": str(folder), **settings.model})
    return build_backbone(own, Source(loaded=(model, processor)), NO_TRAINING)


def find_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type of weights by its name.

    Raises:
        InputError: it is none of `DTYPES`.
    """
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in DTYPES.values()):
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {quoted(dtype)}.")
    return DTYPES[dtype]
