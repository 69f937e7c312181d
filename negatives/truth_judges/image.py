"""A judge that looks at the image: an image-text scorer says how well text and caption fit it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from negatives.truth_judges.judge import Statement
from negatives.types import PARAPHRASE


@dataclass(frozen=True)
class ImageSettings:
    """The judge by an image-text scorer. Its bounds are in the scorer's own score, as `itm score` writes it: in [0, 1]
    for llava and blip2's itm, a cosine for clip."""

    switch: ClassVar[str] = "scorer"
    may_differ: ClassVar[tuple[str, ...]] = ("batch_size", "device")
    meanings: ClassVar[Mapping[str, str]] = {
        "image_matches": "The scorer finds that it fits the image as well as the caption.",
        "image_mismatch": "The scorer finds that it fits the image less than the caption.",
    }

    scorer: str | None = None
    """Folder of a finished `itm train` or `itm export`, or a published model's folder or hub name. Not given: no such
    judge."""
    checkpoint: str = "last"
    """Which weights of a training: last, the best that it kept (`trainer.keep_best`), or those of a step it kept."""
    image_root: str | None = field(default=None, metadata={"exists": "folder"})
    """Folder that image paths start from; not given: `image_root`, else the folder of `captions`."""
    least_margin: float = field(default=0.0, metadata={"min": -1000.0, "max": 1000.0})
    """A negative has to score lower than its caption by more than this; otherwise it is rejected as image_matches."""
    most_drop: float = field(default=0.1, metadata={"min": 0.0, "max": 1000.0})
    """The most that a paraphrase may score lower than its caption; beyond it, it is rejected as image_mismatch."""
    batch_size: int = field(default=64, metadata={"min": 1, "max": 1_000_000})
    """Texts in a batch; those of an image are computed together."""
    device: str = "auto"
    """cpu, cuda, or another of torch's names; auto: a GPU where there is one."""


Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(images, texts) -> the score of each image with the text beside it, higher = better match."""


class ImageJudge:
    """Rejects negatives that fit their image as well as their caption does, and paraphrases that fit it much worse.

    Args:
        settings: the bounds.
        score: the scorer; it gets all texts of an image at once, and images as the captions table names them.
        identity: says which scorer it is, and where its images are.
    """

    name = "image"

    def __init__(self, settings: ImageSettings, score: Score, identity: str) -> None:
        self.settings, self._score = settings, score
        self.identity = json.dumps([self.name, settings.least_margin, settings.most_drop, identity])

    def rejections(self, statements: Sequence[Statement]) -> list[str]:
        """See `TruthJudge.rejections`.

        Raises:
            InputError: an image cannot be read, or a score is not finite.
        """
        if not statements:
            return []
        pairs = [pair for one in statements for pair in ((one.image, one.caption), (one.image, one.text))]
        # each once: a caption stands beside all that is written for it
        wanted = list(dict.fromkeys(pairs))
        found = dict(zip(wanted, self._score(*zip(*wanted, strict=True)), strict=True))
        scored = [(one.kind, found[one.image, one.caption], found[one.image, one.text]) for one in statements]
        return [reason_by_scores(*row, self.settings) for row in scored]


def reason_by_scores(kind: str, caption: float, text: float, settings: ImageSettings) -> str:
    """Why a text is to be rejected by what a scorer says of it and of its caption; "" where it passes.

    >>> reason_by_scores("swap_obj", 0.9, 0.2, ImageSettings()), reason_by_scores("swap_obj", 0.9, 0.9, ImageSettings())
    ('', 'image_matches')
    >>> reason_by_scores("paraphrase", 0.9, 0.85, ImageSettings())
    ''

    Args:
        kind: a negative type, or "paraphrase".
        caption: score of the image with the caption, higher = better match.
        text: score of the same image with the text.
        settings: the bounds.
    """
    drop = caption - text
    if kind == PARAPHRASE:
        return "image_mismatch" if drop > settings.most_drop else ""
    return "image_matches" if drop <= settings.least_margin else ""
