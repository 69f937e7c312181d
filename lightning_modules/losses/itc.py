"""Image-text contrast (ITC) with hard negatives over the global batch, and the gather over ranks that it needs.

Each rank computes the rows of its own images against the texts and images of all ranks; with the gradients of
`gather_rows`, which are sums over ranks, the rows of all ranks add up to the loss of one large batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed as dist
from torch.nn import functional as F

from datamodules.batch import NEGATIVE, POSITIVE, UNKNOWN, ImageTextBatch, InputError
from lightning_modules.flat_captions import flat_labels


def identity_hashes(ids: Iterable[str]) -> torch.Tensor:
    """[B] long: a 63-bit hash of each string, the same on every rank; equal where the strings are.

    >>> one, two, again = identity_hashes(["a", "b", "a"]).tolist()
    >>> one == again != two
    True
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.long)


@dataclass(frozen=True)
class ContrastLayout:
    """What the images [G] and texts [T] of a global batch are to each other, and which anchors a rank computes.

    An anchor is an image with one true text. Its hard negatives are the false texts that were written for it.

    Attributes:
        anchor_images: [A] places in G: the images whose rows this rank computes.
        anchor_texts: [A] places in T: the text of each anchor.
        image_ids: [G] long, equal where two images are the same.
        text_image_ids: [T] long, the id of each text's image.
        text_labels: [T], 1 true and 0 false of its image; others are left out.
        hard_texts: [N] places in T: the hard negatives of these anchors.
        hard_anchors: [N] places in A: whose they are.
        hard_types: [N] long, the index of their negative types.
    """

    anchor_images: torch.Tensor
    anchor_texts: torch.Tensor
    image_ids: torch.Tensor
    text_image_ids: torch.Tensor
    text_labels: torch.Tensor
    hard_texts: torch.Tensor
    hard_anchors: torch.Tensor
    hard_types: torch.Tensor


def local_layout(batch: ImageTextBatch, types: Sequence[str] = (), *, distinct_images: bool = False) -> ContrastLayout:
    """The layout of one rank's batch by itself; its texts are those of `cells.flat_captions`.

    An image's anchor is its text in column 0, where that is true; all false texts of such a row are hard negatives.

    Args:
        batch: whose places are counted.
        types: known negative types, in the order of `hard_types`; all are 0 where there are none.
        distinct_images: takes copies of an image for different ones.

    Raises:
        InputError: a hard negative's type is none of `types`.
    """
    device, cell_index, width = batch.labels.device, batch.inputs["cell_index"], batch.labels.shape[1]
    rows, columns = cell_index // width, cell_index % width
    labels = flat_labels(batch)
    anchor_texts = ((columns == 0) & (labels == POSITIVE)).nonzero().flatten()
    anchor_of_row = torch.full((len(batch.labels),), -1, device=device)
    anchor_of_row[rows[anchor_texts]] = torch.arange(len(anchor_texts), device=device)
    hard_texts = ((labels == NEGATIVE) & (anchor_of_row[rows] >= 0)).nonzero().flatten()
    places = zip(rows[hard_texts].tolist(), columns[hard_texts].tolist(), strict=True)
    names = [batch.negative_type[row][column] for row, column in places]
    if distinct_images:
        rank = dist.get_rank() if dist.is_initialized() else 0
        image_ids = identity_hashes(f"{rank} {row}" for row in range(len(batch.labels))).to(device)
    else:
        image_ids = identity_hashes(batch.image_ids).to(device)
    return ContrastLayout(
        anchor_images=rows[anchor_texts],
        anchor_texts=anchor_texts,
        image_ids=image_ids,
        text_image_ids=image_ids[rows],
        text_labels=labels,
        hard_texts=hard_texts,
        hard_anchors=anchor_of_row[rows[hard_texts]],
        hard_types=torch.tensor([_type_index(name, types) for name in names], device=device, dtype=torch.long),
    )


def _type_index(name: str, types: Sequence[str]) -> int:
    if types and name not in types:
        raise InputError(
            f"negative_type must be one of those that have a rank threshold, {', '.join(types)}, got {name!r}; add "
            "it to CeClipSettings.types."
        )
    return types.index(name) if types else 0


def gather_layout(layout: ContrastLayout, image_sizes: Sequence[int], text_sizes: Sequence[int]) -> ContrastLayout:
    """The layout in the batch of all ranks, from that of this rank's batch; anchors stay this rank's."""
    first_image, first_text = own_rows(image_sizes).start, own_rows(text_sizes).start
    return replace(
        layout,
        anchor_images=layout.anchor_images + first_image,
        anchor_texts=layout.anchor_texts + first_text,
        image_ids=gather_rows(layout.image_ids, image_sizes),
        text_image_ids=gather_rows(layout.text_image_ids, text_sizes),
        text_labels=gather_rows(layout.text_labels, text_sizes),
        hard_texts=layout.hard_texts + first_text,
    )


def itc_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, scale: torch.Tensor, layout: ContrastLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of image-to-text and text-to-image cross entropy: the ITC with hard negatives of NegCLIP and CE-CLIP.

    An anchor's image asks all texts of the batch, the hard negatives of every image among them; its text asks all
    images; a negative never asks. Unlike the published code, denominators leave out what is also true (other true texts
    of the image, other copies of the image) and texts that do not exist.

    Args:
        image_features: [G, D] of all ranks, of length 1.
        text_features: [T, D] of all ranks, of length 1.
        scale: [1], what cosines are multiplied by.
        layout: of the batch.

    Returns:
        The mean over anchors (0 where there is none), and [A] bool: whether no other text beats the anchor's own.
    """
    anchor_images, anchor_texts = layout.anchor_images, layout.anchor_texts
    asked = layout.image_ids[anchor_images]
    true_texts = (layout.text_labels == POSITIVE).nonzero().flatten()
    rows, matches = equal_pairs(asked, layout.text_image_ids[true_texts])
    also_true = _without_own(rows, true_texts[matches], anchor_texts)
    same_image = _without_own(*equal_pairs(asked, layout.image_ids), anchor_images)
    # autocast would round cosines to half precision, and hard negatives to ties
    with torch.autocast(image_features.device.type, enabled=False):
        image_to_text = scale * image_features[anchor_images] @ text_features.T
        text_to_image = scale * text_features[anchor_texts] @ image_features.T
    # In place, pair by pair, and without autograd, since what is -inf gets no gradient anyway: a mask as large as the
    # matrix, and masked copies of it and of its gradient, would double what the loss takes.
    nothing = image_to_text.new_tensor(-torch.inf)
    image_to_text.detach().masked_fill_(layout.text_labels == UNKNOWN, nothing).index_put_(also_true, nothing)
    text_to_image.detach().index_put_(same_image, nothing)
    right = image_to_text.detach().argmax(1) == anchor_texts
    losses = F.cross_entropy(image_to_text, anchor_texts, reduction="none") + F.cross_entropy(
        text_to_image, anchor_images, reduction="none"
    )
    return losses.sum() / (2 * max(1, len(losses))), right


def equal_pairs(asked: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All (i, j) with asked[i] == values[j], [P] each, in the order of i: by sorting, without an A x N comparison.

    >>> rows, columns = equal_pairs(torch.tensor([7, 9, 8]), torch.tensor([8, 7, 8]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2, 2], [1, 0, 2])
    """
    ordered, order = values.sort(stable=True)
    first = torch.searchsorted(ordered, asked)
    counts = torch.searchsorted(ordered, asked, right=True) - first
    rows = torch.arange(len(asked), device=asked.device).repeat_interleave(counts)
    within = torch.arange(len(rows), device=asked.device) - (counts.cumsum(0) - counts)[rows]
    return rows, order[first[rows] + within]


def _without_own(rows: torch.Tensor, columns: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    others = columns != own[rows]
    return rows[others], columns[others]


def rank_sizes(*sizes: int, device: torch.device | str = "cpu") -> list[list[int]]:
    """How many rows every rank has of several tensors: one list over ranks for each of `sizes`.

    >>> rank_sizes(2, 5)
    [[2], [5]]
    """
    if not dist.is_available() or not dist.is_initialized():
        return [[size] for size in sizes]
    own = torch.tensor(sizes, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return torch.stack(every, dim=1).tolist()


def own_rows(sizes: Sequence[int]) -> slice:
    """Where this rank's rows lie in what `gather_rows` returns."""
    rank = dist.get_rank() if len(sizes) > 1 else 0
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def rank_share(own_sum: torch.Tensor, count: int, *, own_terms: int, all_terms: int) -> torch.Tensor:
    """A mean over all ranks in the convention of `AlignmentModule.loss`, which weights a rank's loss by its terms.

    The shares of all ranks, each weighted by the rank's terms, and divided by the terms of all ranks, are the mean
    (sum of all ranks' `own_sum`) / `count`, even where it counts something else than terms.

    Args:
        own_sum: this rank's part of the sum.
        count: what the sum of all ranks is divided by.
        own_terms: `loss_terms` of this rank.
        all_terms: `loss_terms` of all ranks together.

    Returns:
        The share; a graph-connected 0 where there is nothing to average, or no term to carry it.

    >>> rank_share(torch.tensor(6.0), 4, own_terms=1, all_terms=2).item()
    3.0
    """
    if not count or not own_terms:
        return own_sum * 0
    return own_sum * (all_terms / (count * own_terms))


def gather_rows(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The rows of all ranks, rank by rank, with gradient; the tensor itself where there is one rank.

    The gradient of a row is the sum of what all ranks ask of it. DDP's mean over ranks is turned into a global mean by
    `AlignmentModule`, as for any other loss.

    Args:
        tensor: [n, ...], n and nothing else may differ between ranks.
        sizes: n of every rank, see `rank_sizes`.
    """
    if len(sizes) == 1:
        return tensor
    padded = torch.cat([tensor, tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])])
    gathered = _AllGather.apply(padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    """[n, ...] of every rank -> [ranks, n, ...]; gradients are summed over ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        every = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(every, tensor.contiguous())
        return torch.stack(every)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]
