"""The settings of online mixing: declared here, used by the data module, and read from YAML under `data.mixing`.

Fields carry their rules in `metadata`, which the configuration checks. They are not frozen, since OmegaConf has to fill
them in; nothing else changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

UNITS = ("text", "pair")
MOVING = ("negatives", "swap_ratio", "paraphrase_ratio")
"""What a curriculum moves."""


@dataclass
class Curriculum:
    """Where the mixing starts: each value that is given moves linearly to the mixing's own, and stays there."""

    epochs: float = field(default=1.0, metadata={"above": 0.0})
    """Passes over the data until the mixing's own values are reached; a fraction ends within an epoch."""
    negatives: float | None = field(default=None, metadata={"min": 0.0})
    """Negatives for each positive at the start; constant where not given."""
    swap_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance of a swap at the start; constant where not given."""
    paraphrase_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance of a paraphrase at the start; constant where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """Nothing that moves."""
        if (self.negatives, self.swap_ratio, self.paraphrase_ratio) == (None, None, None):
            keys = ", ".join(f"`{place}{key}`" for key in ("negatives", "swap_ratio"))
            yield f"{keys} or `{place}paraphrase_ratio` must be given: where does the curriculum start?"


@dataclass
class Mixing:
    """How negatives join positives in a row, and which positives there are."""

    unit: str = field(default="text", metadata={"choices": UNITS})
    """text: a row is kept positives and any kept negatives of their image. pair: one and its own kept negatives."""
    positives: int = field(default=1, metadata={"min": 1, "max": 10_000})
    """Kept positives of an image in a row (unit: text); they share its vision pass and prefix."""
    negatives: float = field(default=1.0, metadata={"min": 0.0})
    """Negatives drawn for each positive; of 1.3, one and with chance 0.3 a second."""
    swap_ratio: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    """Chance that a drawn negative is a swap one."""
    paraphrase_ratio: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Chance that a kept paraphrase stands in for its caption in an epoch, with the caption's negatives. Not given:
    paraphrases (captions with `source_caption_id`) are positives like any others. Given: those of captions that were
    not kept are not used."""
    image_dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    """Chance that a row's image is replaced by noise: the scorer learns what the text alone is worth, which is what the
    blind control then reads off (as the condition is dropped for classifier-free guidance, Ho & Salimans, 2022)."""
    curriculum: Curriculum | None = None
    """Other values to start from; none where not given."""

    def faults(self, place: str) -> Iterator[str]:
        """A curriculum of paraphrases that ends nowhere."""
        # null does not mean 0 here: without a ratio paraphrases are anchors of their own
        start = self.curriculum.paraphrase_ratio if self.curriculum is not None else None
        if start is not None and self.paraphrase_ratio is None:
            yield f"`{place}paraphrase_ratio` must be given where `{place}curriculum.paraphrase_ratio` is"

    def at(self, time: float) -> Mixing:
        """The mixing at a time of training, in epochs, as one without a curriculum.

        >>> Mixing(negatives=2.0, curriculum=Curriculum(epochs=0.5, negatives=0.0)).at(0.125).negatives
        0.5
        """
        if self.curriculum is None:
            return self
        # by time in epochs, so that batch size and number of ranks do not move it
        part = min(1.0, time / self.curriculum.epochs)
        starts = {name: getattr(self.curriculum, name) for name in MOVING}
        moved = {
            name: (1 - part) * start + part * getattr(self, name) for name, start in starts.items() if start is not None
        }
        return replace(self, curriculum=None, **moved)
