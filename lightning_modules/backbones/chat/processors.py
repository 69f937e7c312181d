"""Processors for images alone: those of many chat VLMs in Transformers want a video processor, and so torchvision.

The classes are attributes of this module, called as in Transformers: `chat.processors.Qwen3VLProcessor`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.models.auto.image_processing_auto import get_image_processor_config
from transformers.models.auto.tokenization_auto import get_tokenizer_config

IN_PLACE = {"SmolVLMProcessor": "Idefics3Processor"}
"""SmolVLM's also wants num2words, to write the times of a video; Idefics3's makes the same text of an image."""
VIDEO = "video_processor"


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


def saved_processor_class(name_or_folder: str | Path, **where: Any) -> str:
    """What a checkpoint's files call its processor; "" where they do not say.

    Args:
        name_or_folder: hub name or folder.
        where: `revision` and `local_files_only`.
    """
    name = str(name_or_folder)
    for read in (_processor_config, get_image_processor_config, get_tokenizer_config):
        try:
            found = read(name, **where).get("processor_class")
        except OSError:  # there is no such file
            continue
        if isinstance(found, str):
            return found
    return ""


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
    """Leaves the video processor out of what is loaded, checked and saved."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != VIDEO]  # type: ignore[misc]

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        # the video processor is the third argument of each of them
        return super().from_args_and_dict([*args, None], processor_dict, **kwargs)  # type: ignore[misc]
