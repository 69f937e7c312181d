"""Image-text matching (ITM): cross entropy of a matching head on the given captions; no negatives are drawn.

BLIP-2 (Li et al., ICML 2023), section 3.2, "Image-Text Matching"; its in-batch negatives are part of `itc_itm`.
"""

from __future__ import annotations

from lightning_modules.losses.binary import BinaryLoss


class ItmLoss(BinaryLoss):
    """`binary` under the name of the head that it trains.

    A matching head has two classes. Their cross entropy is the binary one of the difference of their logits, which is
    the match logit.
    """
