"""What a judge of truth is: can this text be true of an image of which its caption is true?

Not to be taken for a text-only judge (`negatives.judging`), which guesses from a text's style how it came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Statement(NamedTuple):
    """A written text, and what it was written as.

    Attributes:
        caption: a true caption of the image.
        text: what was written for it.
        kind: a negative type, or "paraphrase".
        image: the caption's image, as the captions table names it; "" where the table has no images.
    """

    caption: str
    text: str
    kind: str
    image: str = ""


class TruthJudge(Protocol):
    """Says in batches which texts are not what they were written as."""

    @property
    def name(self) -> str:
        """As in `TRUTH_JUDGES`: the name of the check in the column `checks`."""

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """Why each text is to be rejected: "" where it passes, else a reason that begins with the judge's name.

        What is said of a statement depends on it alone, up to the rounding of a batch.
        """
