"""BLIP-2's contrast (ITC) with soft targets over the global batch, and its matching head (ITM) on hard negatives.

Li et al., ICML 2023, section 3.2, with the targets of ALBEF (Li et al., NeurIPS 2021) for images that have several
captions; as LAVIS trains retrieval (`blip2_qformer.py`), without its third part, captioning.

Each rank computes the rows of its own images and texts against those of all ranks; what they sum up to is the loss of
one large batch. Only images with a true caption, and true captions, take part: a hard negative is no caption of any
image, and what is not known to be true could be true of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import POSITIVE, ImageTextBatch
from lightning_modules.flat_captions import flat_labels
from lightning_modules.losses.global_batch import gather_rows, identity_hashes, own_rows, rank_share, rank_sizes
from lightning_modules.losses.loss import Loss, Report, labelled_cells

Draw = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""`image_to_text` and `text_to_image` logits of own rows -> places of the drawn pairs' images and texts."""


@dataclass
class ItcItmSettings:
    """Loss itc_itm: image-text contrast (ITC) and the matching head (ITM), as LAVIS trains retrieval."""

    itc_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITC, over the true captions of the global batch."""
    itm_weight: float = field(default=1.0, metadata={"min": 0.0})
    """Weight of ITM, over the captions of each row and the in-batch negatives."""
    in_batch_negatives: bool = True
    """For the first true caption of each row draw another image of the global batch, and for its image another
    caption, by the softmax of ITC's similarities."""
    label_smoothing: float = field(default=0.1, metadata={"min": 0.0})
    """Part of ITC's targets that is spread over the whole batch, below 1."""
    temperature: float = field(default=0.07, metadata={"min": 0.001, "max": 0.5})
    """What ITC's similarities are divided by at first; it is learnt, and stays in [0.001, 0.5]."""

    def faults(self, place: str) -> Iterator[str]:
        """Targets that say nothing, and weights that train nothing."""
        if self.label_smoothing >= 1:
            yield f"`{place}label_smoothing` must be in [0, 1), got {self.label_smoothing}"
        if not self.itc_weight and not self.itm_weight:
            yield f"`{place}itc_weight` or `{place}itm_weight` must be above 0, got 0 for both"


class ItcItmLoss(Loss):
    """ITC and ITM of a model that has both, each a mean over all ranks.

    Its negatives are drawn between the two encoders and the matching head, by the similarities of the first. So the
    backbone asks `draw` in its forward, and the learnt temperature stays in its network, where it is used.

    `itc_itm`, what it reads: `pairs`; `itm_logits` [N + P] of the batch's N captions and of the P drawn pairs;
    `image_to_text` (I, T) and `text_to_image` (S, G), similarity / temperature of this rank's rows; the `temperature`.
    """

    reads = "itc_itm"
    Settings = ItcItmSettings
    contrasts_rows = True

    @classmethod
    def needs_negatives(cls, settings: ItcItmSettings) -> bool:
        """The matching head needs some, from the rows or from the batch."""
        return bool(settings.itm_weight) and not settings.in_batch_negatives

    def draw(self, pairs: TruePairs, *, seed: int, epoch: int) -> Draw | None:
        """How the matching head's further pairs are drawn; None where there are none."""
        return partial(pairs.draw, seed=seed, epoch=epoch) if self.settings.in_batch_negatives else None

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """Both parts as shares of means over all ranks, see `rank_share`: ITM counts cells and drawn pairs.

        Over two classes, cross entropy of the ITM head is the binary cross entropy of their logits' difference.
        """
        settings, pairs = self.settings, inputs["pairs"]
        known = labelled_cells(batch).flatten()[batch.inputs["cell_index"]]
        labels = batch.labels.flatten()[batch.inputs["cell_index"]][known]
        given, drawn = inputs["itm_logits"].split([len(known), len(inputs["itm_logits"]) - len(known)])
        given = given[known]
        cells, further = (sum(sizes) for sizes in rank_sizes(len(given), len(drawn), device=given.device))
        # `AlignmentModule` weights by labelled cells; ITM counts drawn pairs too, and ITC rows
        share = partial(rank_share, own_terms=len(given), all_terms=cells)

        # softplus(-z) = -log sigmoid(z), the label true; a drawn pair is false
        entropies = F.softplus(torch.where(labels == POSITIVE, -given, given)).sum() + F.softplus(drawn).sum()
        itm = share(entropies, cells + further)
        part = soft_target_itc_loss(
            inputs["image_to_text"],
            inputs["text_to_image"],
            image_ids=pairs.image_ids,
            text_image_ids=pairs.text_image_ids,
            own_images=own_rows(pairs.image_sizes),
            own_texts=own_rows(pairs.text_sizes),
            label_smoothing=settings.label_smoothing,
        )
        # `part` is divided by the numbers of all ranks already
        itc = share(part, 1)
        right = ((given > 0) == (labels == POSITIVE)).sum()
        return settings.itm_weight * itm + settings.itc_weight * itc, {
            "itm/loss": itm,
            "itc/loss": itc,
            "itc/temperature": inputs["temperature"].squeeze(),
            "cells/accuracy": right / max(1, len(given)),
            "itm/in_batch_accuracy": share((drawn <= 0).sum(), further),
        }


def max_similarity(image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """(I, T) cosines of images (I, queries, D) and texts (T, D) of length 1, the largest over the queries."""
    # autocast would round cosines to half precision, and similar captions to ties
    with torch.autocast(image_features.device.type, enabled=False):
        return torch.einsum("iqd,td->itq", image_features, text_features).amax(-1)


def soft_target_itc_loss(
    image_to_text: torch.Tensor,
    text_to_image: torch.Tensor,
    *,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    own_images: slice = slice(None),
    own_texts: slice = slice(None),
    label_smoothing: float = 0.1,
) -> torch.Tensor:
    """This rank's part of LAVIS' ITC loss for retrieval; the parts of all ranks add up to it.

    The loss is the mean over all images of the image-to-text cross entropy, and the mean over all texts of the
    text-to-image one, averaged. A row's target is uniform over the entries of the same image, smoothed over all.

    Args:
        image_to_text: (I, T) similarity / temperature of this rank's images and the texts of all ranks.
        text_to_image: (S, G) of this rank's texts and the images of all ranks.
        image_ids: [G] long, equal where two images are the same.
        text_image_ids: [T] long, the id of each text's image.
        own_images, own_texts: where this rank's I images and S texts lie among all.
        label_smoothing: part of the target that is spread over all columns, in [0, 1).
    """
    images = _soft_cross_entropy(image_to_text, image_ids[own_images], text_image_ids, label_smoothing)
    texts = _soft_cross_entropy(text_to_image, text_image_ids[own_texts], image_ids, label_smoothing)
    return (images.sum() / max(1, len(image_ids)) + texts.sum() / max(1, len(text_image_ids))) / 2


def _soft_cross_entropy(
    logits: torch.Tensor, row_ids: torch.Tensor, column_ids: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """[R] from (R, C) logits."""
    same_image = (column_ids == row_ids.unsqueeze(1)).to(logits.dtype)
    # never 0 / 0: a row has its own image or text among the columns
    uniform = same_image / same_image.sum(1, keepdim=True)
    targets = (1 - label_smoothing) * uniform + label_smoothing / max(1, len(column_ids))
    return F.cross_entropy(logits, targets, reduction="none")


def draw_negatives(
    logits: torch.Tensor,
    *,
    row_ids: torch.Tensor,
    column_ids: torch.Tensor,
    column_keys: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """One column for each row, by probability softmax(logits) over the columns of other images (LAVIS' ITM).

    The columns are laid end to end in the order of their keys, each as long as its probability, and `uniform` points at
    one: the same one wherever a rank or a batch has put the columns.

    Args:
        logits: (R, C).
        row_ids: [R] long, the id of each row's image.
        column_ids: [C] long, the id of each column's image.
        column_keys: [C] long, what columns are sorted by; theirs alone, whatever batch they are in.
        uniform: [R] float64 in [0, 1), see `uniform_numbers`.

    Returns:
        [R] long columns, -1 where every column is of the row's own image.
    """
    # not torch.multinomial, whose draw depends on the order of columns and on what was drawn before
    order = column_keys.argsort(stable=True)
    allowed = column_ids[order] != row_ids.unsqueeze(1)
    # LAVIS sets excluded entries to -10000. Here a row without any other is nan, and gets its -1 in the last line.
    probabilities = logits[:, order].double().masked_fill(~allowed, -torch.inf).softmax(1)
    ends = probabilities.cumsum(1)
    # an excluded column ends where the one before it ends, and so is never the first to end behind a point
    drawn = order[(ends <= uniform.unsqueeze(1) * ends[:, -1:]).sum(1)]
    return drawn.where(allowed.any(1), -1)


def uniform_numbers(text_ids: Iterable[str], *, seed: int, epoch: int, drawn: str) -> torch.Tensor:
    """[R] float64 in [0, 1) that depend on seed, epoch, text and what is drawn for it, and on nothing else.

    >>> one, two = uniform_numbers(["caption:1", "caption:2"], seed=0, epoch=0, drawn="image").tolist()
    >>> one != two == uniform_numbers(["caption:2"], seed=0, epoch=0, drawn="image").item()
    True
    """
    keys = (f"{seed} {epoch} {drawn} {text_id}" for text_id in text_ids)
    # a function of its keys, as every draw here: no generator's state is part of a checkpoint
    digests = [hashlib.blake2b(key.encode(), digest_size=6).digest() for key in keys]
    # 48 bits: times a sum of probabilities, the largest number still stays below that sum after rounding
    return torch.tensor([int.from_bytes(digest, "big") / 2**48 for digest in digests], dtype=torch.float64)


@dataclass(frozen=True)
class TruePairs:
    """The images with a true caption, I, and the true captions, S, of a batch, beside those of all ranks, G and T.

    Attributes:
        images: [I] places in the batch's B images.
        texts: [S] places in the batch's N captions.
        anchor_images, anchor_texts: [A] places in `images` and `texts`, of the rows with a positive in column 0.
        anchor_text_ids: of the anchors.
        image_sizes, text_sizes: I and S of every rank.
        image_ids: [G] hashes, equal where two images are the same.
        text_image_ids, text_keys: [T] hashes of each text's image and of its text id.
        input_ids, attention_mask: (T, W), padded on the right to the widest rank.
    """

    images: torch.Tensor
    texts: torch.Tensor
    anchor_images: torch.Tensor
    anchor_texts: torch.Tensor
    anchor_text_ids: list[str]
    image_sizes: Sequence[int]
    text_sizes: Sequence[int]
    image_ids: torch.Tensor
    text_image_ids: torch.Tensor
    text_keys: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @classmethod
    def of(cls, batch: ImageTextBatch) -> TruePairs:
        """Those of a batch with the inputs of `flat_captions`; all ranks have to call it together."""
        cell_index, (_, width) = batch.inputs["cell_index"], batch.labels.shape
        texts = (flat_labels(batch) == POSITIVE).nonzero().flatten()
        rows, columns = cell_index[texts] // width, cell_index[texts] % width
        # each image once, though it may have several true captions
        images, text_images = rows.unique(return_inverse=True)
        anchors = (columns == 0).nonzero().flatten()
        text_ids = [batch.text_ids[row][column] for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
        tokens = [batch.inputs[name][texts] for name in ("input_ids", "attention_mask")]
        *sizes, widths = rank_sizes(len(images), len(texts), tokens[0].shape[1], device=texts.device)
        # what is padded with is masked
        tokens = [F.pad(each, (0, max(widths) - each.shape[1])) for each in tokens]
        image_ids = identity_hashes(batch.image_ids).to(texts.device)
        return cls(
            images=images,
            texts=texts,
            anchor_images=text_images[anchors],
            anchor_texts=anchors,
            anchor_text_ids=[text_ids[anchor] for anchor in anchors.tolist()],
            image_sizes=sizes[0],
            text_sizes=sizes[1],
            image_ids=gather_rows(image_ids[images], sizes[0]),
            text_image_ids=gather_rows(image_ids[rows], sizes[1]),
            text_keys=gather_rows(identity_hashes(text_ids).to(texts.device), sizes[1]),
            input_ids=gather_rows(tokens[0], sizes[1]),
            attention_mask=gather_rows(tokens[1], sizes[1]),
        )

    def draw(
        self, image_to_text: torch.Tensor, text_to_image: torch.Tensor, *, seed: int, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A negative image for each anchor's text, and a negative text for its image, where there is another image.

        Args:
            image_to_text: (I, T) similarity / temperature.
            text_to_image: (S, G).
            seed, epoch: with the anchor's text id and the batch's content all that a draw depends on.

        Returns:
            The pairs' images, [P] places in G, and their texts, [P] places in T.
        """
        images, texts = (own_rows(sizes).start for sizes in (self.image_sizes, self.text_sizes))
        row_ids = self.image_ids[images + self.anchor_images].cpu()
        negative_images, negative_texts = (
            draw_negatives(
                # on the CPU: not every device has float64
                logits.detach().cpu(),
                row_ids=row_ids,
                column_ids=column_ids.cpu(),
                column_keys=column_keys.cpu(),
                uniform=uniform_numbers(self.anchor_text_ids, seed=seed, epoch=epoch, drawn=drawn),
            ).to(logits.device)
            for drawn, logits, column_ids, column_keys in (
                ("image", text_to_image[self.anchor_texts], self.image_ids, self.image_ids),
                ("text", image_to_text[self.anchor_images], self.text_image_ids, self.text_keys),
            )
        )
        # in LAVIS' order: another image for each text, then another text for each image
        pair_images = torch.cat([negative_images, images + self.anchor_images])
        pair_texts = torch.cat([texts + self.anchor_texts, negative_texts])
        # -1 where a batch has one image alone
        there = (pair_images >= 0) & (pair_texts >= 0)
        return pair_images[there], pair_texts[there]
