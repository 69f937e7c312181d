"""Losses on the cells of an image-text batch. Pure functions; masked cells never contribute."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` over the cells where `mask` is True; a graph-connected 0 where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def binary_loss(match_logits: torch.Tensor, labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Cross entropy of sigmoid(match logit) against the label, mean over existing cells.

    Args:
        match_logits: (B, C), larger = better match.
        labels: (B, C), 1 true and 0 false; other values only where `cell_mask` is False.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    losses = F.binary_cross_entropy_with_logits(match_logits, labels.to(match_logits.dtype), reduction="none")
    return masked_mean(losses, cell_mask)


def listwise_loss(match_logits: torch.Tensor, labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Cross entropy of picking a positive out of its row: a true caption against the image's false ones.

    For each positive, -log softmax of its logit among itself and the negatives of its row (the row's other positives
    are no rivals of it), mean over `listwise_terms`; a graph-connected 0 where there is none.

    Args:
        match_logits: (B, C), larger = better match.
        labels: (B, C), 1 true and 0 false; other values only where `cell_mask` is False.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    terms, negatives = listwise_terms(labels, cell_mask), cell_mask & (labels == 0)
    # a row of -inf alone would have a gradient of nan
    filler = torch.where(negatives.any(-1, keepdim=True), -torch.inf, 0.0)
    rivals = torch.where(negatives, match_logits, filler).logsumexp(-1, keepdim=True)
    # log(e^z + e^rivals) - z
    return masked_mean(F.softplus(rivals - torch.where(terms, match_logits, 0.0)), terms)


def listwise_terms(labels: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """(B, C) bool: the terms of `listwise_loss`, existing positives with an existing negative in their row."""
    return cell_mask & (labels == 1) & (cell_mask & (labels == 0)).any(-1, keepdim=True)


def answer_lm_loss(answer_logits: torch.Tensor, answer_ids: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """LLaVA's next-token loss on the answer: mean over its tokens, then over existing cells.

    Every answer has the same number of tokens (Yes or No, and the end token), so this equals LLaVA's mean over all
    answer tokens of the batch.

    Args:
        answer_logits: (B, C, A, V) logits of the token that follows each of A places.
        answer_ids: (B, C, A) the tokens that should follow.
        cell_mask: (B, C) bool, the cells that exist and have a label.
    """
    losses = F.cross_entropy(answer_logits.float().flatten(0, 2), answer_ids.flatten(), reduction="none")
    return masked_mean(losses.view(answer_ids.shape).mean(-1), cell_mask)
