"""What a backbone says about itself, beside how it scores and learns: where it loads from, how it is saved, its card.

Code outside a backbone's file never compares names of backbones: it asks these attributes and methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import PreTrainedModel

from lightning_modules.backbones.published import commit_of, load_processor, load_published
from lightning_modules.backbones.settings import BackboneTraits
from lightning_modules.base import AlignmentModule


@dataclass(frozen=True)
class CardText:
    """What the model card of an exported scorer says of its backbone.

    Attributes:
        title: what the scorer is, in a few words.
        logit: what the match logit is.
        score: what the score is, and its range.
        pipeline_tag: the hub's name of what the model does.
        limit: what this backbone cannot, in a sentence.
        code: Jinja template of Python that scores with Transformers alone: it defines `match_logit(image, caption)` and
            `score(image, caption)`. It sees the `card`, the `settings` in `scorer.json`, and `values`; the filter
            `python` writes a value as a literal. It sets `model_class` and `arguments` (of `from_pretrained`, "" or
            ending in ", ") and includes "card_base.py.j2", which loads `model`.
        values: what the template reads beside the settings, name -> value.
    """

    title: str
    logit: str
    score: str
    pipeline_tag: str
    limit: str
    code: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Backbone(BackboneTraits, AlignmentModule):
    """An `AlignmentModule` around a Transformers model that is loaded, built tiny, exported and described by its class.

    A subclass takes `(model, processor, **arguments)`, the arguments of its `Settings`, and keeps `processor`, an
    `encoder` with `max_text_tokens` and `long_captions`, and a `network` whose one child is the model. What a
    configuration has to know of it are its `BackboneTraits`.

    Attributes:
        model_class: the Transformers class.
        encodes_apart: whether `encode_images` and `encode_texts` are there: match logits are products of features, and
            `logit_offset` more.
        notes: what people should know of how it was loaded, each one line.
        licences: start of a base's name on the hub -> its licence, by the hub's name and for people.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    encodes_apart: ClassVar[bool] = False
    licences: ClassVar[Mapping[str, tuple[str, str]]] = {}
    notes: tuple[str, ...] = ()
    processor: Any

    @classmethod
    def model_types(cls) -> tuple[str, ...]:
        """What Transformers calls its models in `config.json`."""
        config_class: Any = cls.model_class.config_class
        return (str(config_class.model_type),)

    @classmethod
    def load_model(
        cls, checkpoint: str | Path, settings: Any, *, dtype: torch.dtype | str = "float32"
    ) -> tuple[Any, Any]:
        """The Transformers model and processor of a published checkpoint, safetensors only.

        Args:
            checkpoint: hub name or folder.
            settings: of this backbone's class.
            dtype: of the weights; as saved for "auto".

        Raises:
            OSError: there is no such checkpoint, or the hub cannot be reached.
            ValueError: it is of another kind, or incomplete.
        """
        revision = settings.revision
        model = load_published(cls.model_class, checkpoint, dtype=dtype, revision=revision)
        return model, load_processor(checkpoint, revision=commit_of(model.config) or revision)

    @classmethod
    @abstractmethod
    def tiny(cls, settings: Any, captions: Iterable[str], processor: Any | None) -> tuple[Any, Any]:
        """A Transformers model of `settings.tiny` with random weights, and its processor; seed torch first.

        Args:
            settings: of this backbone's class.
            captions: words for a tokenizer.
            processor: a saved one to use instead of training a tokenizer.
        """

    @classmethod
    @abstractmethod
    def card_text(cls, settings: Mapping[str, Any]) -> CardText:
        """What a model card says of this backbone.

        Args:
            settings: `scorer_settings` of the scorer.
        """

    def scorer_settings(self) -> dict[str, Any]:
        """What a score depends on beside weights and processor: the `scorer_keys`, as they are in force."""
        return {"max_text_tokens": self.encoder.max_text_tokens, "long_captions": self.encoder.long_captions}

    def to_transformers(self) -> PreTrainedModel:
        """The Transformers model, in the shapes of its own format."""
        # one child: what else the wrapper holds (a temperature) is a parameter and no module
        (model,) = self.network.children()
        assert isinstance(model, PreTrainedModel)
        return model

    def commit(self) -> str | None:
        """The commit on the hub that the published weights are of; None where they are of no hub."""
        # not by `to_transformers`, which may change shapes
        (model,) = self.network.children()
        return commit_of(model.config)  # type: ignore[arg-type]

    def plain_processor(self) -> Any:
        """The processor that, alone, makes the scorer's inputs."""
        return self.processor

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[n, D] features of length 1 of images without captions, where `encodes_images`."""
        raise NotImplementedError(f"{self.backbone} reads an image together with its caption")

    @property
    def logit_offset(self) -> float:
        """What match logits have beside the products of features, where `encodes_apart`."""
        return 0.0

    def encode_images(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features of what `encoder.image_inputs` gives, where `encodes_apart`.

        Their products with `encode_texts`, and `logit_offset`, are the match logits: a scale is among them.
        """
        raise NotImplementedError(f"{self.backbone} reads an image together with its caption")

    def encode_texts(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, D] features of what `encoder.text_inputs` gives, where `encodes_apart`."""
        raise NotImplementedError(f"{self.backbone} reads an image together with its caption")


def card_code(name: str) -> str:
    """The template of that name in `card_code/`."""
    return (Path(__file__).parent / "card_code" / f"{name}.py.j2").read_text(encoding="utf-8")
