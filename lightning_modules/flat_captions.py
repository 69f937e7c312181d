"""Captions in a flat row, one after the other, for backbones that read each by itself, and back into (B, C) cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datamodules.batch import UNKNOWN, ImageTextBatch


def flat_captions(
    captions: Sequence[Sequence[str]], ids: Sequence[Sequence[int]], cut: Sequence[bool], *, pad_id: int
) -> dict[str, torch.Tensor]:
    """The text inputs of N captions, padded on the right whatever a tokenizer's `padding_side` says.

    Args:
        captions: of B images, ragged.
        ids: token ids of each caption, image by image.
        cut: whether each caption was cut.
        pad_id: id behind a caption's end.

    Returns:
        `input_ids`, `attention_mask` [N, T]; `cell_index` [N], the place b * C + c of a caption in (B, C); `cut` [B],
        how many captions of a row were cut.

    >>> made = flat_captions([["a"], ["b", "c"]], [[5], [6, 7], [8]], [False, True, True], pad_id=0)
    >>> made["input_ids"].tolist(), made["attention_mask"].tolist()
    ([[5, 0], [6, 7], [8, 0]], [[1, 0], [1, 1], [1, 0]])
    >>> made["cell_index"].tolist(), made["cut"].tolist()
    ([0, 2, 3], [0, 2])
    """
    width, length = max(map(len, captions)), max(map(len, ids))
    cells = [row * width + column for row, texts in enumerate(captions) for column in range(len(texts))]
    cell_index = torch.tensor(cells)
    counts = torch.zeros(len(captions), dtype=torch.long)
    return {
        "input_ids": torch.tensor([[*tokens, *[pad_id] * (length - len(tokens))] for tokens in ids]),
        "attention_mask": torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in ids]),
        "cell_index": cell_index,
        "cut": counts.index_add(0, cell_index // width, torch.tensor(cut).long()),
    }


def flat_labels(batch: ImageTextBatch) -> torch.Tensor:
    """[N] labels of the captions of `flat_captions`."""
    # cells that do not exist may hold any label (see `ImageTextBatch`)
    return torch.where(batch.caption_mask, batch.labels, UNKNOWN).flatten()[batch.inputs["cell_index"]]


def to_cells(values: torch.Tensor, batch: ImageTextBatch) -> torch.Tensor:
    """(B, C) from [N], one value for each caption of `flat_captions`; 0 where there is none."""
    # a copy with gradient: it flows back to each caption's value
    cells = values.new_zeros(batch.caption_mask.numel())
    return cells.index_copy(0, batch.inputs["cell_index"], values).view(batch.caption_mask.shape)
