"""The panel: judges together with the texts that they are fitted on and asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from negatives.judging.judge import Judge
from negatives.judging.text_pairs import TextPairs

Advance = Callable[[], None]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Panel:
    """Judges, and the texts and pairs that they are fitted on and asked about, cross-fitted by image.

    Attributes:
        text_pairs: U texts and the P pairs among them.
        judges: to fit; each fit starts from nothing, so that a panel can be asked again and again.
        encoded: judge's name -> its features of the U texts; may hold more than the judges' own.
        folds: 2 or more.
        workers: threads that fit; no result depends on them.
        advance: called after each fit.
    """

    text_pairs: TextPairs
    judges: Sequence[Judge]
    encoded: Mapping[str, Any]
    folds: int = 5
    workers: int = 1
    advance: Advance = _nothing

    @property
    def threads(self) -> int:
        """How many of the judges' fits may run at a time: `workers`, or 1 where a judge does not fit in threads."""
        return self.workers if all(judge.threads for judge in self.judges) else 1

    def with_judges(self, judges: Sequence[Judge]) -> Panel:
        """The same texts before other judges; only those that are new read the texts."""
        # by name: a probe of the filter's own family reads no text twice, although it is fitted anew
        missing = [judge for judge in judges if judge.name not in self.encoded]
        return replace(self, judges=judges, encoded={**self.encoded, **encode(missing, self.text_pairs)})

    def subset(self, keep: np.ndarray, keep_pairs: np.ndarray) -> Panel:
        """The same judges before the kept texts and pairs.

        What `encode` gives for a text depends on that text only, or on all that were there (a vocabulary from scratch);
        so rows are taken from it, and no text is read again.

        Args:
            keep: [U] bool.
            keep_pairs: [P] bool; a pair also needs both its texts.
        """
        # an array of rows, not the mask: token ids are a list, and are indexed by rows
        rows = np.flatnonzero(keep)
        encoded = {judge.name: self.encoded[judge.name][rows] for judge in self.judges}
        return replace(self, text_pairs=self.text_pairs.subset(keep, keep_pairs), encoded=encoded)


def encode(judges: Sequence[Judge], text_pairs: TextPairs) -> dict[str, Any]:
    """Judge's name -> its features of all texts."""
    return {judge.name: judge.encode(text_pairs.captions) for judge in judges}


def seat(
    judges: Sequence[Judge],
    text_pairs: TextPairs,
    *,
    folds: int = 5,
    workers: int = 1,
    advance: Advance = _nothing,
) -> Panel:
    """A panel whose judges have read the texts.

    Args:
        judges, text_pairs, folds, workers, advance: see `Panel`.
    """
    return Panel(text_pairs, judges, encode(judges, text_pairs), folds, workers, advance)
