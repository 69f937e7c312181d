"""How each backbone is built from its configuration; a backbone joins by a function and a line in BACKBONES."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.schemas import ModelConfig, TinyConfig

if TYPE_CHECKING:
    import torch

    from lightning_modules.base import AlignmentModule
    from lightning_modules.tiny import TinyShape


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `captions` teach a tiny model's tokenizer, unless a `processor_folder` holds a saved processor; `dtype` is that of
    published weights, "auto" as they were saved.
    """

    captions: Iterable[str]
    processor_folder: Path | None
    dtype: torch.dtype | str


def build_backbone(model: ModelConfig, source: Source, optim: dict[str, Any]) -> AlignmentModule:
    """The scorer that `model` describes.

    Args:
        model: configuration.
        source: of weights and tokenizer.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        OSError, ValueError: the checkpoint cannot be loaded, or the settings contradict each other.
    """
    return BACKBONES[model.backbone](model, source, {**_shared_arguments(model), **optim})


def _shared_arguments(model: ModelConfig) -> dict[str, Any]:
    from lightning_modules.adapters import LoraSettings

    adapter = dataclasses.asdict(model.adapter)
    arguments = {
        "lora": LoraSettings(**{**adapter, "targets": tuple(adapter["targets"])}) if model.tune == "lora" else None,
        "gradient_checkpointing": model.gradient_checkpointing,
        "long_captions": model.long_captions,
    }
    # What is not given is left to the backbone's own default.
    own = ("loss", "score", "train_vision", "max_text_tokens")
    return arguments | {name: value for name in own if (value := getattr(model, name)) is not None}


def _build_llava(model: ModelConfig, source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.llava import LlavaModule, YesNoPrompt, load_llava, prompt_texts
    from lightning_modules.tiny import tiny_llava, tiny_llava_processor

    prompt = YesNoPrompt(**{key: value for key in ("system", "question") if (value := getattr(model, key)) is not None})
    if model.checkpoint is not None:
        llava, processor = load_llava(model.checkpoint, dtype=source.dtype)
    else:
        shape = _shape(model.tiny)
        processor = _saved_processor(source) or tiny_llava_processor(shape, prompt_texts(prompt, source.captions))
        llava = tiny_llava(shape, processor.tokenizer)
    return LlavaModule(llava, processor, prompt=prompt, **arguments)


def _build_blip2(model: ModelConfig, source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.blip2_itm import Blip2ItmModule, ItcItmSettings, load_blip2
    from lightning_modules.tiny_blip2 import tiny_blip2, tiny_blip2_processor

    if model.checkpoint is not None:
        blip2, processor = load_blip2(model.checkpoint, dtype=source.dtype)
    else:
        shape = _shape(model.tiny)
        processor = _saved_processor(source) or tiny_blip2_processor(shape, source.captions)
        blip2 = tiny_blip2(shape, processor.tokenizer)
    return Blip2ItmModule(blip2, processor, itc_itm=ItcItmSettings(**dataclasses.asdict(model.itc_itm)), **arguments)


def _build_clip(model: ModelConfig, source: Source, arguments: dict[str, Any]) -> AlignmentModule:
    from lightning_modules.clip import ClipModule, load_clip
    from lightning_modules.tiny_clip import tiny_clip, tiny_clip_processor

    if model.checkpoint is not None:
        clip, processor = load_clip(model.checkpoint, dtype=source.dtype, activation=model.activation)
    else:
        shape = _shape(model.tiny)
        processor = _saved_processor(source) or tiny_clip_processor(shape, source.captions)
        clip = tiny_clip(shape, processor.tokenizer)
    return ClipModule(clip, processor, **arguments)


def _shape(tiny: TinyConfig) -> TinyShape:
    from lightning_modules.tiny import TinyShape

    return TinyShape(**dataclasses.asdict(tiny))


def _saved_processor(source: Source) -> Any | None:
    from transformers import AutoProcessor

    if source.processor_folder is None:
        return None
    return AutoProcessor.from_pretrained(source.processor_folder, local_files_only=True)


BACKBONES: dict[str, Callable[[ModelConfig, Source, dict[str, Any]], AlignmentModule]] = {
    "llava": _build_llava,
    "blip2": _build_blip2,
    "clip": _build_clip,
}
