"""What differs between families of chat VLMs beside their Transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from lightning_modules.backbones.packing import PADDING_SEGMENT, branch_attention_mask
from lightning_modules.backbones.published import reading

NOT_PIXELS = {
    *("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "text_replacement_offsets"),
    *("num_crops", "num_patches", "batch_num_images", "rows", "cols"),
}
"""What processors return beside what a vision tower reads."""


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
    """

    unpackable: ClassVar[str] = ""
    windowed: ClassVar[bool] = False
    caps_logits: ClassVar[bool] = False
    template: ClassVar[str] = ""
    child: ClassVar[str] = "vlm"

    def __init__(self, config: Any):
        self.image_id: int = config.image_token_id

    def fitted(self, processor: Any, vlm: Any) -> Any:
        """The processor as this model needs it.

        Raises:
            ValueError: it is another model's.
        """
        with reading("the image processor's settings"):
            _, (text,) = self.images(processor, [Image.new("RGB", (32, 32))])
        token = processor.tokenizer.convert_ids_to_tokens(self.image_id)
        if token is None or token not in text:
            raise ValueError(
                f"The processor writes {text[:40]!r} for an image, and the model reads its token {self.image_id}, "
                f"which is {token!r} to the tokenizer; use the processor that the checkpoint was trained with."
            )
        return processor

    def images(self, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """What the vision tower reads of the images, and for each the text that stands for it in a prompt."""
        encoded = processor(
            images=[[image.convert("RGB")] for image in images],
            text=[processor.image_token] * len(images),
            padding=True,
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        texts = [replaced["replacement"] for (replaced,) in encoded["text_replacement_offsets"]]
        return {name: value for name, value in encoded.items() if name not in NOT_PIXELS}, texts

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


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a token may look, and the lowest number elsewhere: eager attention would add a mask of bools as 1."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
