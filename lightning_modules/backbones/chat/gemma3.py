"""Gemma 3: layers with windows, and tokens of an image that see each other both ways."""

from __future__ import annotations

from typing import Any

import torch

from lightning_modules.backbones.chat.family import Family, additive
from lightning_modules.backbones.packing import branch_attention_mask


class Gemma3(Family):
    """A token of the image sees all of the image; windows are counted in positions (Gemma 3 report, section 2)."""

    windowed = True

    def __init__(self, config: Any):
        super().__init__(config)
        self.window: int = config.text_config.sliding_window
        if type(self.window) is not int or self.window < 1:
            raise ValueError(f"text_config.sliding_window must be at least 1, got {self.window!r} (config.json).")

    def packed_mask(
        self, segment_ids: torch.Tensor, position_ids: torch.Tensor, image_cells: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """A mask for each type of layer."""
        together = (image_cells.unsqueeze(2) & image_cells.unsqueeze(1)).unsqueeze(1)
        full = branch_attention_mask(segment_ids) | together
        # by position: in a packed row a branch lies further behind its prefix than it stands
        distance = (position_ids[0].unsqueeze(2) - position_ids[0].unsqueeze(1)).unsqueeze(1)
        near = full & (distance < self.window)
        return {"full_attention": additive(full, dtype), "sliding_attention": additive(near, dtype)}

    def plain_arguments(
        self, segment_ids: torch.Tensor, answer_cells: torch.Tensor, image_cells: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Also which tokens are those of the image."""
        plain = super().plain_arguments(segment_ids, answer_cells, image_cells)
        return {**plain, "token_type_ids": image_cells.long()}
