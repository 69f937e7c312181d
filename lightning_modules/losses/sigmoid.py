"""SigLIP's loss with hard negatives: each pair of an image and a text of the global batch, true or false by itself.

Sigmoid Loss for Language Image Pre-Training (Zhai et al., ICCV 2023), section 3.2 and algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from datamodules.batch import POSITIVE, UNKNOWN, ImageTextBatch
from lightning_modules.flat_captions import flat_labels
from lightning_modules.losses.global_batch import gather_rows, identity_hashes, rank_sizes
from lightning_modules.losses.itc import equal_pairs
from lightning_modules.losses.loss import Loss, Report


class SigmoidLoss(Loss):
    """`sigmoid_loss` of this rank's images with the texts of all ranks, mean over the images.

    An image that stands in several rows counts in each of them, as a pair of the paper does. The contrast is that of
    each batch: a step over several accumulated batches is the mean of their contrasts.
    """

    reads = "biased_features"
    contrasts_rows = True
    blind_unit = "text"

    @classmethod
    def needs_negatives(cls, settings: Any) -> bool:
        """Other rows are negatives too."""
        return False

    def terms(self, batch: ImageTextBatch) -> int:
        """This rank's images."""
        return len(batch.image_ids)

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The loss, the scale and the bias.

        `inputs` are `image_features` [B, D], `text_features` [N, D] of this rank, the `scale` [1] and the `bias` [1].
        """
        images, texts, scale, bias = (inputs[key] for key in ("image_features", "text_features", "scale", "bias"))
        image_ids = identity_hashes(batch.image_ids).to(images.device)
        places = batch.inputs["cell_index"]
        blind = self.blind_logit(batch)
        # texts alone travel: each rank computes the rows of its own images
        (sizes,) = rank_sizes(len(texts), device=images.device)
        loss = sigmoid_loss(
            images,
            gather_rows(texts, sizes),
            scale,
            bias,
            image_ids=image_ids,
            text_image_ids=gather_rows(image_ids[places // batch.labels.shape[1]], sizes),
            text_labels=gather_rows(flat_labels(batch), sizes),
            blind_logits=None if blind is None else gather_rows(blind.flatten()[places], sizes),
        )
        return loss, {"sigmoid/logit_scale": scale.detach().squeeze(), "sigmoid/logit_bias": bias.detach().squeeze()}


def sigmoid_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    text_labels: torch.Tensor,
    blind_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """-1/B sum over images i and texts j of log sigmoid(y_ij z_ij), z_ij = scale x cosine(i, j) + bias.

    The paper's equation, L = -1/|B| sum_i sum_j log 1 / (1 + e^(-y_ij z_ij)), with three additions. y_ij is 1 for every
    true text of the image, also where it stands in another row of the same image. Hard negatives are further texts j:
    false of the image that they were written for, and, as the paper's texts of other images, of all others. A text of
    unknown label is left out. The sum over all B x T pairs is divided by B, the number of images. So twice the texts
    make the negative terms twice as heavy, and leave the weight of a positive as it is.

    Args:
        image_features: [B, D] of this rank, of length 1.
        text_features: [T, D] of all ranks, of length 1.
        scale: [1], what cosines are multiplied by.
        bias: [1], what is added.
        image_ids: [B] long, equal where two images are the same.
        text_image_ids: [T] long, the id of each text's image.
        text_labels: [T], 1 true and 0 false of its image, -1 unknown.
        blind_logits: [T] what joins the logit of each text with its own image, where it is true or false by what it
            says; None where nothing joins.
    """
    known = text_labels != UNKNOWN
    texts, labels = text_features[known], text_labels[known]
    rows, columns = equal_pairs(image_ids, text_image_ids[known])
    # autocast would round cosines to half precision, and hard negatives to ties
    with torch.autocast(image_features.device.type, enabled=False):
        logits = scale * image_features @ texts.T + bias
        true = labels[columns] == POSITIVE
        positives = rows[true], columns[true]
        # anew from the features: picked out of the matrix, they would have a gradient of its size
        positive_logits = scale * (image_features[positives[0]] * texts[positives[1]]).sum(-1) + bias
        if blind_logits is not None:
            blind = blind_logits[known]
            # a constant, in place: it moves no gradient of its own
            logits.detach().index_put_((rows, columns), blind[columns], accumulate=True)
            positive_logits = positive_logits + blind[positives[1]]
        # -log sigmoid(z) = -log sigmoid(-z) - z: all pairs as negatives, and no matrix of signs beside that of logits
        total = F.softplus(logits).sum() - positive_logits.sum()
    return total / max(1, len(image_features))
