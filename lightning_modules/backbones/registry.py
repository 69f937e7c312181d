"""How each backbone is built from plain settings; a backbone joins by a function and a line in BACKBONES."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lightning_modules.backbones.tiny.llava import TinyShape
    from lightning_modules.base import AlignmentModule
    from lightning_modules.losses.ce_clip import CeClipSettings
    from lightning_modules.losses.itc_itm import ItcItmSettings

TUNES = ("full", "lora")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `captions` teach a tiny model's tokenizer; a `processor_folder` holds a saved processor, a run's own, which comes
    before that of a checkpoint and instead of such a tokenizer; `dtype` is that of
    published weights, "auto" as they were saved. `loaded`: a Transformers model and its processor, instead of all that.
    """

    captions: Iterable[str] = ()
    processor_folder: Path | None = None
    dtype: torch.dtype | str = "auto"
    loaded: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Backbone:
    """A family of scorers.

    `build` takes the settings, the source, and keyword arguments of the module that all families share. `model_type` is
    what Transformers calls it in `config.json`. `settings` are the family's own, name -> type (dict: a nested mapping).
    """

    build: Callable[[Mapping[str, Any], Source, dict[str, Any]], AlignmentModule]
    model_type: str
    settings: Mapping[str, type]


def build_backbone(model: Mapping[str, Any], source: Source, optim: Mapping[str, Any]) -> AlignmentModule:
    """The scorer that `model` describes.

    Args:
        model: settings named as the keys of the `model` section of an experiment; what is missing or None is left to
            the backbone's own default.
        source: of weights and tokenizer.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        InputError: an unknown backbone or setting, a checkpoint that cannot be loaded, or settings that contradict each
            other.
    """
    from huggingface_hub.errors import StrictDataclassError

    from datamodules.batch import InputError

    try:
        check_settings(model, "model")
        return BACKBONES[model["backbone"]].build(model, source, {**_shared_arguments(model), **optim})
    except InputError:
        raise
    except (OSError, ValueError, StrictDataclassError) as error:
        text = " ".join(str(error).split())
        raise InputError(text if text.startswith(("model.", "model has")) else f"model: {text}") from error


def check_settings(model: Mapping[str, Any], place: str) -> None:
    """That a backbone is named, and that all settings are known, of their types, and of this backbone and its loss.

    None, and sections that hold their defaults, are fine everywhere: a run's configuration names all there are.

    Raises:
        ValueError: names the first that is not.

    >>> check_settings({"backbone": "clip", "tune": "full", "score": None}, "model")
    >>> check_settings({"backbone": "clip", "tune": 1}, "model")
    Traceback (most recent call last):
    ValueError: model.tune must be str, got 1.
    """
    types = known_settings()
    for name, value in model.items():
        if name not in types:
            raise ValueError(f"{place} has no setting {shown(name)}; known are {', '.join(types)}.")
        # bool is an int to Python
        right = type(value) is types[name] if types[name] in (bool, int) else isinstance(value, types[name])
        if value is not None and not right:
            raise ValueError(f"{place}.{name} must be {types[name].__name__}, got {shown(value)}.")
    for name, choices in (("backbone", tuple(BACKBONES)), ("tune", (*TUNES, None))):
        if model.get(name) not in choices:
            listed = ", ".join(filter(None, choices))
            raise ValueError(f"{place}.{name} must be one of {listed}, got {shown(model.get(name))}.")
    backbone, loss = model["backbone"], model.get("loss")
    for name, value in model.items():
        owner = next((owner for owner, known in BACKBONES.items() if name in known.settings), backbone)
        if name in LOSS_SECTIONS:
            if loss != name and value and LOSS_SECTIONS[name](value) != LOSS_SECTIONS[name](None):
                raise ValueError(f"{place}.{name} belongs to the loss {name}, and loss is {loss}; leave it out.")
        elif value is not None and owner != backbone:
            raise ValueError(f"{place}.{name} belongs to {owner}, and backbone is {backbone}; leave it out.")


def shown(value: object) -> str:
    """A value as an error shows it: on one line, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def known_settings() -> dict[str, type]:
    """All settings of all backbones, name -> type."""
    return {**SHARED, **{name: kind for backbone in BACKBONES.values() for name, kind in backbone.settings.items()}}


def _shared_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    from lightning_modules.adapters import LoraSettings

    lora = _fields(LoraSettings, model.get("adapter"), "model.adapter") if model.get("tune") == "lora" else None
    names = ("loss", "train_vision", "gradient_checkpointing", "max_text_tokens", "long_captions")
    return {"lora": lora, **_given(model, *names)}


def _given(model: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The named settings that are given: keyword arguments, a nested mapping as it is."""
    return {name: model[name] for name in names if model.get(name) is not None}


def _fields(kind: Callable[..., Any], settings: Mapping[str, Any] | None, place: str) -> Any:
    """A dataclass of plain settings; lists become tuples.

    Raises:
        ValueError: a setting that it has not, or of another type than its default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {}
    for name, value in (settings or {}).items():
        if name not in defaults:
            raise ValueError(f"{place} has no setting {shown(name)}; known are {', '.join(defaults)}.")
        value = tuple(value) if isinstance(value, list) else value
        wanted = type(defaults[name])
        right = isinstance(value, (int, float) if wanted is float else wanted)
        right = right and (wanted is bool or not isinstance(value, bool))  # bool is an int to Python
        if not right or (wanted is tuple and not all(isinstance(item, str) for item in value)):
            raise ValueError(f"{place}.{name} must be {wanted.__name__}, got {shown(value)}.")
        given[name] = value
    return kind(**given)


def _build_llava(model: Mapping[str, Any], source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.backbones.llava import LlavaModule, YesNoPrompt, load_llava, prompt_texts
    from lightning_modules.backbones.tiny.llava import tiny_llava, tiny_llava_processor

    prompt = YesNoPrompt(**_given(model, "system", "question"))
    if source.loaded is not None:
        llava, processor = source.loaded
    elif model.get("checkpoint") is not None:
        llava, processor = load_llava(model["checkpoint"], dtype=source.dtype)
        processor = _saved_processor(source) or processor
    else:
        shape = _shape(model)
        processor = _saved_processor(source) or tiny_llava_processor(shape, prompt_texts(prompt, source.captions))
        llava = tiny_llava(shape, processor.tokenizer)
    return LlavaModule(llava, processor, prompt=prompt, **arguments)


def _build_blip2(model: Mapping[str, Any], source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.backbones.blip2_itm import Blip2ItmModule, load_blip2
    from lightning_modules.backbones.tiny.blip2 import tiny_blip2, tiny_blip2_processor

    if source.loaded is not None:
        blip2, processor = source.loaded
    elif model.get("checkpoint") is not None:
        blip2, processor = load_blip2(model["checkpoint"], dtype=source.dtype)
        processor = _saved_processor(source) or processor
    else:
        shape = _shape(model)
        processor = _saved_processor(source) or tiny_blip2_processor(shape, source.captions)
        blip2 = tiny_blip2(shape, processor.tokenizer)
    if model.get("loss") == "itc_itm":
        arguments["loss_settings"] = _itc_itm(model.get("itc_itm"))
    return Blip2ItmModule(blip2, processor, **_given(model, "score"), **arguments)


def _itc_itm(settings: Mapping[str, Any] | None) -> ItcItmSettings:
    from lightning_modules.losses.itc_itm import ItcItmSettings

    return _fields(ItcItmSettings, settings, "model.itc_itm")


def _build_clip(model: Mapping[str, Any], source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.backbones.clip import ClipModule, load_clip
    from lightning_modules.backbones.tiny.clip import tiny_clip, tiny_clip_processor

    if source.loaded is not None:
        clip, processor = source.loaded
    elif model.get("checkpoint") is not None:
        clip, processor = load_clip(model["checkpoint"], dtype=source.dtype, activation=model.get("activation"))
        processor = _saved_processor(source) or processor
    else:
        shape = _shape(model)
        processor = _saved_processor(source) or tiny_clip_processor(shape, source.captions)
        clip = tiny_clip(shape, processor.tokenizer)
    if model.get("loss") == "ce_clip":
        arguments["loss_settings"] = _ce_clip(model.get("ce_clip"))
    return ClipModule(clip, processor, **arguments)


def _ce_clip(settings: Mapping[str, Any] | None) -> CeClipSettings:
    from lightning_modules.losses.ce_clip import CeClipSettings

    return _fields(CeClipSettings, settings, "model.ce_clip")


def _shape(model: Mapping[str, Any]) -> TinyShape:
    from lightning_modules.backbones.tiny.llava import TinyShape

    return _fields(TinyShape, model.get("tiny"), "model.tiny")


def _saved_processor(source: Source) -> Any | None:
    from lightning_modules.backbones.published import load_processor

    if source.processor_folder is None:
        return None
    return load_processor(source.processor_folder, local_files_only=True)


SHARED: dict[str, type] = {
    **{"backbone": str, "checkpoint": str, "tiny": dict, "loss": str, "tune": str, "train_vision": bool},
    **{"adapter": dict, "max_text_tokens": int, "long_captions": str, "gradient_checkpointing": bool},
}
"""Settings that every backbone has."""

LOSS_SECTIONS: dict[str, Callable[[Mapping[str, Any] | None], Any]] = {"itc_itm": _itc_itm, "ce_clip": _ce_clip}
"""Settings of the loss that is called as they are, and what makes a dataclass of them."""

BACKBONES: dict[str, Backbone] = {
    "llava": Backbone(_build_llava, "llava", {"system": str, "question": str}),
    "blip2": Backbone(_build_blip2, "blip-2", {"score": str, "itc_itm": dict}),
    "clip": Backbone(_build_clip, "clip", {"activation": str, "ce_clip": dict}),
}
