"""What can be set of the judge that looks at the image. The judge itself needs a scorer, which nothing here imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from negatives.types import PARAPHRASE


@dataclass(frozen=True)
class ImageSettings:
    """The judge by an image-text scorer. Its bounds are in the scorer's own score, as `itm score` writes it: in [0, 1]
    for llava and blip2's itm, a cosine for clip."""

    switch: ClassVar[str] = "scorer"

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

    def faults(self, place: str) -> Iterator[str]:
        """A folder of images that nobody would look at."""
        if self.scorer is None and self.image_root is not None:
            yield f"`{place}image_root` needs `{place}scorer`: who is to look at the images?"


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
