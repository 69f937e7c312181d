"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, and Qwen3.5: positions of three axes (M-RoPE)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_modules.backbones.chat.family import Family


class QwenVl(Family):
    """An image's tokens have its time, row and column; text goes on behind the longer side (Qwen2-VL, section 2.1)."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.merge: int = config.vision_config.spatial_merge_size

    def fitted(self, processor: Any, vlm: Any, max_image_tokens: int | None = None) -> Any:
        """See `Family.fitted`; patches are compared too, whose number would be right by chance."""
        own = processor.image_processor
        found = (getattr(own, "patch_size", None), getattr(own, "merge_size", None))
        wanted = (vlm.config.vision_config.patch_size, self.merge)
        if found != wanted:
            raise ValueError(
                f"patch_size and merge_size of the image processor must be the model's {wanted}, got {found}; use the "
                "processor that the checkpoint was trained with."
            )
        return super().fitted(processor, vlm, max_image_tokens)

    def bounded(self, processor: Any, max_image_tokens: int) -> Any:
        """The processor with another area at most; an image that is long and narrow may keep more tokens."""
        bounded = copy.copy(processor)
        images = bounded.image_processor = copy.copy(processor.image_processor)
        area = max_image_tokens * (images.patch_size * images.merge_size) ** 2
        # called edges, and areas all the same
        edges = {"shortest_edge": min(images.size["shortest_edge"], area), "longest_edge": area}
        images.size = type(images.size)(**edges)
        return bounded

    def positions(self, prefix: Sequence[int], pixels: Mapping[str, torch.Tensor], index: int) -> torch.Tensor:
        """[3, P]: time, row and column."""
        ids = torch.tensor(prefix)
        cells = (ids == self.image_id).nonzero().flatten()
        start, end = int(cells[0]), int(cells[-1]) + 1
        _, height, width = (pixels["image_grid_thw"][index] // torch.tensor([1, self.merge, self.merge])).tolist()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        image = torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1) + start
        before = torch.arange(start).expand(3, -1)
        behind = torch.arange(len(prefix) - end).expand(3, -1) + start + max(height, width)
        return torch.cat([before, image, behind], dim=1)
