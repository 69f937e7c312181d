"""Shared-prefix packing: the captions of one image as branches of one sequence behind one image prefix.

Each branch sees the prefix and itself, at the positions it would have alone, so every logit equals that of a separate
sequence up to rounding, while the vision tower and the prefix run once per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from lightning_modules.precision import linear_in_float32

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


def pack_branches(
    prefix: Sequence[int], rows: Sequence[Sequence[Sequence[int]]], prompt_lengths: Sequence[Sequence[int]], pad_id: int
) -> dict[str, torch.Tensor]:
    """Lays out B packed sequences, each a shared prefix followed by its branches.

    Args:
        prefix: token ids that every sequence of the batch starts with.
        rows: for each image, for each caption, the ids that follow the prefix (ragged).
        prompt_lengths: for each branch, how many of its ids belong to the prompt; ids behind them are answer tokens.
        pad_id: id for cells behind a sequence's end; never attended to.

    Returns:
        `input_ids`, `position_ids`, `segment_ids` [B, S] (segment 0 is the prefix, 1..C the branches, -1 padding) and
        `answer_index` (B, C): where in the sequence a branch's last prompt token lies (0 where there is no branch).

    >>> packed = pack_branches([7, 8], [[[1, 2], [3]]], [[2, 1]], pad_id=0)
    >>> packed["input_ids"].tolist(), packed["position_ids"].tolist()
    ([[7, 8, 1, 2, 3]], [[0, 1, 2, 3, 2]])
    >>> packed["segment_ids"].tolist(), packed["answer_index"].tolist()
    ([[0, 0, 1, 1, 2]], [[3, 4]])
    """
    # one length for the batch, that of the row with the longest branches together
    size = (len(rows), len(prefix) + max(sum(map(len, branches)) for branches in rows))
    input_ids = torch.full(size, pad_id, dtype=torch.long)
    position_ids = torch.zeros(size, dtype=torch.long)
    segment_ids = torch.full(size, PADDING_SEGMENT, dtype=torch.long)
    answer_index = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for row, (branches, lengths) in enumerate(zip(rows, prompt_lengths, strict=True)):
        ids, positions, segments = list(prefix), list(range(len(prefix))), [PREFIX_SEGMENT] * len(prefix)
        for column, (branch, prompt_length) in enumerate(zip(branches, lengths, strict=True)):
            # the logits that predict the answer are those of the last prompt token
            answer_index[row, column] = len(ids) + prompt_length - 1
            ids += branch
            # as if the branch stood alone behind the prefix: rotary positions decide, not places in the row
            positions += range(len(prefix), len(prefix) + len(branch))
            segments += [column + 1] * len(branch)
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        segment_ids[row, : len(ids)] = torch.tensor(segments)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "segment_ids": segment_ids,
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


class PackedLlava(nn.Module):
    """A LLaVA whose `forward` runs packed sequences.

    It owns the Transformers model: sharded parameters (FSDP2) are gathered by the hooks of this module's forward, so
    nothing outside calls a submodule or indexes a weight.

    Raises:
        ValueError: the language model has layers that cannot be packed.
    """

    def __init__(self, llava: LlavaForConditionalGeneration):
        super().__init__()
        text_config: Any = llava.config.text_config
        if unknown := sorted(set(getattr(text_config, "layer_types", None) or ()) - PACKABLE):
            raise ValueError(
                f"A language model with layers of the kind {', '.join(unknown)} ({text_config.model_type}) cannot be "
                "packed; choose a checkpoint whose layers are all attention."
            )
        self.llava = llava

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        image_index: torch.Tensor,
        logit_index: torch.Tensor,
    ) -> torch.Tensor:
        """Next-token logits at chosen places.

        Args:
            pixel_values: [B, 3, H, W], one image for each packed sequence.
            input_ids, position_ids, segment_ids: [B, S] from `pack_branches`.
            image_index: [B, T] places of the image's placeholders, which lie in the prefix.
            logit_index: (B, N) places in the sequence.

        Returns:
            (B, N, V) logits, in float32 at least, over the vocabulary of the token that follows each place.

        Raises:
            ValueError: the model makes another number of features of an image than there are placeholders.
        """
        model = self.llava.model
        embeddings = model.get_input_embeddings()(input_ids)
        features = model.get_image_features(
            pixel_values=pixel_values.to(embeddings.dtype),
            vision_feature_layer=self.llava.config.vision_feature_layer,
            vision_feature_select_strategy=self.llava.config.vision_feature_select_strategy,
        ).pooler_output
        features = torch.stack(tuple(features)).to(embeddings.dtype)
        # shapes are compared and no values, for which the host would wait for the GPU
        if features.shape[:2] != image_index.shape:
            raise ValueError(
                f"the model makes {features.shape[1]} features of an image, and the prompt has {image_index.shape[1]} "
                "places for them"
            )
        # by place within the row: whatever the number, no image's features reach another image's row
        embeddings = embeddings.scatter(1, image_index.unsqueeze(-1).expand_as(features), features)
        hidden = model.language_model(
            inputs_embeds=embeddings,
            # four axes: Transformers hands such a mask on as it is, to SDPA or eager attention (`masking_utils`)
            attention_mask=self._attention_mask(segment_ids, embeddings.dtype),
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        # before the head: logits over the vocabulary at all places would be the largest tensor of all
        chosen = hidden.gather(1, logit_index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return linear_in_float32(self.llava.lm_head, chosen)

    def _attention_mask(self, segment_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        allowed = branch_attention_mask(segment_ids)
        if self.llava.model.language_model.config._attn_implementation != "eager":
            return allowed
        # eager attention adds the mask to its weights, and would add 1 where it may look
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
