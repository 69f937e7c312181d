"""CE-CLIP's adaptive rank thresholds: how far below its positive a negative of each type has to stay.

Zhang et al., CVPR 2024, section 3 (see `ce_clip`). They make a curriculum: as long as positives are hardly above
negatives, thresholds are small, and they grow as the model learns to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn


def next_rank_thresholds(
    rank_thresholds: torch.Tensor,
    positive_logits: torch.Tensor,
    negative_logits: torch.Tensor,
    types: torch.Tensor,
    *,
    mode: str = "mean",
    upper_bound: float = 10.0,
    anchor_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """The rank thresholds of the next step: how far apart positives and hard negatives of a type were in this one.

    Args:
        rank_thresholds: [K] of this step; a type without a hard negative keeps its own.
        positive_logits, negative_logits: [n] of all ranks' existing hard negatives: their anchors', and their own.
        types: [n] long, in [0, K).
        mode: `mean` difference; `max`, a fifth of the largest one; `fixed` leaves all as they are.
        upper_bound: thresholds are kept in [0, upper_bound].
        anchor_logits: logits of all anchors; where given, their mean stands for the positives of every type, as in the
            official code, also of anchors that have no hard negative of it.

    Returns:
        [K], without gradient.
    """
    if mode == "fixed":
        return rank_thresholds
    following = rank_thresholds.clone()
    # only types with a row: the official code takes the mean of nothing for the others, nan, which its clamp lets
    # through
    for index in types.unique().tolist():
        positives, negatives = positive_logits[types == index], negative_logits[types == index]
        if mode == "max":
            # the official mode `max`, its factor included
            gap = (positives - negatives).amax() / 5
        else:
            # means over rows that differ in number: a caption may have several negatives of a type
            gap = (positives if anchor_logits is None else anchor_logits).mean() - negatives.mean()
        # a negative threshold would ask for less than the right order
        following[index] = gap.clamp(0, upper_bound)
    return following


class RankThresholds(nn.Module):
    """A rank threshold, in logit units, for each negative type that was met.

    Which types there are is only known when a batch names them, so a fresh module knows none and a checkpoint keeps
    them by name (`by_type`, `restore`), not as a buffer whose length would have to fit.

    Args:
        initial: what all begin with.

    Attributes:
        types: names, in the order of `values`.
        values: [K].
    """

    values: torch.Tensor

    def __init__(self, initial: float = 0.0):
        super().__init__()
        self.types: list[str] = []
        self.initial, self.restored = initial, False
        # a buffer moves with the module; not persistent, since `by_type` keeps it by name
        self.register_buffer("values", torch.zeros(0), persistent=False)

    def forward(self) -> torch.Tensor:
        """[K] in the order of `types`; later steps do not change it."""
        return self.values.clone()

    def meet(self, types: Iterable[str]) -> None:
        """Appends a threshold for each new type; all ranks must name the same types."""
        new = [name for name in types if name not in self.types]
        if new and self.restored:
            # late: a configuration is checked with the losses, and without Lightning
            from lightning.pytorch.utilities.rank_zero import rank_zero_warn

            rank_zero_warn(
                f"The checkpoint has no rank threshold of {', '.join(new)}; there it begins with {self.initial:g}."
            )
        # appended and not sorted in: the places of known types, which batches are laid out by, stay
        self.types += new
        self.values = torch.cat([self.values, self.values.new_full((len(new),), self.initial)])

    def take(self, values: torch.Tensor) -> None:
        """Replaces all by [K] new values."""
        self.values.copy_(values)

    def reset(self) -> None:
        """Back to the initial value."""
        self.values.fill_(self.initial)

    def by_type(self) -> dict[str, torch.Tensor]:
        """Negative type -> its threshold, a copy without axes on the CPU."""
        return {name: value.clone() for name, value in zip(self.types, self.values.cpu(), strict=True)}

    def restore(self, values: Mapping[str, torch.Tensor]) -> None:
        """Knows these types and no others."""
        self.types, self.restored = list(values), True
        self.values = self.values.new_tensor([float(value) for value in values.values()])
