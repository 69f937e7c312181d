"""The panel: subsets and other judges see the rows that are theirs, and no text is read twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from negatives.judging.linear import LinearJudge, surface_judge, word_judge
from negatives.judging.panel import seat
from tests.test_negatives_text_pairs import text_pairs_of, with_giveaway

TEXT_PAIRS = text_pairs_of(with_giveaway(20, 0.2, 0.5))


@dataclass
class Counting:
    """Features that count how often they were asked for."""

    asked: list[int] = field(default_factory=list)

    def __call__(self, texts: Sequence[str]) -> Any:
        self.asked.append(len(texts))
        return word_judge(1).encode(texts)


def test_a_subset_has_the_features_of_the_kept_texts_in_their_order() -> None:
    panel = seat([word_judge(1), surface_judge()], TEXT_PAIRS, folds=4, workers=2)
    keep = np.random.default_rng(0).random(len(TEXT_PAIRS.captions)) < 0.6
    keep_pairs = np.arange(len(TEXT_PAIRS.pairs)) % 3 != 0
    part = panel.subset(keep, keep_pairs)
    expected = TEXT_PAIRS.subset(keep, keep_pairs)
    assert part.text_pairs.captions == expected.captions
    assert (part.text_pairs.pairs == expected.pairs).all()
    assert (part.folds, part.workers) == (4, 2)
    for judge in panel.judges:
        own, anew = part.encoded[judge.name], judge.encode(expected.captions)
        assert own.shape == anew.shape
        assert abs(own - anew).max() == 0


def test_other_judges_read_the_texts_once_and_known_ones_not_again() -> None:
    features = Counting()
    counting = LinearJudge("counting", features)
    panel = seat([counting], TEXT_PAIRS)
    probes = panel.with_judges([counting, surface_judge()])
    assert [judge.name for judge in probes.judges] == ["counting", "surface"]
    assert set(probes.encoded) == {"counting", "surface"}
    probes.subset(TEXT_PAIRS.labels >= 0, np.ones(len(TEXT_PAIRS.pairs), dtype=bool))
    assert features.asked == [len(TEXT_PAIRS.captions)]
