"""Published checkpoints in Transformers' format: safetensors only, and nothing of the model left to chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PretrainedConfig, PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def saved_config(name_or_folder: str | Path) -> dict[str, Any]:
    """What `config.json` of a published checkpoint says.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
    """
    try:
        saved, _ = PretrainedConfig.get_config_dict(name_or_folder)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"there is no folder {name_or_folder}, and no such model on the hub ({reason})") from error
    if not saved and (Path(name_or_folder) / "adapter_config.json").is_file():
        raise OSError(
            f"{name_or_folder} holds adapters alone, and a whole model is needed; export the run with merge=true."
        )
    if not saved:
        raise OSError(f"{name_or_folder} holds no config.json; give a folder made by save_pretrained, or a hub name.")
    return saved


def published_config(model_class: type[PreTrainedModel], name_or_folder: str | Path) -> Any:
    """The configuration of a published checkpoint.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: the checkpoint is of another kind of model.
    """
    config_class: Any = model_class.config_class
    saved = saved_config(name_or_folder)
    if saved.get("model_type") != config_class.model_type:
        raise ValueError(
            f"{name_or_folder} is a checkpoint of type {saved.get('model_type')!r}, and {model_class.__name__} reads "
            f"{config_class.model_type!r}; choose the model.backbone that it was made for."
        )
    return config_class.from_pretrained(name_or_folder)


def load_published(
    model_class: type[Model],
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | str,
    config: PretrainedConfig | None = None,
) -> Model:
    """A published checkpoint by hub name or folder, in eval mode.

    Args:
        model_class: the Transformers class.
        name_or_folder: hub name, or a folder with `config.json` and safetensors files.
        dtype: of the weights; "auto" as they were saved.
        config: taken instead of the checkpoint's own, `published_config`.

    Raises:
        OSError: there is no such checkpoint, it holds no safetensors, or the hub cannot be reached.
        ValueError: the checkpoint is of another kind of model, or its weights leave parameters unset or do not fit.
    """
    config = config if config is not None else published_config(model_class, name_or_folder)
    loaded: Any = model_class.from_pretrained(
        name_or_folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # so that they come back by name and are refused here
        output_loading_info=True,
    )
    model, info = loaded
    missing = sorted(map(str, info["missing_keys"]))
    mismatched = sorted(info["mismatched_keys"], key=str)
    shapes = [f"{name} has shape {tuple(saved)}, the model {tuple(own)}" for name, saved, own in mismatched]
    faults = [f"{len(missing)} weights are missing ({', '.join(missing[:3])})"] * bool(missing) + shapes[:3]
    if faults:
        raise ValueError(f"{name_or_folder} does not fit its own configuration: {'; '.join(faults)}. Copy it anew.")
    return model
