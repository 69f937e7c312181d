"""The batch of all ranks: gathers with gradient, means over ranks, and which texts are true of which images.

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

from datamodules.batch import NEGATIVE, POSITIVE, ImageTextBatch
from lightning_modules.flat_captions import flat_labels


def identity_hashes(ids: Iterable[str]) -> torch.Tensor:
    """[B] long: a 63-bit hash of each string, the same on every rank; equal where the strings are.

    >>> one, two, again = identity_hashes(["a", "b", "a"]).tolist()
    >>> one == again != two
    True
    """
    # not `hash`, which Python salts anew in every process; shifted, since torch's long is signed
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.long)


@dataclass(frozen=True)
class ContrastLayout:
    """Which texts [T] are true or false of which images [G] in a global batch, and which anchors this rank computes.

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
        blind_logits: [T] what joins the logits of hard negatives: their blind logit against that of their anchor's
            text; 0 for all other texts. None where nothing joins.
    """

    anchor_images: torch.Tensor
    anchor_texts: torch.Tensor
    image_ids: torch.Tensor
    text_image_ids: torch.Tensor
    text_labels: torch.Tensor
    hard_texts: torch.Tensor
    hard_anchors: torch.Tensor
    hard_types: torch.Tensor
    blind_logits: torch.Tensor | None = None

    def blind_of(self, texts: torch.Tensor) -> torch.Tensor | None:
        """The blind logits of some of the T texts."""
        return None if self.blind_logits is None else self.blind_logits[texts]


def local_layout(
    batch: ImageTextBatch,
    types: Sequence[str] = (),
    *,
    distinct_images: bool = False,
    blind_logit: torch.Tensor | None = None,
) -> ContrastLayout:
    """The layout of one rank's batch by itself; its texts are those of `flat_captions`.

    An image's anchor is its text in column 0, where that is true; all false texts of such a row are hard negatives.

    Args:
        batch: whose places are counted.
        types: negative types in the order of `hard_types`, all that the batch names; `hard_types` are 0 without any.
        distinct_images: takes copies of an image for different ones.
        blind_logit: (B, C), see `Loss.blind_logit`.
    """
    device, cell_index, width = batch.labels.device, batch.inputs["cell_index"], batch.labels.shape[1]
    rows, columns = cell_index // width, cell_index % width
    labels = flat_labels(batch)
    # in column 0 alone: MixedRows puts what an anchor shows in front
    anchor_texts = ((columns == 0) & (labels == POSITIVE)).nonzero().flatten()
    anchor_of_row = torch.full((len(batch.labels),), -1, device=device)
    anchor_of_row[rows[anchor_texts]] = torch.arange(len(anchor_texts), device=device)
    hard_texts = ((labels == NEGATIVE) & (anchor_of_row[rows] >= 0)).nonzero().flatten()
    places = zip(rows[hard_texts].tolist(), columns[hard_texts].tolist(), strict=True)
    names = [batch.negative_type[row][column] for row, column in places]
    if distinct_images:
        rank = dist.get_rank() if dist.is_initialized() else 0
        # the rank too, or images of two ranks would be copies of each other
        image_ids = identity_hashes(f"{rank} {row}" for row in range(len(batch.labels))).to(device)
    else:
        image_ids = identity_hashes(batch.image_ids).to(device)
    hard_anchors = anchor_of_row[rows[hard_texts]]
    blind_logits = None
    if blind_logit is not None:
        own = blind_logit.flatten()[cell_index]
        # against the anchor, whose logit and all true texts' stay 0: true of something, they give nothing away
        against = own[hard_texts] - own[anchor_texts[hard_anchors]]
        blind_logits = torch.zeros_like(own).index_copy(0, hard_texts, against)
    return ContrastLayout(
        anchor_images=rows[anchor_texts],
        anchor_texts=anchor_texts,
        image_ids=image_ids,
        text_image_ids=image_ids[rows],
        text_labels=labels,
        hard_texts=hard_texts,
        hard_anchors=hard_anchors,
        hard_types=torch.tensor([types.index(name) if types else 0 for name in names], device=device, dtype=torch.long),
        blind_logits=blind_logits,
    )


def gather_layout(layout: ContrastLayout, image_sizes: Sequence[int], text_sizes: Sequence[int]) -> ContrastLayout:
    """The layout in the batch of all ranks, from that of this rank's batch; anchors stay this rank's."""
    # `hard_anchors` and `hard_types` stay: they count within this rank
    first_image, first_text = own_rows(image_sizes).start, own_rows(text_sizes).start
    return replace(
        layout,
        anchor_images=layout.anchor_images + first_image,
        anchor_texts=layout.anchor_texts + first_text,
        image_ids=gather_rows(layout.image_ids, image_sizes),
        text_image_ids=gather_rows(layout.text_image_ids, text_sizes),
        text_labels=gather_rows(layout.text_labels, text_sizes),
        hard_texts=layout.hard_texts + first_text,
        blind_logits=None if layout.blind_logits is None else gather_rows(layout.blind_logits, text_sizes),
    )


def rank_sizes(*sizes: int, device: torch.device | str = "cpu") -> list[list[int]]:
    """How many rows every rank has of several tensors: one list over ranks for each of `sizes`.

    >>> rank_sizes(2, 5)
    [[2], [5]]
    """
    if not dist.is_available() or not dist.is_initialized():
        return [[size] for size in sizes]
    # one exchange for all counts: each has its latency
    own = torch.tensor(sizes, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return torch.stack(every, dim=1).tolist()


def own_rows(sizes: Sequence[int]) -> slice:
    """Where this rank's rows lie in what `gather_rows` returns."""
    rank = dist.get_rank() if len(sizes) > 1 else 0
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def rank_share(own_sum: torch.Tensor, count: int, *, own_terms: int, all_terms: int) -> torch.Tensor:
    """A mean over all ranks in the convention of `AlignmentModule`, which weights a rank's loss by its terms.

    The shares of all ranks, each weighted by the rank's terms, and divided by the terms of all ranks, are the mean
    (sum of all ranks' `own_sum`) / `count`, even where it counts something else than terms.

    Args:
        own_sum: this rank's part of the sum.
        count: what the sum of all ranks is divided by.
        own_terms: `Loss.terms` of this rank.
        all_terms: `Loss.terms` of all ranks together.

    Returns:
        The share; a graph-connected 0 where there is nothing to average, or no term to carry it.

    >>> rank_share(torch.tensor(6.0), 4, own_terms=1, all_terms=2).item()
    3.0
    """
    if not count or not own_terms:
        return own_sum * 0
    # sum over ranks of own_terms x share / all_terms = (sum of own_sum) / count
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
    # all_gather wants equal shapes of all ranks
    padded = torch.cat([tensor, tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])])
    gathered = _AllGather.apply(padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])


def gather_names(names: Iterable[str], *, device: torch.device | str = "cpu") -> list[str]:
    """The different names that all ranks give, sorted: the same list on every rank, which all have to call.

    >>> gather_names(["swap_obj", "add_obj", "swap_obj"])
    ['add_obj', 'swap_obj']
    """
    own = sorted(set(names))
    # as bytes, since objects would be pickled and sent twice; each name is ended, so that rank can follow rank
    text = "".join(f"{name}\0" for name in own).encode()
    (sizes,) = rank_sizes(len(text), device=device)
    if len(sizes) == 1 or not any(sizes):
        return own
    every = gather_rows(torch.tensor(list(text), dtype=torch.uint8, device=device), sizes)
    return sorted(set(bytes(every.tolist()).decode().split("\0")[:-1]))


class _AllGather(torch.autograd.Function):
    """[n, ...] of every rank -> [ranks, n, ...]; gradients are summed over ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        every = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(every, tensor.contiguous())
        return torch.stack(every)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # every rank holds a part of the gradient of every row; a copy, since autograd may still need the original
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]
