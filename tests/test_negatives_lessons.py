"""Lessons and leaks: who is asked about which photos, and what the numbers are, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from negatives.filtering.lessons import (
    THIRDS,
    Lesson,
    foreign_logits,
    groups_of,
    intervals,
    leaks,
    lesson_fits,
    lessons,
    misses,
    untouched_scores,
)
from negatives.filtering.teaching import (
    PARTS,
    ROTATIONS,
    Learner,
    Retained,
    everything,
    kept_of_part,
    part_of_texts,
)
from negatives.judging.bias_metrics import ALL, image_weights
from negatives.judging.judge import Judge
from negatives.judging.linear import bayes_judge, surface_judge, word_judge
from negatives.judging.panel import Panel, seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import pair_table, text_table
from tests.test_negatives_teaching import (
    BIASED,
    PLAIN,
    SMALL,
    Fixed,
    Spy,
    biased,
    every_unit,
    gives_away,
    spied,
)
from tests.test_negatives_text_pairs import shuffled, tables, text_pairs_of

TOLERANCES = {"all": 0.05, "type": 0.1, "third": 0.1}


def taught(
    text_pairs: TextPairs,
    kept: Sequence[Retained] | None = None,
    judges: Sequence[Judge] = (word_judge(1),),
    *,
    unit: str = "pair",
    workers: int = 1,
) -> dict[tuple[str, str, str], Lesson]:
    """Lessons by judge, what it reads, and group."""
    part, panel = part_of_texts(text_pairs, 0), seat(judges, text_pairs, workers=workers)
    kept, untouched = kept or [everything(text_pairs)] * PARTS, untouched_scores(panel, part, unit)
    found = lessons(panel, kept, part, untouched, unit=unit, seed=0, bootstrap=100)
    return {(*one.learner, one.group): one for one in found}


def test_the_order_of_rows_workers_and_a_duplicate_change_no_lesson() -> None:
    captions, negatives = tables(biased(30, BIASED))
    again = captions.slice(3, 1).set_column(2, "caption_id", pa.array(["again"]))
    more = negatives.slice(3, 1).set_column(0, "caption_id", pa.array(["again"]))
    more = more.set_column(1, "negative_id", pa.array(["again"]))
    these, those = shuffled(pa.concat_tables([captions, again])), shuffled(pa.concat_tables([negatives, more]))
    other = build_text_pairs(text_table(these, those), pair_table(these, those))
    assert len(other.text_of) == len(SMALL.text_of) + 2
    assert taught(other, unit="both", workers=2) == taught(SMALL, unit="both")


@every_unit
def test_no_lesson_and_no_leak_depends_on_the_number_of_workers(unit: str) -> None:
    part = part_of_texts(SMALL, 0)
    judges: list[Judge] = [word_judge(1), surface_judge(), bayes_judge(1)]
    keep = np.random.default_rng(0).random(len(SMALL.captions if unit == "text" else SMALL.pairs)) < 0.6
    inside = [part == rotation.fit for rotation in ROTATIONS]
    kept = [kept_of_part(SMALL, keep[own if unit == "text" else own[SMALL.pairs[:, 0]]], own, unit) for own in inside]
    found = []
    for workers in (1, 2, 3):
        panel = seat(judges, SMALL, workers=workers)
        untouched = untouched_scores(panel, part, unit)
        found.append(
            [measure(panel, kept, part, untouched, unit=unit, seed=0, bootstrap=20) for measure in (lessons, leaks)]
        )
    assert found[0] == found[1] == found[2]
    assert len({one.value for one in found[0][0]}) > 3


def test_what_learners_of_everything_say_is_by_one_part_alone_and_of_the_others() -> None:
    part = part_of_texts(SMALL, 0)
    spy, panel = spied(SMALL)
    found = untouched_scores(panel, part, "both")
    assert list(found) == [Learner("spy", "pair"), Learner("spy", "text")]
    assert spy.parts(SMALL, part) == [{0}, {1}, {2}] * 2
    for fit, scores in enumerate(np.concatenate(list(found.values())), start=1):
        outside = part != (fit - 1) % PARTS
        assert scores[outside].tolist() == (fit * SMALL.labels[outside]).tolist()
        assert not scores[~outside].any()


def test_a_filter_of_texts_has_a_foreign_judge_of_pairs_all_the_same() -> None:
    _, panel = spied(SMALL)
    found = untouched_scores(panel, part_of_texts(SMALL, 0), "text")
    assert list(found) == [Learner("spy", "text"), Learner("spy", "pair")]


def right_about(part: np.ndarray, asked: dict[int, int]) -> np.ndarray:
    """[PARTS, U] scores that are right about one part each, by the part trained on, and wrong about all else."""
    sign = np.where(SMALL.labels == 1, 1.0, -1.0)
    return np.stack([sign * np.where(part == asked[trained], 1, -1) for trained in range(PARTS)])


def test_each_part_is_asked_about_by_judges_of_the_part_that_its_role_names() -> None:
    """Learners of everything are trained on `fit` and asked about `certify`; judges of leaks the other way round.

    The foreign judge is trained on `search`: it saw no photo of the learner that it is asked beside.
    """
    part, kept = part_of_texts(SMALL, 0), [everything(SMALL)] * PARTS
    taught_by = right_about(part, {rotation.fit: rotation.certify for rotation in ROTATIONS})
    leaked_by = right_about(part, {rotation.certify: rotation.fit for rotation in ROTATIONS})
    foreign = right_about(part, {rotation.search: rotation.certify for rotation in ROTATIONS})
    panel = Panel(SMALL, [Fixed()], {"fixed": np.zeros(len(part))})
    pair, text = Learner("fixed", "pair"), Learner("fixed", "text")
    found = lessons(panel, kept, part, {text: taught_by, pair: foreign}, unit="text", seed=0, bootstrap=20)
    assert {one.everything for one in found} == {1.0}
    found = leaks(panel, kept, part, {text: leaked_by, pair: foreign}, unit="text", seed=0, bootstrap=20)
    assert {(one.value, one.control, one.everything) for one in found} == {(1.0, 1.0, 1.0)}
    assert (foreign_logits(panel, part, {pair: foreign}) > 0).all()
    assert (foreign_logits(panel, part, {pair: taught_by}) < 0).all()


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
    text_pairs = text_pairs_of(biased(6, {"swap_obj": (0.3, 0.3), "swap_att": (0.3, 0.3), "add_obj": (0.3, 0.3)}))
    wins, other = rng.integers(0, 3, (2, 18)) / 2
    # of the last, half the photos have no pair, and some resamples none at all
    cells = [(wins, np.arange(18)), (other, np.arange(18)), (wins, np.array([0, 1, 4])), (wins, np.arange(0))]
    found = intervals(text_pairs.pair_images, cells, image_weights(6, 60, "test"))
    for (values, rows), ends in zip(cells[:3], found, strict=False):
        means = []
        for weight in image_weights(6, 60, "test"):
            drawn = [photo for photo in range(6) for _ in range(int(weight[photo]))]
            assert len(drawn) == 6
            own = [values[row] for photo in drawn for row in rows if text_pairs.pair_images[row] == photo]
            if own:
                means.append(sum(own) / len(own))
        assert ends == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert len(means) < 60
    assert found[3] == (0.0, 1.0), "nothing is known of nothing"
    alone = [intervals(text_pairs.pair_images, cells[1:2], image_weights(6, 60, seed)) for seed in ("test", "other")]
    assert alone[0] == [found[1]], "cells share the resamples"
    assert alone[1] != [found[1]]
    assert intervals(text_pairs.pair_images, [], image_weights(6, 60, "test")) == []


def leaked(panel: Panel, kept: Sequence[Retained], part: np.ndarray, unit: str) -> list[Lesson]:
    untouched = untouched_scores(panel, part, unit)
    return leaks(panel, kept, part, untouched, unit=unit, seed=0, bootstrap=20)


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
    found = {one.group: one for one in leaked(panel, kept, part, unit)}
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
    (whole, *_) = leaked(panel, kept, part, "pair")
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
    found = {one.group: one for one in leaked(panel, kept, part, "pair")}
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
    for unit in ("text", "pair", "both"):
        calls: list[int] = []
        judges, read = [Spy(), Spy("other")], np.stack([SMALL.images, SMALL.labels], axis=1)
        panel = Panel(SMALL, judges, {"spy": read, "other": read}, advance=lambda calls=calls: calls.append(1))
        part, kept = part_of_texts(SMALL, 0), [everything(SMALL)] * PARTS
        untouched = untouched_scores(panel, part, unit)
        lessons(panel, kept, part, untouched, unit=unit, seed=0, bootstrap=20)
        leaks(panel, kept, part, untouched, unit=unit, seed=0, bootstrap=20)
        ways = 1 if unit == "text" else 2
        # on everything, on what is kept and on a random subset; the thirds' judge is one of pairs
        assert len(calls) == lesson_fits(panel, unit) == 3 * (3 * 2 * ways + (unit == "text"))


def test_a_lesson_as_json_names_its_learner() -> None:
    one = Lesson(Learner("word", "text"), "swap_obj", 0.5, 0.4, 0.6, 0.55, 0.7, 9)
    assert json.loads(json.dumps(one.to_json())) == {
        **{"judge": "word", "reads": "text", "group": "swap_obj", "value": 0.5, "low": 0.4, "high": 0.6},
        **{"control": 0.55, "everything": 0.7, "count": 9},
    }
