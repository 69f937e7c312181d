"""Pairs that a filter dropped and pairs that it kept, a few of each type."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from experiments.report.generated.marks import Piece, marked
from experiments.report.negative_types import types_in_order
from negatives.filtering import Filtered
from negatives.judging import TextPairs

TYPES_SHOWN, PAIRS_SHOWN = 6, 5


class ShownPair(NamedTuple):
    """A pair that is shown.

    Attributes:
        positive, negative: pieces of the texts; changed are the words that the other one does not have there.
        gone: which of the two were dropped, where single texts were.
        score: the chance, by judges that saw no text of the image, that the first is the positive.
    """

    positive: list[Piece]
    negative: list[Piece]
    gone: tuple[bool, bool]
    score: float


class TypeExamples(NamedTuple):
    """Pairs of one type, and how many there are of each kind."""

    negative_type: str
    dropped: list[ShownPair]
    kept: list[ShownPair]
    dropped_of: int
    kept_of: int


def examples_of(text_pairs: TextPairs, filtered: Filtered, seed: int) -> list[TypeExamples]:
    """Examples of the types with the most pairs, drawn at random by the seed.

    Draws do not depend on the order of the tables' rows, since texts and pairs have an order of their own.
    """
    types = text_pairs.pair_types
    most = [name for name, _ in Counter(types.tolist()).most_common(TYPES_SHOWN)]
    found = []
    for name in types_in_order(most):
        own = np.flatnonzero(types == name)
        dropped, kept = own[~filtered.pair_keep[own]], own[filtered.pair_keep[own]]
        shown = (_drawn(text_pairs, filtered, dropped, seed), _drawn(text_pairs, filtered, kept, seed))
        found.append(TypeExamples(name, *shown, len(dropped), len(kept)))
    return found


def _drawn(text_pairs: TextPairs, filtered: Filtered, rows: np.ndarray, seed: int) -> list[ShownPair]:
    """A few of the pairs, in random order, each wording once."""
    shown: dict[tuple[str, str], ShownPair] = {}
    for row in np.random.default_rng(seed).permutation(rows):
        first, second = text_pairs.pairs[row]
        wording = text_pairs.captions[first], text_pairs.captions[second]
        if wording not in shown:
            # a pair that was dropped as one says nothing of its single texts
            gone = [filtered.unit == "text" and not filtered.keep[text] for text in (first, second)]
            shown[wording] = ShownPair(*marked(*wording), (gone[0], gone[1]), float(filtered.pair_score[row]))
        if len(shown) == PAIRS_SHOWN:
            break
    return list(shown.values())
