"""What training teaches: who is trained on which photos, and what the numbers are, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from negatives.filtering.teaching import (
    PARTS,
    ROTATIONS,
    THIRDS,
    Learner,
    Lesson,
    Retained,
    asked_logits,
    at_random,
    everything,
    foreign_logits,
    groups_of,
    interval,
    kept_of_part,
    leaks,
    lesson_fits,
    lessons,
    misses,
    part_of_texts,
)
from negatives.judging.bias_metrics import ALL, image_weights
from negatives.judging.judge import Judge, Scorer
from negatives.judging.linear import word_judge
from negatives.judging.panel import Panel, seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import InputError, pair_table, text_table
from tests.test_negatives_text_pairs import Row, shuffled, tables, text_pairs_of

TOLERANCES = {"all": 0.05, "type": 0.1, "third": 0.1}
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


def taught(
    text_pairs: TextPairs,
    kept: Sequence[Retained] | None = None,
    judges: Sequence[Judge] = (word_judge(1),),
    *,
    unit: str = "pair",
    workers: int = 1,
) -> dict[tuple[str, str, str], Lesson]:
    """Lessons by judge, what it reads, and group."""
    part = part_of_texts(text_pairs, 0)
    whole = [everything(text_pairs)] * PARTS
    found = lessons(
        seat(judges, text_pairs, workers=workers), kept or whole, part, unit=unit, seed=0, bootstrap=100
    )  # fmt: skip
    return {(*one.learner, one.group): one for one in found}


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


def test_the_order_of_rows_workers_and_a_duplicate_change_no_lesson() -> None:
    captions, negatives = tables(biased(30, BIASED))
    again = captions.slice(3, 1).set_column(2, "caption_id", pa.array(["again"]))
    more = negatives.slice(3, 1).set_column(0, "caption_id", pa.array(["again"]))
    more = more.set_column(1, "negative_id", pa.array(["again"]))
    these, those = shuffled(pa.concat_tables([captions, again])), shuffled(pa.concat_tables([negatives, more]))
    other = build_text_pairs(text_table(these, those), pair_table(these, those))
    assert len(other.text_of) == len(SMALL.text_of) + 2
    assert taught(other, unit="both", workers=2) == taught(SMALL, unit="both")


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


def test_the_foreign_judge_saw_no_photo_of_the_learner_that_it_is_asked_beside() -> None:
    part = part_of_texts(SMALL, 0)
    spy, panel = spied(SMALL)
    logits = foreign_logits(panel, part)
    for number, asked in zip(logits.astype(int), part[SMALL.pairs[:, 0]], strict=True):
        (rotation,) = [rotation for rotation in ROTATIONS if rotation.certify == asked]
        assert spy.parts(SMALL, part)[number - 1] == {rotation.search}


def test_what_leaks_is_asked_of_judges_of_photos_that_the_rule_has_not_seen() -> None:
    part = part_of_texts(SMALL, 0)
    spy, panel = spied(SMALL)
    leaks(panel, [everything(SMALL)] * PARTS, part, unit="text", seed=0, bootstrap=20)
    assert spy.parts(SMALL, part) == [{rotation.certify} for rotation in ROTATIONS]


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
def test_a_planted_giveaway_teaches_and_texts_without_one_teach_nothing(unit: str) -> None:
    found = taught(PLAIN, unit=unit)
    for (judge, reads, group), one in found.items():
        if group == "replace_rel":
            assert one.low > 0.6, (judge, reads)
            assert one.low < one.value < one.high
        if group == "swap_obj":
            assert one.low < 0.5 < one.high, (judge, reads)
    said = list(misses(list(found.values()), TOLERANCES))
    assert {line.split(":")[0] for line in said} >= {"all", "replace_rel", THIRDS[2]}
    nothing = text_pairs_of(biased(300, {"replace_rel": (0.3, 0.3), "swap_obj": (0.3, 0.3)}))
    quiet = [one for key, one in taught(nothing, unit=unit).items() if key[2] in (ALL, *BIASED, *THIRDS)]
    assert len(quiet) == 6 * (2 - (unit == "text"))
    for one in quiet:
        # thirds vary more: three learners agree with three foreign judges by chance
        assert one.value == pytest.approx(0.5, abs=0.13 if one.group in THIRDS else 0.08), one


def opposite(text_pairs: TextPairs) -> list[Retained]:
    """Of one type everything is kept; of the other no pair whose negative alone has the giveaway."""
    part = part_of_texts(text_pairs, 0)
    first, second = gives_away(text_pairs)[text_pairs.pairs].T
    keep = (text_pairs.pair_types == "replace_rel") | (first & ~second)
    inside = [part == rotation.fit for rotation in ROTATIONS]
    return [kept_of_part(text_pairs, keep[own[text_pairs.pairs[:, 0]]], own, "pair") for own in inside]


def test_opposite_biases_of_two_types_cancel_over_all_and_are_misses_by_type() -> None:
    text_pairs = text_pairs_of(biased(300, {"replace_rel": (0.2, 0.6), "swap_obj": (0.2, 0.6)}))
    found = taught(text_pairs, opposite(text_pairs))
    values = {group: one.value for (_, reads, group), one in found.items() if reads == "pair"}
    assert values["replace_rel"] > 0.62
    assert values["swap_obj"] < 0.38
    assert values[ALL] == pytest.approx(0.5, abs=0.04)
    own = [one for (_, reads, _), one in found.items() if reads == "pair"]
    said = {line.split(":")[0] for line in misses(own, {"all": 0.1, "type": 0.1, "third": 0.5})}
    assert said == {"replace_rel", "swap_obj"}


def test_a_control_is_as_large_and_from_the_same_photos_and_everything_is_untouched() -> None:
    text_pairs = text_pairs_of(biased(300, {"replace_rel": (0.2, 0.6), "swap_obj": (0.2, 0.6)}))
    found = taught(text_pairs, opposite(text_pairs))
    whole = taught(text_pairs)
    for key, one in found.items():
        assert one.everything == whole[key].value == whole[key].control, "where all is kept, a control is everything"
        assert one.count == whole[key].count
    for kind in ("replace_rel", "swap_obj"):
        assert found["word", "pair", kind].control > 0.62, "drawn without a look at the giveaway"


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


def test_thirds_are_by_the_foreign_judges_logit_from_weak_to_strong() -> None:
    foreign = np.array([3.0, -2.0, 0.5, 1.0, -1.0, 9.0])
    pairs = text_pairs_of([(str(i), f"a {i}", f"b {i}", ("swap_obj", "swap_att")[i % 2]) for i in range(6)])
    groups = {name: rows.tolist() for name, rows in groups_of(pairs, foreign).items()}
    assert groups == {
        "all": [0, 1, 2, 3, 4, 5],
        "swap_att": [1, 3, 5],
        "swap_obj": [0, 2, 4],
        "weak third": [1, 4],
        "middle third": [2, 3],
        "strong third": [0, 5],
    }
    equal = groups_of(pairs, np.zeros(6))
    assert [len(equal[name]) for name in THIRDS if name in equal] == [6], "a judge that says nothing parts nothing"


def test_an_interval_is_that_of_photos_drawn_again() -> None:
    rng = np.random.default_rng(0)
    wins, images = rng.integers(0, 3, 14) / 2, rng.integers(0, 4, 14)  # of 6 photos, two have no pair
    weights = list(image_weights(6, 60, "test"))
    means = []
    for weight in weights:
        drawn = [photo for photo in range(6) for _ in range(int(weight[photo]))]
        assert len(drawn) == 6
        own = [win for photo in drawn for win, image in zip(wins, images, strict=True) if image == photo]
        if own:
            means.append(sum(own) / len(own))
    assert interval(wins, images, weights) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert interval(wins[:0], images[:0], weights) == (0.0, 1.0), "nothing is known of nothing"


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_leaks_are_the_wins_on_what_was_kept(unit: str) -> None:
    part, rng = part_of_texts(SMALL, 0), np.random.default_rng(0)
    kept = []
    for rotation in ROTATIONS:
        inside = part == rotation.fit
        rows = inside if unit == "text" else inside[SMALL.pairs[:, 0]]
        kept.append(kept_of_part(SMALL, rng.random(rows.sum()) < 0.6, inside, unit))
    scores = rng.integers(0, 4, len(part)).astype(float)
    panel = Panel(SMALL, [Fixed()], {"fixed": scores})
    found = {one.group: one for one in leaks(panel, kept, part, unit=unit, seed=0, bootstrap=20)}
    for group in (ALL, *BIASED):
        own, whole = [], []
        for pair, (first, second) in enumerate(SMALL.pairs):
            if group not in (ALL, SMALL.types[second]):
                continue
            whole.append(0.5 if scores[first] == scores[second] else float(scores[first] > scores[second]))
            (number,) = [n for n, rotation in enumerate(ROTATIONS) if rotation.fit == part[first]]
            if kept[number].pairs[pair]:
                own.append(whole[-1])
        one = found[group]
        assert (one.value, one.everything, one.count) == (pytest.approx(np.mean(own)), np.mean(whole), len(own))
        assert one.low <= one.value <= one.high


def test_the_control_of_a_leak_is_drawn_without_a_look_at_what_was_kept() -> None:
    """What is kept is what a judge is right about; of as much at random, it is right about what it is of everything."""
    part, rng = part_of_texts(PLAIN, 0), np.random.default_rng(0)
    scores = rng.integers(0, 4, len(part)).astype(float)
    right = scores[PLAIN.pairs[:, 0]] > scores[PLAIN.pairs[:, 1]]
    inside = [part == rotation.fit for rotation in ROTATIONS]
    kept = [kept_of_part(PLAIN, right[own[PLAIN.pairs[:, 0]]], own, "pair") for own in inside]
    panel = Panel(PLAIN, [Fixed()], {"fixed": scores})
    (whole, *_) = leaks(panel, kept, part, unit="pair", seed=0, bootstrap=20)
    assert (whole.group, whole.value) == (ALL, 1.0)
    assert whole.control == pytest.approx(whole.everything, abs=0.1)
    assert whole.everything < 0.7


def test_of_a_type_of_which_nothing_is_kept_no_leak_is_known_and_json_says_so() -> None:
    part = part_of_texts(SMALL, 0)
    keep = SMALL.pair_types == "swap_obj"
    kept = [
        kept_of_part(SMALL, keep[(part == r.fit)[SMALL.pairs[:, 0]]], part == r.fit, "pair") for r in ROTATIONS
    ]  # fmt: skip
    panel = Panel(SMALL, [Fixed()], {"fixed": np.zeros(len(part))})
    found = {one.group: one for one in leaks(panel, kept, part, unit="pair", seed=0, bootstrap=20)}
    assert math.isnan(found["replace_rel"].value)
    assert (found["replace_rel"].count, found["swap_obj"].value) == (0, 0.5)


def test_a_miss_is_an_interval_that_leaves_the_tolerance_of_its_group() -> None:
    def lesson(group: str, low: float, value: float, high: float, judge: str = "word") -> Lesson:
        return Lesson(Learner(judge, "pair"), group, value, low, high, 0.6, 0.7, 9)

    tolerances = {"all": 0.02, "type": 0.1, "third": 0.2}
    inside = [lesson(ALL, 0.48, 0.5, 0.52), lesson("swap_obj", 0.4, 0.5, 0.6), lesson("weak third", 0.3, 0.5, 0.7)]
    assert list(misses(inside, tolerances)) == []
    outside = [
        lesson(ALL, 0.47, 0.5, 0.52),
        lesson(ALL, 0.48, 0.5, 0.53),
        lesson("swap_obj", 0.5, 0.61, 0.7),
        lesson("weak third", 0.29, 0.5, 0.6),
    ]
    assert [line.partition(" learner")[0] for line in misses(outside, tolerances)] == [
        "all: what is kept may teach the word",
        "all: what is kept may teach the word",
        "swap_obj: what is kept teaches the word",
        "weak third: what is kept may teach the word",
    ]
    slow = [lesson(ALL, 0.45, 0.5, 0.55, judge="tree"), lesson("swap_obj", 0.3, 0.5, 0.7, judge="tree")]
    (line,) = misses(slow, tolerances, {"tree"}, 0.05)
    assert line == (
        "swap_obj: what is kept may teach the tree learner of pairs 0.500 [0.300, 0.700], not 0.5 +- 0.1"
    ), "its own tolerance is over all pairs alone"


def test_as_many_fits_are_made_as_are_announced() -> None:
    for unit in UNITS:
        calls: list[int] = []
        judges, read = [Spy(), Spy("other")], np.stack([SMALL.images, SMALL.labels], axis=1)
        panel = Panel(SMALL, judges, {"spy": read, "other": read}, advance=lambda calls=calls: calls.append(1))
        part, kept = part_of_texts(SMALL, 0), [everything(SMALL)] * PARTS
        lessons(panel, kept, part, unit=unit, seed=0, bootstrap=20)
        leaks(panel, kept, part, unit=unit, seed=0, bootstrap=20)
        ways = 1 if unit == "text" else 2
        assert len(calls) == lesson_fits(panel, unit) == 3 * (4 * 2 * ways + 1)


def test_a_lesson_as_json_names_its_learner() -> None:
    one = Lesson(Learner("word", "text"), "swap_obj", 0.5, 0.4, 0.6, 0.55, 0.7, 9)
    assert json.loads(json.dumps(one.to_json())) == {
        **{"judge": "word", "reads": "text", "group": "swap_obj", "value": 0.5, "low": 0.4, "high": 0.6},
        **{"control": 0.55, "everything": 0.7, "count": 9},
    }
