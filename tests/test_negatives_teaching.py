"""What training teaches: which photos a learner is trained on, and what it is asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives.filtering.teaching import (
    PARTS,
    ROTATIONS,
    Learner,
    asked_logits,
    at_random,
    everything,
    kept_of_part,
    learn,
    part_of_texts,
)
from negatives.judging.judge import Scorer
from negatives.judging.linear import word_judge
from negatives.judging.panel import Panel, seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import InputError, pair_table, text_table
from tests.test_negatives_text_pairs import Row, shuffled, tables, text_pairs_of

BIASED = {"replace_rel": (0.1, 0.7), "swap_obj": (0.3, 0.3)}
"""Type -> how many of its positives and of its negatives have the word that stands for the type."""
UNITS = ("text", "pair", "both")
every_unit = pytest.mark.parametrize("unit", UNITS)
every_way = pytest.mark.parametrize("reads", ["text", "pair"])
# many words: two learners of few words would agree by chance
WORDS = [f"w{number}" for number in range(300)]


def biased(images: int, shares: Mapping[str, tuple[float, float]], seed: int = 0) -> list[Row]:
    """A pair of each type for each photo, of random words; so many of either end with a word of that type."""
    rng = np.random.default_rng(seed)
    return [
        (f"image {image}", *(" ".join([*rng.choice(WORDS, 3), kind[-3:] * bool(rng.random() < s)]) for s in own), kind)
        for image in range(images)
        for kind, own in shares.items()
    ]


def gives_away(text_pairs: TextPairs) -> np.ndarray:
    """[U] whether a text ends with the word of a type."""
    return np.array([caption.split(" ")[-1] in ("rel", "obj") for caption in text_pairs.captions])


@dataclass
class Spy:
    """Notes whose photos it is fitted on; the logit of every pair is the number of the fit. Reads (photo, label)."""

    name: str = "spy"
    threads: bool = True
    fits: list[set[int]] = field(default_factory=list)

    def encode(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        self.fits.append(set(encoded[rows, 0].tolist()))
        number = len(self.fits)
        return lambda rows: number * encoded[rows, 1]

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        return self.fit(encoded, pairs.ravel(), np.empty(0))

    def parts(self, text_pairs: TextPairs, part: np.ndarray) -> list[set[int]]:
        """Of each fit, the parts that its photos are of."""
        return [set(part[np.isin(text_pairs.images, list(photos))].tolist()) for photos in self.fits]


@dataclass
class Fixed:
    """Learns nothing: a text's score is what was read."""

    name: str = "fixed"
    threads: bool = True

    def encode(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        return lambda rows: encoded[rows]

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        return self.fit(encoded, pairs, pairs)


def spied(text_pairs: TextPairs) -> tuple[Spy, Panel]:
    spy = Spy()
    return spy, Panel(text_pairs, [spy], {"spy": np.stack([text_pairs.images, text_pairs.labels], axis=1)})


SMALL = text_pairs_of(biased(30, BIASED))
PLAIN = text_pairs_of(biased(150, BIASED))


@pytest.mark.parametrize("photos", [30, 31, 35])
def test_parts_are_whole_photos_and_as_large_as_each_other(photos: int) -> None:
    captions, negatives = tables(biased(photos, BIASED))
    # photos without a pair are dealt out too, and do not make a part poorer in pairs
    lone = [captions.slice(0, 7).set_column(0, "image_id", pa.array([f"lone {i}" for i in range(7)]))]
    lone[0] = lone[0].set_column(2, "caption_id", pa.array([f"lone {i}" for i in range(7)]))
    captions = pa.concat_tables([captions, *lone])
    text_pairs = build_text_pairs(text_table(captions, negatives), pair_table(captions, negatives))
    part = part_of_texts(text_pairs, 0)
    of_photo = [set(part[text_pairs.images == photo].tolist()) for photo in range(photos + 7)]
    assert all(len(own) == 1 for own in of_photo)
    for rows in (np.unique(text_pairs.pair_images), np.arange(photos + 7)):
        counts = np.bincount([min(of_photo[photo]) for photo in rows], minlength=PARTS)
        assert len(counts) == PARTS
        assert counts.max() - counts.min() <= (1 if len(rows) == photos else 2)


def test_a_photos_part_depends_on_the_ids_and_the_seed_alone() -> None:
    captions, negatives = tables(biased(30, BIASED))
    again = captions.slice(0, 1).set_column(2, "caption_id", pa.array(["again"]))
    more = negatives.slice(0, 1).set_column(0, "caption_id", pa.array(["again"]))
    more = more.set_column(1, "negative_id", pa.array(["again"]))
    twice = [pa.concat_tables(both) for both in ([captions, again], [negatives, more])]
    wanted = part_of_texts(SMALL, 0)
    for these, those in ((shuffled(captions), shuffled(negatives)), (shuffled(twice[0]), twice[1])):
        other = build_text_pairs(text_table(these, those), pair_table(these, those))
        assert part_of_texts(other, 0).tolist() == wanted.tolist()
    assert part_of_texts(SMALL, 1).tolist() != wanted.tolist()


def test_too_few_photos_are_refused_with_the_number_that_is_needed() -> None:
    text_pairs = text_pairs_of(biased(29, BIASED))
    with pytest.raises(InputError, match=r"takes 30 photos with pairs or more, got 29\. Give more;"):
        part_of_texts(text_pairs, 0)
    with pytest.raises(InputError, match="takes 36 photos with pairs or more, got 30"):
        part_of_texts(SMALL, 0, least=12)
    assert set(part_of_texts(SMALL, 0).tolist()) == {0, 1, 2}


@every_way
def test_a_learner_of_what_is_kept_saw_photos_of_the_part_fit_only(reads: str) -> None:
    """Neither those that certify, nor those that the strengths were searched on."""
    part = part_of_texts(SMALL, 0)
    spy, panel = spied(SMALL)
    logits = asked_logits(panel, Learner("spy", reads), [everything(SMALL)] * PARTS, part)
    for number, asked in zip(logits.astype(int), part[SMALL.pairs[:, 0]], strict=True):
        (rotation,) = [rotation for rotation in ROTATIONS if rotation.certify == asked]
        assert spy.parts(SMALL, part)[number - 1] == {rotation.fit}


@every_way
def test_a_learner_scores_the_texts_asked_about_alone(reads: str) -> None:
    part, panel = part_of_texts(SMALL, 0), seat([word_judge(1)], SMALL)
    learner, kept = Learner("word", reads), everything(SMALL)
    whole, one = (learn(panel, learner, kept, part == 0, asked) for asked in (None, part == 2))
    assert one[part == 2].tolist() == whole[part == 2].tolist()
    assert whole[part != 2].any()
    assert not one[part != 2].any()


@every_unit
def test_a_learner_is_trained_on_what_is_kept_alone(unit: str) -> None:
    part = part_of_texts(SMALL, 0)
    kept, photos = [], []
    for rotation in ROTATIONS:
        inside = part == rotation.fit
        rows = inside if unit == "text" else inside[SMALL.pairs[:, 0]]
        keep = np.arange(rows.sum()) % 5 == 0
        kept.append(kept_of_part(SMALL, keep, inside, unit))
        of = SMALL.images if unit == "text" else SMALL.pair_images
        photos.append(set(of[np.flatnonzero(rows)[keep]].tolist()))
    spy, panel = spied(SMALL)
    asked_logits(panel, Learner("spy", "text" if unit == "text" else "pair"), kept, part)
    assert spy.fits == photos


@every_unit
def test_a_random_subset_has_as_many_of_each_class_or_type_of_the_photos_chosen_from(unit: str) -> None:
    part = part_of_texts(PLAIN, 0)
    inside = part == 1
    rows = inside if unit == "text" else inside[PLAIN.pairs[:, 0]]
    names = PLAIN.labels.astype(str) if unit == "text" else PLAIN.pair_types.astype(str)
    rng = np.random.default_rng(0)
    keep = rng.random(rows.sum()) < np.where(names[rows] == names[0], 0.3, 0.7)
    kept = kept_of_part(PLAIN, keep, inside, unit)
    drawn, other = (at_random(PLAIN, kept, inside, unit, seed) for seed in (0, 1))
    own, chosen, again = (one.texts if unit == "text" else one.pairs for one in (kept, drawn, other))
    assert not chosen[~rows].any()
    for name in set(names):
        assert chosen[names == name].sum() == own[names == name].sum() > 0
    assert (chosen != own).any()
    assert (chosen != again).any()
