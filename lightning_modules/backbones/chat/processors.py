"""Processors for images alone: those of many chat VLMs in Transformers want a video processor, and so torchvision.

The classes are attributes of this module, called as in Transformers: `chat.processors.Qwen3VLProcessor`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.video_processing_utils import BaseVideoProcessor

IN_PLACE = {"SmolVLMProcessor": "Idefics3Processor"}
"""SmolVLM's also wants num2words, to write the times of a video; Idefics3's makes the same text of an image."""
MOST = {"image_seq_length": 2**16, "image_seq_len": 2**16, "num_image_tokens": 2**16, "max_patches": 2**10}
"""Tokens of an image or a tile, and tiles of an image (`max_patches`): more are an error, or take all memory."""
VIDEO = "video_processor"
VIDEO_TYPES = {"Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor"}
"""Processors whose video processor is another model's; Transformers' own table is empty where torchvision is absent."""


def still_processor(name: str) -> type[ProcessorMixin] | None:
    """Transformers' processor class of that name without video; None where it has none of that name or needs no change.

    >>> still_processor("Qwen3VLProcessor").get_attributes()
    ['image_processor', 'tokenizer']
    >>> still_processor("CLIPProcessor")
    """
    if name in IN_PLACE:
        found: type[ProcessorMixin] = getattr(transformers, IN_PLACE[name])
        return found
    known = getattr(transformers, name, None)
    if isinstance(known, type) and issubclass(known, ProcessorMixin) and VIDEO in known.get_attributes():
        return getattr(sys.modules[__name__], name)
    return None


def saved_processor_settings(name_or_folder: str | Path, **where: Any) -> list[dict[str, Any]]:
    """What a checkpoint's files say of its processor, its image processor and its tokenizer, as far as there are any.

    Args:
        name_or_folder: hub name or folder.
        where: `revision` and `local_files_only`.
    """
    found: list[dict[str, Any]] = []
    readers: tuple[Any, ...] = (_processor_config, get_image_processor_config, get_tokenizer_config)
    for read in readers:
        with suppress(OSError):  # there is no such file
            found.append(read(str(name_or_folder), **where))
    return found


def saved_processor_class(saved: Iterable[Mapping[str, Any]]) -> str:
    """What a checkpoint's files call its processor; "" where they do not say.

    >>> saved_processor_class([{}, {"processor_class": "Qwen3VLProcessor"}])
    'Qwen3VLProcessor'
    """
    names = (settings.get("processor_class") for settings in saved)
    return next((name for name in names if isinstance(name, str)), "")


def check_image_tokens(saved: Iterable[Mapping[str, Any]]) -> None:
    """Refuses a processor that would write more tokens for an image than any model reads.

    Raises:
        ValueError: a file says so.
    """
    for config in saved:
        own = config.get("image_processor")
        for settings in (config, own if isinstance(own, dict) else {}):
            for key, most in MOST.items():
                found = settings.get(key)
                if found is not None and not (type(found) is int and 0 < found <= most):
                    raise ValueError(f"{key} must be from 1 to {most}, got {found!r:.40}")


def _processor_config(name: str, **where: Any) -> dict[str, Any]:
    config, _ = ProcessorMixin.get_processor_dict(name, **where)
    return config


def __getattr__(name: str) -> type[ProcessorMixin]:
    # by name, so that an encoder with such a processor can be pickled for a loader's workers
    known = None if name.startswith("_") else getattr(transformers, name, None)
    if not (isinstance(known, type) and issubclass(known, ProcessorMixin) and VIDEO in known.get_attributes()):
        raise AttributeError(name)
    made = type(name, (_Still, known), {"__module__": __name__, "__doc__": f"{name} for images alone."})
    globals()[name] = made
    return made


class _Still:
    """Leaves the video processor out of what is loaded and checked; its settings are saved as they were found."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != VIDEO]  # type: ignore[misc]

    @classmethod
    def get_processor_dict(cls, name: Any, **where: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        settings, rest = super().get_processor_dict(name, **where)  # type: ignore[misc]
        try:
            video, _ = BaseVideoProcessor.get_video_processor_dict(name, **where)
        except OSError:  # it has none
            return settings, rest
        return {**settings, VIDEO: video}, rest

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        settings = {name: value for name, value in processor_dict.items() if name != VIDEO}
        # the video processor is the third argument of each of them
        processor = super().from_args_and_dict([*args, None], settings, **kwargs)  # type: ignore[misc]
        processor.found_video_settings = processor_dict.get(VIDEO, {})
        return processor

    def to_dict(self) -> dict[str, Any]:
        saved: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        name = type(self).__name__
        made = VIDEO_TYPES.get(name, name.replace("Processor", "VideoProcessor"))
        found = {key: value for key, value in self.found_video_settings.items() if key != "image_processor_type"}
        # without a type, AutoProcessor finds no class
        saved[VIDEO] = {"video_processor_type": made, **found}
        return saved

    found_video_settings: Mapping[str, Any] = MappingProxyType({})
    """Of the checkpoint; older ones share them with the image processor."""
