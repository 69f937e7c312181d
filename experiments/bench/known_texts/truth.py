"""The truth about a certificate: what its very learners get on fresh texts, as many as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse, vstack

from experiments.bench.known_texts.texts import World, draw_sample
from negatives.filtering import ROTATIONS, THIRDS, Learner, Retained, Rotated, learn, learners_of, logits_of
from negatives.judging import Judge, Panel, TextPairs, encode, paired_wins

NO_PART = -1  # of fresh photos


@dataclass(frozen=True)
class Fresh:
    """Texts that nothing was fitted on.

    Attributes:
        text_pairs: of photos with names of their own.
        encoded: judge's name -> its features of them.
    """

    text_pairs: TextPairs
    encoded: dict[str, Any]


def draw_fresh(world: World, photos: int, judges: Sequence[Judge], seed: int | str) -> Fresh:
    """Fresh texts as judges read them."""
    drawn = draw_sample(world, photos, f"fresh {seed}").text_pairs
    named = replace(drawn, image_ids=[f"fresh {name}" for name in drawn.image_ids])
    return Fresh(named, encode(judges, named))


class Asked:
    """A panel whose texts are those of a sample, followed by fresh ones.

    Args:
        panel: of the sample.
        fresh: read by the same judges.
    """

    def __init__(self, panel: Panel, fresh: Fresh) -> None:
        self.own, self.own_pairs = len(panel.text_pairs.captions), len(panel.text_pairs.pairs)
        encoded = {judge.name: _stacked(panel.encoded[judge.name], fresh.encoded[judge.name]) for judge in panel.judges}
        self.panel = replace(panel, text_pairs=panel.text_pairs.joined(fresh.text_pairs), encoded=encoded)
        self.types = fresh.text_pairs.pair_types

    def truths(self, rotated: Rotated, unit: str) -> dict[tuple[Learner, str], float]:
        """Learner and group -> the share of fresh pairs whose positive the learners of the certificate pick.

        Each rotation's learner is asked about all fresh pairs. Thirds have the edges of the certificate's.
        """
        part = np.concatenate([rotated.part, np.full(len(self.panel.text_pairs.captions) - self.own, NO_PART)])
        thirds = self._thirds(part)
        groups = {"all": np.ones(thirds.shape, dtype=bool)}
        groups |= {name: np.tile(self.types == name, (len(ROTATIONS), 1)) for name in sorted(set(self.types))}
        groups |= {name: thirds == number for number, name in enumerate(THIRDS)}
        found: dict[tuple[Learner, str], float] = {}
        for learner in learners_of(self.panel, unit):
            wins = np.stack(
                [
                    paired_wins(self._logits(learner, kept, part == rotation.fit)[self.own_pairs :])
                    for rotation, kept in zip(ROTATIONS, rotated.kept, strict=True)
                ]
            )
            found |= {(learner, name): float(wins[members].mean()) for name, members in groups.items()}
        return found

    def taught_by_all(self, kept: Retained) -> dict[str, float]:
        """Judge -> the share of fresh pairs whose positive it picks, trained on all pairs that were kept."""
        seen = np.arange(len(self.panel.text_pairs.captions)) < self.own
        return {
            judge.name: float(
                paired_wins(self._logits(Learner(judge.name, "pair"), kept, seen)[self.own_pairs :]).mean()
            )
            for judge in self.panel.judges
        }

    def _thirds(self, part: np.ndarray) -> np.ndarray:
        """[3, F] third of each fresh pair in each rotation, by the certificate's foreign judge of the sample."""
        whole = Retained(np.ones(self.own, dtype=bool), np.ones(self.own_pairs, dtype=bool))
        learner = Learner(self.panel.judges[0].name, "pair")
        asked = part[self.panel.text_pairs.pairs[: self.own_pairs, 0]]
        own, fresh = np.zeros(self.own_pairs), []
        for rotation in ROTATIONS:
            logits = self._logits(learner, whole, part == rotation.search)
            rows = np.flatnonzero(asked == rotation.certify)
            own[rows] = logits[rows]
            fresh.append(logits[self.own_pairs :])
        return np.digitize(np.stack(fresh), np.quantile(own, [1 / 3, 2 / 3]))

    def _kept(self, kept: Retained) -> Retained:
        """The same of all texts: nothing is learnt from fresh ones."""
        texts, pairs = self.panel.text_pairs.captions, self.panel.text_pairs.pairs
        return Retained(
            np.concatenate([kept.texts, np.zeros(len(texts) - self.own, dtype=bool)]),
            np.concatenate([kept.pairs, np.zeros(len(pairs) - self.own_pairs, dtype=bool)]),
        )

    def _logits(self, learner: Learner, kept: Retained, seen: np.ndarray) -> np.ndarray:
        """[P] of all pairs, by a learner of what is kept of the sample."""
        return logits_of(learn(self.panel, learner, self._kept(kept), seen), self.panel.text_pairs)


def _stacked(own: Any, fresh: Any) -> Any:
    return vstack([own, fresh], format="csr") if issparse(own) else np.concatenate([own, fresh])


def furthest(values: Sequence[float]) -> float:
    """The value that is furthest from a coin's."""
    return max(values, key=lambda value: abs(value - 0.5))
