"""Shared-prefix packing: the captions of one image as branches of one sequence behind one image prefix.

Each branch sees the prefix and itself, at the positions it would have alone, so every logit equals that of a separate
sequence up to rounding, while the vision tower and the prefix run once per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

PREFIX_SEGMENT, PADDING_SEGMENT = 0, -1
PACKABLE = {"full_attention", "sliding_attention"}
"""Kinds of layers whose state of a token depends on no other branch; recurrent ones read the row as one sequence."""


def shared_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The ids that all sequences start with.

    >>> shared_prefix([[7, 8, 1], [7, 8, 2, 3]])
    [7, 8]
    """
    length = 0
    for ids in zip(*sequences, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return list(sequences[0][:length])


@dataclass(frozen=True)
class Sequences:
    """What N packed sequences are made of, one entry each.

    Attributes:
        prefixes: token ids that the branches of a sequence share.
        positions: [R, P] of a prefix, on R axes.
        branches: for each caption the ids that follow the prefix: the rest of its prompt, and those of its answer.
    """

    prefixes: list[Sequence[int]] = field(default_factory=list)
    positions: list[torch.Tensor] = field(default_factory=list)
    branches: list[Sequence[tuple[Sequence[int], Sequence[int]]]] = field(default_factory=list)

    def add(
        self, prefix: list[int], positions: torch.Tensor, branches: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> None:
        """Appends a sequence."""
        self.prefixes.append(prefix)
        self.positions.append(positions)
        self.branches.append(branches)


def pack_branches(sequences: Sequences, pad_id: int) -> dict[str, torch.Tensor]:
    """Lays out N packed sequences, each a prefix followed by its branches.

    Args:
        sequences: N, at least one.
        pad_id: id for cells behind a sequence's end; never attended to.

    Returns:
        `input_ids`, `segment_ids` [N, S] (segment 0 is the prefix, 1..C the branches, -1 padding), `position_ids`
        [R, N, S], `answer_cells` [N, S] (True where an answer's token stands) and `answer_index` (N, C): where in the
        sequence a branch's last prompt token lies (0 where there is no branch).

    >>> one = Sequences([[7, 8]], [torch.tensor([[0, 1]])], [[([1], [2]), ([3], [])]])
    >>> packed = pack_branches(one, pad_id=0)
    >>> packed["input_ids"].tolist(), packed["position_ids"].tolist()
    ([[7, 8, 1, 2, 3]], [[[0, 1, 2, 3, 2]]])
    >>> packed["segment_ids"].tolist(), packed["answer_index"].tolist()
    ([[0, 0, 1, 1, 2]], [[2, 4]])
    """
    rows = list(zip(sequences.prefixes, sequences.positions, sequences.branches, strict=True))
    # one length for the batch, that of the longest row
    length = max(len(prefix) + sum(len(a) + len(b) for a, b in branches) for prefix, _, branches in rows)
    size = (len(rows), length)
    input_ids = torch.full(size, pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(sequences.positions[0]), *size), dtype=torch.long)
    segment_ids = torch.full(size, PADDING_SEGMENT, dtype=torch.long)
    answer_cells = torch.zeros(size, dtype=torch.bool)
    answer_index = torch.zeros((len(rows), max(len(branches) for *_, branches in rows)), dtype=torch.long)
    for row, (prefix, positions, branches) in enumerate(rows):
        end = len(prefix)
        input_ids[row, :end] = torch.tensor(prefix)
        position_ids[:, row, :end] = positions
        segment_ids[row, :end] = PREFIX_SEGMENT
        # as if the branch stood alone behind the prefix: rotary positions decide, not places in the row
        following = int(positions.max()) + 1
        for column, (prompt, answer) in enumerate(branches):
            start, end = end, end + len(prompt) + len(answer)
            input_ids[row, start:end] = torch.tensor([*prompt, *answer])
            position_ids[:, row, start:end] = torch.arange(following, following + end - start)
            segment_ids[row, start:end] = column + 1
            answer_cells[row, start + len(prompt) : end] = True
            # the logits that predict the answer are those of the last prompt token
            answer_index[row, column] = start + len(prompt) - 1
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "segment_ids": segment_ids,
        "answer_cells": answer_cells,
        "answer_index": answer_index,
    }


def branch_attention_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """Who may attend to whom: (B, 1, S, S) bool, True = may, from `segment_ids` [B, S].

    A token sees earlier tokens of the prefix and of its own branch. Padding sees itself only, which keeps its softmax
    finite; nothing sees padding.
    """
    query, key = segment_ids.unsqueeze(2), segment_ids.unsqueeze(1)
    # causal by place: within prefix and branch that is the order of positions too
    causal = torch.ones(segment_ids.shape[1], segment_ids.shape[1], dtype=torch.bool, device=segment_ids.device).tril()
    related = (key == query) | (key == PREFIX_SEGMENT)
    allowed = causal & related & (key != PADDING_SEGMENT) & (query != PADDING_SEGMENT)
    return (allowed | torch.eye(segment_ids.shape[1], dtype=torch.bool, device=segment_ids.device)).unsqueeze(1)
