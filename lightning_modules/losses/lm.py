"""LLaVA's next-token loss on the answer, Yes or No and the end token.

Visual instruction tuning (Liu et al., NeurIPS 2023), section 4.2, equation 3: only the assistant's tokens have a loss.
LLaVA-score trains a matching scorer by it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import ImageTextBatch
from lightning_modules.losses.loss import Loss, Report, cell_accuracy, labelled_cells, masked_mean


class LmLoss(Loss):
    """`answer_lm_loss` on a language model's logits; reports the part of cells that are right at score 0.5."""

    reads = "answer_logits"
    blind_unit = "text"

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The mean over labelled cells; `inputs` are `answer_logits`, `answer_ids`, `yes_no_ids` and `match_logits`."""
        answer_logits, blind_logit = inputs["answer_logits"], self.blind_logit(batch)
        if blind_logit is not None:
            answer_logits = with_blind_logit(answer_logits, blind_logit, inputs["yes_no_ids"])
        loss = answer_lm_loss(answer_logits, inputs["answer_ids"], labelled_cells(batch))
        return loss, {"cells/accuracy": cell_accuracy(inputs["match_logits"], batch)}


def with_blind_logit(
    answer_logits: torch.Tensor, blind_logit: torch.Tensor, yes_no_ids: tuple[int, int]
) -> torch.Tensor:
    """(B, C, A, V) float32 answer logits whose z(Yes) - z(No), the match logit, is larger by the blind logit.

    Half is added to Yes and half taken from No, so that the two keep their mean against all other tokens.

    Args:
        answer_logits: (B, C, A, V); the first of the A places is that of Yes or No.
        blind_logit: (B, C).
        yes_no_ids: the tokens of the two answers.
    """
    # float32 by name: where all is half precision, so is what PyTorch makes by default
    moved = torch.zeros(*answer_logits.shape[:3], 2, dtype=torch.float32, device=answer_logits.device)
    moved[:, :, 0] = torch.stack([blind_logit, -blind_logit], dim=-1) / 2
    tokens = torch.tensor(yes_no_ids, device=answer_logits.device)
    return answer_logits.float().index_add(-1, tokens, moved)


def answer_lm_loss(answer_logits: torch.Tensor, answer_ids: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """LLaVA's next-token loss on the answer: mean over its tokens, then over existing cells.

    Every answer has the same number of tokens (Yes or No, and the end token), so this equals LLaVA's mean over all
    answer tokens of the batch.

    Args:
        answer_logits: (B, C, A, V) logits of the token that follows each of A places.
        answer_ids: (B, C, A) the tokens that should follow.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    # in float32: the softmax is over the whole vocabulary
    losses = F.cross_entropy(answer_logits.float().flatten(0, 2), answer_ids.flatten(), reduction="none")
    return masked_mean(losses.view(answer_ids.shape).mean(-1), cell_mask)
