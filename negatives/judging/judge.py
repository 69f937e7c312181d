"""What a text-only judge is: how likely is it that a caption is a positive, without a look at the image?

A judge turns texts into features once (`encode`, which sees no label) and is then fitted on some of them: on single
texts with labels, or on pairs, where it learns to score the positive above its negative. What it has learnt is a score
for each text; on a pair it is the difference of the two, so that it is antisymmetric in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Scorer = Callable[[np.ndarray], np.ndarray]
"""Rows of encoded texts [n] -> their scores [n], higher = more likely positive."""


class Judge(Protocol):
    """What cross-fitting asks of a judge. Fits depend on their arguments only: not on order, thread or history."""

    @property
    def name(self) -> str:
        """Names the judge in tables."""

    @property
    def threads(self) -> bool:
        """Whether several fits may run at a time, each in a thread.

        A judge that does not counts as slow: it takes no part in a filter's search where others can, nor in a
        certificate's stack, and a certificate gives it a tolerance of its own.
        """

    def encode(self, texts: Sequence[str]) -> Any:
        """What `fit` and `fit_pairs` take for the texts, one row for each; sees no label.

        The result is indexed by an array of rows (`encoded[rows]`), which gives the same for these texts.
        """

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        """Learns to tell the classes apart, both weighing the same: a logit for each text.

        Args:
            encoded: what `encode` returned.
            rows: [n] texts to learn from.
            labels: [n] 1 or 0, both there.
        """

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        """Learns to score positives above their negatives: the difference is the logit of a pair.

        Args:
            encoded: what `encode` returned.
            pairs: [n, 2] rows of a positive and its negative, at least two.
        """
