"""A scorer from its settings: published weights or a tiny model, a processor, and the backbone's class around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lightning_modules.backbones.backbone import Backbone
    from lightning_modules.backbones.settings import ModelSettings


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `captions` teach a tiny model's tokenizer; a `processor_folder` holds a saved processor, a run's own, which comes
    before that of a checkpoint and instead of such a tokenizer; `dtype` is that of published weights, whatever they
    were saved in ("auto": as they were saved). `loaded`: a Transformers model and its processor, instead of all that.
    """

    captions: Iterable[str] = ()
    processor_folder: Path | None = None
    dtype: torch.dtype | str = "float32"
    loaded: tuple[Any, Any] | None = None


def build_backbone(settings: ModelSettings, source: Source, optim: Mapping[str, Any]) -> Backbone:
    """The scorer that `settings` describe.

    Args:
        settings: of the backbone's own class.
        source: of weights and tokenizer.
        optim: keyword arguments of `AlignmentModule`.

    Raises:
        InputError: a checkpoint that cannot be loaded, or settings that do not fit it.
    """
    from huggingface_hub.errors import StrictDataclassError

    from datamodules.batch import InputError
    from lightning_modules.backbones.table import backbone_class

    try:
        backbone: Any = backbone_class(settings.backbone)
        model, processor = source.loaded or _load(backbone, settings, source)
        return backbone(model, processor, **settings.arguments(), **optim)
    # an InputError is a ValueError, and says all that is needed
    except InputError:
        raise
    # StrictDataclassError: config.json has a value of a wrong type (huggingface_hub's own class, no ValueError)
    except (OSError, ValueError, StrictDataclassError) as error:
        text = " ".join(str(error).split())
        raise InputError(text if text.startswith(("model.", "`model.")) else f"model: {text}") from error


def _load(backbone: type[Backbone], settings: ModelSettings, source: Source) -> tuple[Any, Any]:
    """The Transformers model and its processor."""
    from lightning_modules.backbones.published import load_processor

    # a run's own first: the rows of a tiny model's embeddings belong to its tokenizer
    saved = source.processor_folder and load_processor(source.processor_folder, local_files_only=True)
    if settings.checkpoint is None:
        return backbone.tiny(settings, source.captions, saved)
    model, processor = backbone.load_model(settings.checkpoint, settings, dtype=source.dtype)
    return model, saved or processor
