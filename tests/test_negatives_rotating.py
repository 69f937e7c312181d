"""The procedure on three parts of the photos, and its certificate: what is measured, what ships, and what is said."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from negatives.filtering.certificate import certificate_fits, certify, not_measured, retention
from negatives.filtering.filter import Filtered, filter_texts
from negatives.filtering.judged import judge_texts
from negatives.filtering.plan import SEARCHED, CertificatePlan, FilterPlan
from negatives.filtering.rotating import Rotated, filter_and_rotate, rotate, rotated_fits
from negatives.filtering.strengths import median_strengths, search_strengths
from negatives.filtering.teaching import ROTATIONS, everything, part_of_texts
from negatives.judging.judge import Scorer
from negatives.judging.linear import LinearJudge, word_judge
from negatives.judging.panel import Panel, seat
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError
from tests.test_negatives_teaching import Fixed, biased
from tests.test_negatives_text_pairs import text_pairs_of

BIASED = {"replace_rel": (0.1, 0.7), "swap_obj": (0.3, 0.3)}
TEXT_PAIRS = text_pairs_of(biased(90, BIASED))
FEW = text_pairs_of(biased(20, BIASED))
LOOSE = CertificatePlan(tolerance=0.5, type_tolerance=0.5, third_tolerance=0.5, bootstrap=20)
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])
NOTHING_SEARCHED = {
    "margins": {"rule": "margins", "strength": 0.4},
    "overlap": {"rule": "overlap", "strength": 0.4},
    "constant": {"rule": "overlap", "constant": 1.2},
    "top_fraction": {"rule": "top_fraction", "top_fraction": 0.4},
}


def seated(text_pairs: TextPairs = TEXT_PAIRS, **panel: Any) -> Panel:
    return seat([word_judge(1)], text_pairs, folds=3, **panel)


def rotated(panel: Panel, **plan: Any) -> tuple[Filtered, Rotated]:
    filtered, parts = filter_and_rotate(panel, FilterPlan(**plan))
    assert isinstance(parts, Rotated)
    return filtered, parts


@every_unit
@pytest.mark.parametrize("rule", SEARCHED)
def test_the_verdicts_that_ship_are_of_all_photos_by_the_median_strengths(unit: str, rule: str) -> None:
    panel, plan = seated(), FilterPlan(unit=unit, rule=rule)
    filtered, parts = rotated(panel, unit=unit, rule=rule)
    assert set(parts.strengths) == set(BIASED)
    wanted = filter_texts(panel, plan, parts.strengths)
    assert filtered.strengths == parts.strengths
    assert filtered.keep.tolist() == wanted.keep.tolist()
    assert filtered.pair_keep.tolist() == wanted.pair_keep.tolist()
    halved = filter_texts(panel, plan, {name: own / 2 for name, own in parts.strengths.items()})
    assert halved.pair_keep.sum() > filtered.pair_keep.sum()


@pytest.mark.parametrize("rule", NOTHING_SEARCHED)
def test_a_rule_that_searches_nothing_is_run_on_each_part_alone(rule: str) -> None:
    panel = seated()
    filtered, parts = rotated(panel, unit="pair", **NOTHING_SEARCHED[rule])
    plan = FilterPlan(unit="pair", **NOTHING_SEARCHED[rule])
    assert parts.strengths == {}
    assert filtered.pair_keep.tolist() == filter_texts(panel, plan).pair_keep.tolist()
    for rotation, kept in zip(ROTATIONS, parts.kept, strict=True):
        pairs = (parts.part == rotation.fit)[TEXT_PAIRS.pairs[:, 0]]
        own = filter_texts(panel.subset(parts.part == rotation.fit, pairs), plan)
        assert kept.pairs[pairs].tolist() == own.pair_keep.tolist()
        assert not kept.pairs[~pairs].any()
        assert 0 < own.pair_keep.sum() < len(own.pair_keep)


def test_what_is_kept_of_a_part_depends_on_no_text_of_the_photos_that_certify_it() -> None:
    part, (rotation, *_) = part_of_texts(TEXT_PAIRS, 0), ROTATIONS
    # without the last word, which is the giveaway
    other = [
        text if own != rotation.certify else text.rpartition(" ")[0]
        for text, own in zip(TEXT_PAIRS.captions, part, strict=True)
    ]
    here, there = (
        rotate(seated(texts), FilterPlan(unit="pair")) for texts in (TEXT_PAIRS, replace(TEXT_PAIRS, captions=other))
    )
    assert here.kept[0].pairs.tolist() == there.kept[0].pairs.tolist()
    assert here.kept[1].pairs.tolist() != there.kept[1].pairs.tolist(), "these photos search for the next part"


def test_what_a_searched_part_keeps_is_by_its_own_strengths_and_not_by_the_medians() -> None:
    panel, plan = seated(), FilterPlan(unit="pair")
    _, parts = rotated(panel, unit="pair")
    found = []
    for rotation, kept in zip(ROTATIONS, parts.kept, strict=True):
        inside = parts.part == rotation.fit
        pairs = inside[TEXT_PAIRS.pairs[:, 0]]
        own = panel.subset(inside, pairs)
        judged = judge_texts(own, unit="pair", seed=0)
        found.append(search_strengths(panel, judged, parts.part, rotation, plan))
        assert kept.pairs[pairs].tolist() == filter_texts(own, plan, found[-1]).pair_keep.tolist()
    assert parts.strengths == median_strengths(found)


@pytest.mark.parametrize("rule", SEARCHED)
def test_workers_change_nothing_and_the_seed_deals_the_parts_out(rule: str) -> None:
    plan = FilterPlan(unit="both", rule=rule)
    one, *others = (rotate(seated(workers=workers), plan) for workers in (1, 2, 3))
    for other in others:
        assert other.strengths == one.strengths
        assert other.part.tolist() == one.part.tolist()
        for a, b in zip(one.kept, other.kept, strict=True):
            assert a.texts.tolist() == b.texts.tolist()
            assert a.pairs.tolist() == b.pairs.tolist()
    seeded = part_of_texts(TEXT_PAIRS, 1)
    assert rotate(seated(), replace(plan, strength=0.3, seed=1)).part.tolist() == seeded.tolist()
    assert one.part.tolist() == part_of_texts(TEXT_PAIRS, 0).tolist() != seeded.tolist()


def test_a_judge_that_does_not_fit_in_threads_is_never_fitted_by_two() -> None:
    """Rotations wait for each other where a judge of the panel is slow; the quick ones may still search in threads."""
    busy, most = [], []

    @dataclass(frozen=True)
    class Alone(LinearJudge):
        def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
            busy.append(1)
            most.append(len(busy))
            scorer = super().fit_pairs(encoded, pairs)
            busy.pop()
            return scorer

    slow = Alone("slow", word_judge(1).features, threads=False)
    panel = seat([word_judge(1), slow], TEXT_PAIRS, folds=3, workers=3)
    assert (panel.threads, seated(workers=3).threads) == (1, 3)
    rotate(panel, FilterPlan(unit="pair", rule="margins", strength=0.3))
    assert max(most) == 1


@pytest.mark.parametrize(
    "plan",
    [
        FilterPlan(),
        FilterPlan(unit="both", by_type=False),
        FilterPlan(unit="pair", rule="overlap"),
        FilterPlan(unit="pair", rule="overlap", constant=1.2),
    ],
    ids=["margins", "margins of both", "overlap", "constant"],
)
def test_no_more_fits_are_made_than_are_announced(plan: FilterPlan) -> None:
    calls: list[int] = []
    panel = seated(advance=lambda: calls.append(1))
    filter_and_rotate(panel, plan)
    assert len(calls) <= rotated_fits(panel, plan)
    # learners that learn too little leave the search: with two ways to read, one at least stays
    assert len(calls) >= rotated_fits(panel, plan) * (0.5 if plan.unit == "both" else 1)


def test_without_a_certificate_a_rule_that_searches_nothing_judges_once() -> None:
    plan = FilterPlan(rule="top_fraction")
    calls: list[int] = []
    panel = seated(advance=lambda: calls.append(1))
    filtered, parts = filter_and_rotate(panel, plan, certified=False)
    assert parts is None
    assert len(calls) == rotated_fits(panel, plan, certified=False) == 3
    assert filtered.keep.any()


def test_a_plan_that_contradicts_itself_is_refused_before_the_first_fit() -> None:
    calls: list[int] = []
    with pytest.raises(InputError, match="`constant` must be left out where `rule` is margins"):
        filter_and_rotate(seated(advance=lambda: calls.append(1)), FilterPlan(rule="margins", constant=2.0))
    assert not calls


def test_too_few_photos_cost_a_certificate_but_no_verdicts() -> None:
    panel = seated(FEW)
    filtered, why = filter_and_rotate(panel, FilterPlan(rule="margins", strength=0.3))
    assert isinstance(why, str)
    assert "takes 30 photos with pairs or more, got 20" in why
    assert filtered.pair_keep.any()
    with pytest.raises(InputError, match="takes 30 photos with pairs or more, got 20"):
        filter_and_rotate(panel, FilterPlan())


def test_each_part_needs_a_photo_for_each_fold() -> None:
    panel = seat([word_judge(1)], text_pairs_of(biased(35, BIASED)), folds=12)
    with pytest.raises(InputError, match="takes 36 photos with pairs or more, got 35"):
        rotate(panel, FilterPlan())


@every_unit
def test_a_certificate_holds_every_lesson_and_is_balanced_where_none_is_missed(unit: str) -> None:
    calls: list[int] = []
    panel = seated(advance=lambda: calls.append(1))
    filtered, parts = rotated(panel, unit=unit, rule="top_fraction")
    calls.clear()
    found = certify(panel, filtered, parts, LOOSE)
    assert len(calls) == certificate_fits(panel, unit, LOOSE)
    groups = ["all", *BIASED, "weak third", "middle third", "strong third"]
    ways = ["text"] if unit == "text" else ["pair", "text"]
    assert [(one.learner.reads, one.group) for one in found.lessons] == [(w, g) for w in ways for g in groups]
    assert [(one.learner.reads, one.group) for one in found.leaks] == [(w, g) for w in ways for g in groups[:3]]
    assert (found.unit, found.balanced, found.misses) == (unit, True, [])
    assert {name: (kept.kept, kept.of) for name, kept in found.retention.items()} == {
        "pairs": (filtered.pair_keep.sum(), 180),
        "texts": (filtered.keep.sum(), 360),
        "positives": (filtered.keep[TEXT_PAIRS.labels == 1].sum(), 180),
        "negatives": (filtered.keep[TEXT_PAIRS.labels == 0].sum(), 180),
        **{name: (filtered.pair_keep[TEXT_PAIRS.pair_types == name].sum(), 90) for name in BIASED},
    }


def test_one_interval_outside_is_enough_not_to_be_balanced() -> None:
    """A judge that is always wrong of one type and a coin of the other, to which nothing can be taught."""
    scores = np.zeros(len(TEXT_PAIRS.captions))
    scores[(TEXT_PAIRS.labels == 0) & (TEXT_PAIRS.types == "swap_obj")] = 1.0
    panel = Panel(TEXT_PAIRS, [Fixed()], {"fixed": scores}, folds=3)
    parts = Rotated(part_of_texts(TEXT_PAIRS, 0), [everything(TEXT_PAIRS)] * 3, {})
    filtered = filter_texts(seated(), FilterPlan(unit="pair", rule="margins", strength=0.0))
    for changed, missed in (({}, []), ({"type_tolerance": 0.4}, ["swap_obj", "swap_obj"])):
        found = certify(panel, filtered, parts, replace(LOOSE, **changed))  # type: ignore[arg-type]
        assert [line.split(":")[0] for line in found.misses] == missed
        assert found.balanced == (not missed)
    assert found.misses[0] == (
        "swap_obj: what is kept teaches the fixed learner of pairs 0.000 [0.000, 0.000], not 0.5 +- 0.4"
    )


def test_what_was_not_measured_is_a_miss_and_json_has_no_nan() -> None:
    filtered = filter_texts(seated(FEW), FilterPlan(unit="pair", rule="margins", strength=0.3))
    found = not_measured(FEW, filtered, "Nothing is certified. Why.")
    assert (found.balanced, found.misses, found.lessons) == (False, ["Nothing is certified. Why."], [])
    assert found.retention == retention(FEW, filtered)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["teaching"] == content["leaking"] == []
    assert "inside" not in content


def test_what_cannot_be_learnt_from_is_a_miss_and_leaves_the_verdicts() -> None:
    filtered, parts = rotated(seated(), unit="pair", rule="top_fraction")
    nothing = [kept._replace(pairs=np.zeros_like(kept.pairs)) for kept in parts.kept]
    found = certify(seated(), filtered, replace(parts, kept=nothing), LOOSE)
    assert found.balanced is False
    (miss,) = found.misses
    assert miss.startswith("What was kept cannot be learnt from. ")
    assert found.retention["pairs"].kept == filtered.pair_keep.sum()


def test_a_leak_that_is_not_known_is_none_in_json() -> None:
    part = part_of_texts(TEXT_PAIRS, 0)
    swaps = TEXT_PAIRS.pair_types == "swap_obj"
    kept = [
        everything(TEXT_PAIRS)._replace(pairs=swaps & (part == rotation.fit)[TEXT_PAIRS.pairs[:, 0]])
        for rotation in ROTATIONS
    ]
    filtered = filter_texts(seated(), FilterPlan(unit="pair", rule="margins", strength=0.0))
    found = certify(seated(), filtered, Rotated(part, kept, {}), LOOSE)
    assert any(math.isnan(one.value) for one in found.leaks)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    (leak, _) = [one for one in content["leaking"] if one["group"] == "replace_rel"]
    assert (leak["value"], leak["control"], leak["count"]) == (None, None, 0)
    assert leak["everything"] > 0.5


def test_a_slow_learner_has_a_tolerance_of_its_own_over_all_pairs() -> None:
    slow = replace(word_judge(1), name="tree", threads=False)
    panel = seat([slow], TEXT_PAIRS, folds=3)
    parts = Rotated(part_of_texts(TEXT_PAIRS, 0), [everything(TEXT_PAIRS)] * 3, {})
    filtered = filter_texts(seated(), FilterPlan(rule="margins", strength=0.0))
    for own, missed in ((0.5, []), (0.01, ["all"])):
        found = certify(panel, filtered, parts, replace(LOOSE, transformer_tolerance=own))
        assert [line.split(":")[0] for line in found.misses] == missed
