"""Image-text matching (ITM): cross entropy of a matching head on the given captions; no negatives are drawn.

BLIP-2 (Li et al., ICML 2023), section 3.2, "Image-Text Matching"; its in-batch negatives are part of `itc_itm`.
"""

from __future__ import annotations

from typing import Any

import torch

from datamodules.batch import ImageTextBatch
from lightning_modules.losses.binary import BinaryLoss
from lightning_modules.losses.loss import Report


class ItmLoss(BinaryLoss):
    """`binary` on the logits of a matching head, whatever the match logit of the scorer is.

    A matching head has two classes. Their cross entropy is the binary one of the difference of their logits.
    """

    reads = "itm_logits"

    def forward(self, batch: ImageTextBatch, **inputs: Any) -> tuple[torch.Tensor, Report]:
        """The mean over labelled cells; `inputs` are `itm_logits` (B, C), match - no-match of the head."""
        return super().forward(batch, match_logits=inputs["itm_logits"])
