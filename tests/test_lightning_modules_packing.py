"""Packing: branches see the prefix and themselves, at the positions they would have alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.backbones.packing import Sequences, branch_attention_mask, pack_branches, shared_prefix
from tests.tiny import CAPTIONS, row, tiny_module


def random_rows(seed: int) -> tuple[list[int], list[list[list[int]]], list[list[int]]]:
    """A prefix, ragged branches of three images, and how much of each branch is prompt."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(10, 99, rng.integers(1, 4)).tolist()
    rows = [[rng.integers(10, 99, rng.integers(1, 5)).tolist() for _ in range(rng.integers(1, 4))] for _ in range(3)]
    return prefix, rows, [[int(rng.integers(1, len(branch) + 1)) for branch in branches] for branches in rows]


def packed_rows(prefix: list[int], rows: list[list[list[int]]], lengths: list[list[int]]) -> dict[str, torch.Tensor]:
    """Images with one prefix, by how much of each branch is prompt."""
    sequences = Sequences()
    for branches, prompts in zip(rows, lengths, strict=True):
        cut = [(branch[:length], branch[length:]) for branch, length in zip(branches, prompts, strict=True)]
        sequences.add(prefix, torch.arange(len(prefix)).unsqueeze(0), cut)
    return pack_branches(sequences, pad_id=0)


def test_shared_prefix_is_the_longest_common_start() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == [1, 2]
    assert shared_prefix([[1, 2], [3]]) == []
    assert shared_prefix([[1, 2]]) == [1, 2]


def test_two_images_are_laid_out_as_by_hand() -> None:
    packed = packed_rows([7, 8], [[[1, 2, 3], [4]], [[5, 6]]], [[2, 1], [2]])
    assert packed["input_ids"].tolist() == [[7, 8, 1, 2, 3, 4], [7, 8, 5, 6, 0, 0]]
    assert packed["position_ids"].tolist() == [[[0, 1, 2, 3, 4, 2], [0, 1, 2, 3, 0, 0]]]
    assert packed["answer_cells"].int().tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert packed["segment_ids"].tolist() == [[0, 0, 1, 1, 1, 2], [0, 0, 1, 1, -1, -1]]
    # the last token of the prompt: 2 of [1, 2, 3], 4 of [4], 6 of [5, 6]; 0 where there is no branch
    assert packed["answer_index"].tolist() == [[3, 5], [3, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_every_branch_reads_like_its_own_sequence(seed: int) -> None:
    prefix, rows, lengths = random_rows(seed)
    packed = packed_rows(prefix, rows, lengths)
    visible = branch_attention_mask(packed["segment_ids"])[:, 0]
    for index, branches in enumerate(rows):
        for column, branch in enumerate(branches):
            last = int((packed["segment_ids"][index] == column + 1).nonzero().max())
            seen = visible[index, last].nonzero().flatten()
            assert packed["input_ids"][index, seen].tolist() == prefix + branch
            assert packed["position_ids"][0, index, seen].tolist() == list(range(len(prefix) + len(branch)))
            answer = int(packed["answer_index"][index, column])
            assert int(packed["input_ids"][index, answer]) == branch[lengths[index][column] - 1]


@pytest.mark.parametrize("seed", range(5))
def test_attention_mask_equals_a_slow_double_loop(seed: int) -> None:
    segments = packed_rows(*random_rows(seed))["segment_ids"]
    mask = branch_attention_mask(segments)
    batch, length = segments.shape
    assert mask.shape == (batch, 1, length, length)
    assert mask.dtype == torch.bool
    for index, row_segments in enumerate(segments.tolist()):
        for query in range(length):
            for key in range(length):
                if query == key:
                    expected = True
                elif row_segments[query] == -1 or row_segments[key] == -1 or key > query:
                    expected = False
                else:
                    expected = row_segments[key] in (0, row_segments[query])
                assert bool(mask[index, 0, query, key]) == expected, (index, query, key)


def test_nothing_sees_padding_and_padding_sees_itself() -> None:
    mask = branch_attention_mask(torch.tensor([[0, 1, -1, -1]]))[0, 0]
    assert mask[:2, 2:].sum() == 0
    assert mask[2:].tolist() == [[False, False, True, False], [False, False, False, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_padding_rows_stay_finite(dtype: torch.dtype) -> None:
    module = tiny_module().to(dtype)
    inputs = module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[2:3])]).inputs
    places = torch.arange(inputs["input_ids"].shape[1]).expand(2, -1)
    keys = ("input_ids", "position_ids", "segment_ids", "answer_cells", "image_tokens", "image_row")
    logits = module.network(
        pixels={"pixel_values": inputs["images.pixel_values"]},
        **{key: inputs[key] for key in keys},
        logit_row=torch.arange(2).unsqueeze(1).expand_as(places),
        logit_index=places,
    )
    assert int((inputs["segment_ids"] == -1).sum()) > 50
    assert bool(logits.isfinite().all())


@torch.no_grad()
def test_padding_tokens_change_no_logit() -> None:
    module = tiny_module()
    batch = module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[2:3])])
    before = module.logits(batch)[batch.caption_mask]
    padding = batch.inputs["segment_ids"] == -1
    batch.inputs["input_ids"][padding] = 5
    batch.inputs["position_ids"][:, padding] = 77
    torch.testing.assert_close(module.logits(batch)[batch.caption_mask], before, atol=0, rtol=0)


@torch.no_grad()
def test_an_image_passes_the_vision_tower_once() -> None:
    module = tiny_module()
    seen: list[int] = []
    handle = module.network.llava.model.vision_tower.register_forward_hook(
        lambda tower, arguments, output: seen.append(len(output[0]))
    )
    module.logits(module.collator()([row(0, CAPTIONS), row(1, CAPTIONS[:3])]))
    handle.remove()
    assert seen == [2]
