"""PaliGemma and PaliGemma 2: the image's tokens see the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_modules.backbones.chat.family import Family
from lightning_modules.backbones.chat.prompt import TASK_START, YesNoPrompt


class PaliGemma(Family):
    """Image and prompt see each other both ways, the answer is causal (PaliGemma, section 3.1)."""

    unpackable = "its image tokens see the caption"
    windowed = True  # by Transformers itself, since it is not packed
    caps_logits = True
    template = f"{TASK_START}answer en {{question}}\n"  # a task of its pre-training

    def check_prompt(self, prompt: YesNoPrompt) -> None:
        """Refuses a prompt that its processor could not write.

        Raises:
            ValueError: it does not begin with the image and the start token, or does not end a line.
        """
        if prompt.system or not prompt.template.startswith(TASK_START) or not prompt.template.endswith("\n"):
            raise ValueError(
                f"model.template of a PaliGemma must begin with {TASK_START} and end with a line break, as its "
                f"processor writes a prompt, and there is no system message; got {prompt.system + prompt.template!r}."
            )

    def positions(self, prefix: Sequence[int], pixels: Mapping[str, torch.Tensor], index: int) -> torch.Tensor:
        """[1, P], which begin with 1."""
        return super().positions(prefix, pixels, index) + 1

    def plain_arguments(
        self, segment_ids: torch.Tensor, answer_cells: torch.Tensor, image_cells: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Also which tokens are the answer's."""
        plain = super().plain_arguments(segment_ids, answer_cells, image_cells)
        return {**plain, "token_type_ids": answer_cells.long()}
