"""What differs between families of chat VLMs beside their Transformers model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image

from datamodules.batch import InputError
from lightning_modules.backbones.packing import PADDING_SEGMENT, branch_attention_mask
from lightning_modules.backbones.published import reading

if TYPE_CHECKING:
    from lightning_modules.backbones.chat.prompt import YesNoPrompt


class Family:
    """A family whose tokens have one position each and see what is in front of them; others override a method.

    Args:
        config: of the model.

    Attributes:
        unpackable: why the captions of an image cannot share its tokens; "" where they can.
        windowed: whether `packed_mask` keeps to the windows of sliding layers; else a sequence has to fit in one.
        caps_logits: whether the model's head caps logits by the text configuration's `final_logit_softcapping`.
        template: of a prompt, see `YesNoPrompt`, where the checkpoint brings no chat template; "" where it must.
        child: what the network calls the Transformers model; part of the names in checkpoints.
        image_id: the token that stands for a feature of the image.
        reads: names of what the vision tower reads of an image.
    """

    unpackable: ClassVar[str] = ""
    windowed: ClassVar[bool] = False
    caps_logits: ClassVar[bool] = False
    template: ClassVar[str] = ""
    child: ClassVar[str] = "vlm"
    reads: frozenset[str]

    def __init__(self, config: Any):
        self.image_id: int = config.image_token_id

    def fitted(self, processor: Any, vlm: Any, max_image_tokens: int | None = None) -> Any:
        """The processor as this model needs it.

        Args:
            processor: of the checkpoint.
            vlm: the model.
            max_image_tokens: most tokens of an image; the processor's own bound where None.

        Raises:
            ValueError: it is another model's, or it cannot keep to such a bound.
        """
        parameters = inspect.signature(vlm.model.get_image_features).parameters
        self.reads = frozenset(parameters)
        count = len(processor.tokenizer)
        if not 0 <= self.image_id < count:
            raise ValueError(
                f"image_token_id must be one of the tokenizer's {count} tokens, got {self.image_id} (config.json)."
            )
        with reading("the image processor's settings"):
            # not by `images`, which blames the image
            encoded = self._encoded(processor, [Image.new("RGB", (32, 32))])
            (text,) = _image_texts(encoded)
        wanted = [
            name for name, one in parameters.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD
        ]
        if missing := [name for name in wanted if name not in encoded]:
            raise ValueError(
                f"The processor makes no {missing[0]} of an image, which the model reads; use the processor that the "
                "checkpoint was trained with."
            )
        token = processor.tokenizer.convert_ids_to_tokens(self.image_id)
        if token is None or token not in text:
            raise ValueError(
                f"The processor writes {text[:40]!r} for an image, and the model reads its token {self.image_id}, "
                f"which is {token!r} to the tokenizer; use the processor that the checkpoint was trained with."
            )
        return processor if max_image_tokens is None else self.bounded(processor, max_image_tokens)

    def bounded(self, processor: Any, max_image_tokens: int) -> Any:
        """The processor with a bound on the tokens of an image.

        Raises:
            ValueError: it has none that a number of tokens could set.
        """
        raise ValueError(
            "model.max_image_tokens must not be given for this checkpoint: its processor cuts images into tiles of a "
            "fixed size, or makes all of one size; change its settings instead."
        )

    def plain_processor(self, processor: Any) -> Any:
        """The processor that, alone, makes what `images` makes."""
        return processor

    def check_prompt(self, prompt: YesNoPrompt) -> None:
        """Refuses a prompt that the model cannot read.

        Raises:
            ValueError: says what it lacks.
        """

    def images(self, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """What the vision tower reads of the images, and for each the text that stands for it in a prompt.

        Raises:
            InputError: the processor cannot read an image; names its size.
        """
        try:
            encoded = self._encoded(processor, images)
        except ValueError as error:  # what a processor cannot read is found out by its own rules
            if len(images) > 1:
                for image in images:
                    self.images(processor, [image])
                raise
            width, height = images[0].size
            raise InputError(
                f"an image of {width} x {height} pixels cannot be read by the image processor ({error}); leave it out, "
                "or cut it."
            ) from error
        return {name: value for name, value in encoded.items() if name in self.reads}, _image_texts(encoded)

    def _encoded(self, processor: Any, images: Sequence[Image.Image]) -> Mapping[str, Any]:
        encoded: Mapping[str, Any] = processor(
            images=[[image.convert("RGB")] for image in images],
            text=[processor.image_token] * len(images),
            # of the text only what stands for the image is taken, and not every tokenizer can pad
            images_kwargs={"return_tensors": "pt"},
            return_text_replacement_offsets=True,
        )
        return encoded

    def positions(self, prefix: Sequence[int], pixels: Mapping[str, torch.Tensor], index: int) -> torch.Tensor:
        """[R, P] positions of the tokens of a prefix on R axes; what is behind it goes on from the largest.

        Args:
            prefix: P token ids.
            pixels: of `images`.
            index: which of the images stands in the prefix.
        """
        return torch.arange(len(prefix)).unsqueeze(0)

    def packed_mask(
        self, segment_ids: torch.Tensor, position_ids: torch.Tensor, image_cells: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is added to attention weights: (N, 1, S, S), 0 where a token may look; or such a mask by type of layer.

        Args:
            segment_ids: [N, S], see `pack_branches`.
            position_ids: [R, N, S].
            image_cells: [N, S], True where a feature of the image stands.
            dtype: of the hidden states.
        """
        return additive(branch_attention_mask(segment_ids), dtype)

    def plain_arguments(
        self, segment_ids: torch.Tensor, answer_cells: torch.Tensor, image_cells: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Arguments of the model for N sequences with one caption each, behind which padding stands."""
        return {"attention_mask": (segment_ids != PADDING_SEGMENT).long()}


def _image_texts(encoded: Mapping[str, Any]) -> list[str]:
    return [replaced["replacement"] for (replaced,) in encoded["text_replacement_offsets"]]


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token may look, and the lowest number elsewhere: eager attention would add a mask of bools as 1."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
