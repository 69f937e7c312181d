"""What travels from the data to a backbone: one row per image, and the batch made of such rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from PIL import Image

# handed on: a backbone imports nothing else of `negatives`
from negatives.tables import DAMAGED as DAMAGED
from negatives.tables import InputError

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class ImageTextRow:
    """One image with its captions: a row of a batch before it becomes tensors.

    `labels` are 1 (true), 0 (false) or -1 (unknown: scoring); `negative_types` is "" for what is no negative.
    `blind_logit` has a number for each caption, or is None: see `ImageTextBatch`.
    """

    image_id: str
    image: Image.Image
    text_ids: list[str]
    captions: list[str]
    labels: list[int]
    negative_types: list[str]
    blind_logit: list[float] | None = None


@dataclass
class ImageTextBatch:
    """B images with up to C texts each; every (B, C) field has the images on its first axis.

    `caption_mask` alone says which cells exist. In a cell that does not, `labels` is -1 and the strings are "", but
    nothing may rely on that.

    `blind_logit` (B, C) float32 is what joins match logits in a training with `data.debias`: what the text alone says,
    see `datamodules.debias`. It is None where that was not asked for, and 0 in cells that do not exist.
    """

    image_ids: list[str]
    text_ids: list[list[str]]
    labels: torch.Tensor
    caption_mask: torch.Tensor
    negative_type: list[list[str]]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    blind_logit: torch.Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageTextBatch:
        """The same batch with its tensors on `device` (Lightning calls this)."""
        moved = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.inputs.items()}
        blind_logit = None if self.blind_logit is None else self.blind_logit.to(device, non_blocking=non_blocking)
        return replace(
            self,
            labels=self.labels.to(device, non_blocking=non_blocking),
            caption_mask=self.caption_mask.to(device, non_blocking=non_blocking),
            inputs=moved,
            blind_logit=blind_logit,
        )


class CaptionTooLongError(InputError):
    """A caption has more tokens than its scorer reads, where that is an error (model.long_captions)."""

    @classmethod
    def of(cls, caption: str, tokens: int, limit: int) -> CaptionTooLongError:
        """The error about a caption; made from its message alone, since loader workers hand errors over as text."""
        shown = caption if len(caption) <= 60 else f"{caption[:60]}..."
        return cls(
            f"The caption {shown!r} has {tokens} tokens, the scorer reads {limit}; shorten it, or set "
            "model.long_captions=truncate."
        )


class Encoder(Protocol):
    """A backbone's preprocessing: images and captions in, the tensors of `ImageTextBatch.inputs` out."""

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> dict[str, torch.Tensor]: ...


Collator = Callable[[Sequence[ImageTextRow]], ImageTextBatch]


def collate_rows(rows: Sequence[ImageTextRow], encoder: Encoder) -> ImageTextBatch:
    """Pads rows to the longest one and lets the backbone's `encoder` make the tensors.

    Args:
        rows: B rows with 1..C captions each.
        encoder: called once with the B images and the ragged captions and labels.

    Returns:
        A batch of shape (B, C), C the largest number of captions among the rows.
    """
    # by the longest row of this batch; what a row lacks is masked
    width = max(len(row.captions) for row in rows)
    labels = torch.full((len(rows), width), UNKNOWN, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        labels[index, : len(row.labels)] = torch.tensor(row.labels)
        mask[index, : len(row.captions)] = True
    return ImageTextBatch(
        image_ids=[row.image_id for row in rows],
        # lists of strings stay on the CPU: they name texts in errors, metrics and tables
        text_ids=[row.text_ids + [""] * (width - len(row.text_ids)) for row in rows],
        labels=labels,
        caption_mask=mask,
        negative_type=[row.negative_types + [""] * (width - len(row.negative_types)) for row in rows],
        inputs=encoder([row.image for row in rows], [row.captions for row in rows], [row.labels for row in rows]),
        blind_logit=_blind_logit(rows, width),
    )


def _blind_logit(rows: Sequence[ImageTextRow], width: int) -> torch.Tensor | None:
    """(B, width), None where no row has any: a training asks for all of them or for none."""
    given = [row.blind_logit for row in rows]
    if all(logits is None for logits in given):
        return None
    padded = [(logits or []) + [0.0] * (width - len(logits or [])) for logits in given]
    return torch.tensor(padded, dtype=torch.float32)
