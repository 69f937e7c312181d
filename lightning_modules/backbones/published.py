"""Published checkpoints in Transformers' format: safetensors only, no code, and nothing of the model left to chance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoProcessor, PretrainedConfig, PreTrainedModel

from lightning_modules.backbones.chat.processors import (
    check_image_tokens,
    saved_processor_class,
    saved_processor_settings,
    still_processor,
)

Model = TypeVar("Model", bound=PreTrainedModel)
MOST_LAYERS, LARGEST_SIDE = 1000, 8192
"""Of a model, and of the images that it reads: more is an error in a file, or there to take hours and all memory."""
COMMIT = re.compile("[0-9a-f]{40}")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around a library's reader of files that anybody may have written: what it stumbles over becomes one line.

    Args:
        what: is read, for the error.

    Raises:
        OSError: where the reader raises one: a file is missing, or the hub cannot be reached.
        ValueError: in place of anything else.
    """
    try:
        yield
    except BaseException as error:  # readers of damaged files raise whatever they stumble over
        # a panic of Rust, in which tokenizers are read, is no Exception, and its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        kind = OSError if isinstance(error, OSError) else ValueError
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise kind(f"{what} cannot be read ({reason}); copy it anew.") from error


def saved_config(name_or_folder: str | Path, revision: str | None = None) -> dict[str, Any]:
    """What `config.json` of a published checkpoint says.

    Args:
        name_or_folder: hub name, or a folder.
        revision: branch, tag or commit of a hub name; the default branch where None.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: the file is damaged, or a folder is to have a revision.
    """
    if Path(name_or_folder).is_dir():
        if revision is not None:
            raise ValueError(
                f"`model.revision` must be left out, got {revision!r}: {name_or_folder} is a folder, and only a name "
                "on the hub has revisions."
            )
        with reading(f"config.json in {name_or_folder}"):
            saved, _ = PretrainedConfig.get_config_dict(name_or_folder)
    else:
        try:
            saved, _ = PretrainedConfig.get_config_dict(name_or_folder, revision=revision)
        except OSError as error:
            reason = str(error).splitlines()[0]
            at = f" at revision {revision}" if revision else ""
            raise OSError(
                f"there is no folder {name_or_folder}, and no such model on the hub{at} ({reason})"
            ) from error
    # Transformers gives an empty mapping where a folder has no config.json
    if not saved and (Path(name_or_folder) / "adapter_config.json").is_file():
        raise OSError(
            f"{name_or_folder} holds adapters alone, and a whole model is needed; export the run with merge=true."
        )
    if not saved or not isinstance(saved, dict):
        raise OSError(f"{name_or_folder} holds no config.json; give a folder made by save_pretrained, or a hub name.")
    for part in ("text_config", "vision_config"):
        # the class's own defaults would be built, of a model of billions of weights
        if part in saved and not isinstance(saved[part], dict):
            raise ValueError(
                f"{name_or_folder}: {part} must be a mapping, got {saved[part]!r:.40} (config.json); copy it anew."
            )
    return saved


def published_config(
    model_class: type[PreTrainedModel], name_or_folder: str | Path, revision: str | None = None
) -> Any:
    """The configuration of a published checkpoint.

    Args:
        model_class: the Transformers class.
        name_or_folder: hub name, or a folder.
        revision: branch, tag or commit of a hub name; the default branch where None.

    Raises:
        OSError: there is no such checkpoint, or the hub cannot be reached.
        ValueError: the checkpoint is of another kind of model, of more than `MOST_LAYERS`, or a folder is to have a
            revision.
    """
    config_class: Any = model_class.config_class
    saved = saved_config(name_or_folder, revision)
    if saved.get("model_type") != config_class.model_type:
        raise ValueError(
            f"{name_or_folder} is a checkpoint of type {saved.get('model_type')!r}, and {model_class.__name__} reads "
            f"{config_class.model_type!r}; choose the model.backbone that it was made for."
        )
    # the very commit of the file that was just read: a branch may move between two files
    commit = None if Path(name_or_folder).is_dir() else _commit_in_cache(str(name_or_folder), revision)
    with reading(f"config.json in {name_or_folder}"):
        config = config_class.from_pretrained(name_or_folder, revision=commit or revision or "main")
    check_layers(config, str(name_or_folder))
    config._commit_hash = commit  # where older versions of Transformers keep it
    return config


def check_layers(config: Any, name: str) -> None:
    """Refuses more layers than any model has, or none: they are built before a weight of them is looked for.

    Raises:
        ValueError: it is a number of layers that nobody trained.
    """
    for part in (config, *vars(config).values()):
        for key in ("num_hidden_layers", "depth") if isinstance(part, PretrainedConfig) else ():
            layers = getattr(part, key, None)
            # without any, all that is saved of them would be left out
            if isinstance(layers, int) and not 1 <= layers <= MOST_LAYERS:
                raise ValueError(f"{name}: {key} must be from 1 to {MOST_LAYERS}, got {layers}; copy it anew.")


def _commit_in_cache(name: str, revision: str | None) -> str | None:
    """The commit that a revision is, once a file of it lies in the hub's cache."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    commit = Path(path).parent.name if isinstance(path, str) else ""
    return commit if COMMIT.fullmatch(commit) else None


def load_published(
    model_class: type[Model],
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | str,
    config: PretrainedConfig | None = None,
    revision: str | None = None,
) -> Model:
    """A published checkpoint by hub name or folder, in eval mode.

    Args:
        model_class: the Transformers class.
        name_or_folder: hub name, or a folder with `config.json` and safetensors files.
        dtype: of the weights; "auto" as they were saved.
        config: taken instead of the checkpoint's own, `published_config`.
        revision: branch, tag or commit of a hub name; the default branch where None.

    Raises:
        OSError: there is no such checkpoint, it holds no safetensors, or the hub cannot be reached.
        ValueError: the checkpoint is of another kind of model, or its weights leave parameters unset or do not fit.
    """
    config = config if config is not None else published_config(model_class, name_or_folder, revision)
    with reading(f"the weights of {name_or_folder}"):
        loaded: Any = model_class.from_pretrained(
            name_or_folder,
            config=config,
            dtype=dtype,
            revision=commit_of(config) or revision or "main",
            # unpickling weights can run code
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they come back by name and are refused here
            output_loading_info=True,
        )
    model, info = loaded
    missing = sorted(map(str, info["missing_keys"]))
    mismatched = sorted(info["mismatched_keys"], key=str)
    shapes = [f"{name} has shape {tuple(saved)}, the model {tuple(own)}" for name, saved, own in mismatched]
    beyond = _layers_beyond(model, info["unexpected_keys"])
    faults = [
        *[f"{len(missing)} weights are missing ({', '.join(missing[:3])})"] * bool(missing),
        *[f"{len(beyond)} weights are of layers that it does not name ({', '.join(beyond[:3])})"] * bool(beyond),
        *shapes[:3],
    ]
    if faults:
        raise ValueError(f"{name_or_folder} does not fit its own configuration: {'; '.join(faults)}. Copy it anew.")
    return model


def _layers_beyond(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Saved weights that are those of a layer of the model in all but its number: the model would leave it out.

    Others that it does not take are left alone: heads of another task, buffers that older versions saved.
    """
    own = {_without_numbers(name) for name in model.state_dict()}
    return sorted(name for name in map(str, unexpected) if _without_numbers(name) in own)


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".N", name)


def commit_of(config: PretrainedConfig) -> str | None:
    """The commit of the hub that a configuration was read from; None where that was a folder."""
    commit = getattr(config, "_commit_hash", None)
    return commit if isinstance(commit, str) else None


def load_processor(name_or_folder: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Any:
    """The processor of a published checkpoint or of a run, by Transformers' own classes.

    Where nothing is said about code that comes with a checkpoint, Transformers asks on the terminal whether to run it.

    Args:
        name_or_folder: hub name or folder.
        revision: branch, tag or commit of a hub name; the default branch where None.
        local_files_only: never ask the hub.

    Raises:
        OSError: there is none, or the hub cannot be reached.
        ValueError: it is damaged, needs code of its own, has no tokenizer or no image processor, or makes larger images
            than `LARGEST_SIDE`.
    """
    with reading(f"the processor of {name_or_folder} (code beside it is not run)"):
        where = {"local_files_only": local_files_only, "revision": revision or "main"}
        saved = saved_processor_settings(name_or_folder, **where)
        check_image_tokens(saved)
        processor_class: Any = still_processor(saved_processor_class(saved)) or AutoProcessor
        processor = processor_class.from_pretrained(name_or_folder, trust_remote_code=False, **where)
    for part in ("tokenizer", "image_processor"):
        if not hasattr(processor, part):
            raise ValueError(f"the processor of {name_or_folder} has no {part}; copy it anew.")
    for key in ("size", "crop_size"):
        # a mapping, or a class of Transformers that is like one
        sides = dict(getattr(processor.image_processor, key, None) or {})
        # the bounds of those that merge patches (Qwen's) are areas, whatever they are called
        largest = LARGEST_SIDE**2 if hasattr(processor.image_processor, "merge_size") else LARGEST_SIDE
        if any(isinstance(side, int) and side > largest for side in sides.values()):
            raise ValueError(
                f"{key} of the image processor of {name_or_folder} must be at most {largest}, got {sides}."
            )
    return processor
