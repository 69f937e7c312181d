"""The frontier: each point is a rule's own choice at its strength, measured as lessons are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import negatives.filtering.frontier
from negatives.filtering.certificate import certify
from negatives.filtering.filter import filter_texts
from negatives.filtering.frontier import CHOSEN, DRAWN, SHARES, FrontierPoint, frontier, frontier_fits, kept_shares
from negatives.filtering.lessons import Lesson, lessons, untouched_scores
from negatives.filtering.plan import CertificatePlan, FilterPlan
from negatives.filtering.rotating import Rotated, rotate
from negatives.filtering.teaching import ROTATIONS, Learner, asked_logits, everything, kept_of_part, part_of_texts
from negatives.judging.bias_metrics import paired_wins
from negatives.judging.crossfit import in_threads
from negatives.judging.linear import surface_judge, word_judge
from negatives.judging.panel import Panel, seat
from tests.test_negatives_teaching import biased
from tests.test_negatives_text_pairs import text_pairs_of

TEXT_PAIRS = text_pairs_of(biased(90, {"replace_rel": (0.1, 0.7), "swap_obj": (0.3, 0.3)}))
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])


def measured(unit: str, panel: Panel) -> tuple[Rotated, list[FrontierPoint], list[Lesson]]:
    plan = FilterPlan(unit=unit, strength=0.4)
    parts = rotate(panel, plan)
    untouched = untouched_scores(panel, parts.part, unit)
    found = lessons(panel, parts.kept, parts.part, untouched, unit=unit, seed=0, bootstrap=20)
    return parts, frontier(panel, parts, found, plan, bootstrap=20), found


@every_unit
def test_a_point_is_what_the_rule_keeps_of_each_part_and_what_that_teaches(unit: str) -> None:
    panel = seat([word_judge(1), surface_judge()], TEXT_PAIRS, folds=3)
    parts, points, _ = measured(unit, panel)
    drawn = [(point.rule, point.dropped) for point in points]
    assert drawn[0] == (CHOSEN, None)
    assert set(drawn[1:]) <= {(rule, share) for rule in DRAWN for share in SHARES}
    assert {rule for rule, _ in drawn[1:]} == set(DRAWN)
    point = next(point for point in points if (point.rule, point.dropped) == ("top_fraction", 0.3))
    kept = []
    for rotation in ROTATIONS:
        inside = parts.part == rotation.fit
        own = panel.subset(inside, inside[TEXT_PAIRS.pairs].all(axis=1))
        chosen = filter_texts(own, FilterPlan(unit=unit, rule="top_fraction", top_fraction=0.3))
        kept.append(kept_of_part(TEXT_PAIRS, chosen.keep if unit == "text" else chosen.pair_keep, inside, unit))
    assert (point.texts, point.pairs) == kept_shares(TEXT_PAIRS, kept, parts.part)
    # word learns more than surface, to which these texts look alike
    assert point.learner == "word"
    wins = paired_wins(asked_logits(panel, Learner(point.learner, point.reads), kept, parts.part))
    assert point.value == pytest.approx(wins.mean())
    assert point.low <= point.value <= point.high
    by_type = {name: wins[TEXT_PAIRS.pair_types == name].mean() for name in ("replace_rel", "swap_obj")}
    assert point.furthest_value == pytest.approx(by_type[point.furthest_type])
    assert abs(point.furthest_value - 0.5) == pytest.approx(max(abs(value - 0.5) for value in by_type.values()))


def test_the_chosen_point_is_the_lesson_of_the_best_learner() -> None:
    parts, points, found = measured("pair", seat([word_judge(1)], TEXT_PAIRS, folds=3))
    chosen = points[0]
    whole = [one for one in found if one.group == "all"]
    best = max(whole, key=lambda one: one.everything)
    assert (chosen.learner, chosen.reads) == best.learner
    assert (chosen.value, chosen.low, chosen.high) == (best.value, best.low, best.high)
    assert (chosen.texts, chosen.pairs) == kept_shares(TEXT_PAIRS, parts.kept, parts.part)


def test_the_more_is_dropped_the_less_stays_and_a_searched_rule_nests() -> None:
    _, points, _ = measured("pair", seat([word_judge(1)], TEXT_PAIRS, folds=3))
    for rule in DRAWN:
        own = [point for point in points if point.rule == rule]
        kept = [point.pairs for point in own]
        assert kept == sorted(kept, reverse=True)
        assert kept[0] > kept[-1]


def test_a_certificate_has_a_frontier_where_it_is_asked_for_and_the_parts_were_judged() -> None:
    calls: list[int] = []
    panel = seat([word_judge(1)], TEXT_PAIRS, folds=3, advance=lambda: calls.append(1))
    plan = FilterPlan(unit="pair", strength=0.4)
    filtered, parts = filter_texts(panel, plan), rotate(panel, plan)
    wanted = CertificatePlan(bootstrap=20)
    counts = []
    for own, rotated in (
        (wanted, parts),
        (replace(wanted, frontier=False), parts),
        (wanted, Rotated(part_of_texts(TEXT_PAIRS, 0), [everything(TEXT_PAIRS)] * 3)),
    ):
        calls.clear()
        found = certify(panel, filtered, rotated, own)
        counts.append((len(found.frontier), len(calls)))
        assert ("frontier" in json.loads(json.dumps(found.to_json(), allow_nan=False))) == bool(found.frontier)
    (points, fits), (none, fewer), (by_hand, as_few) = counts
    assert (none, by_hand) == (0, 0)
    assert points > len(DRAWN)
    assert fewer == as_few < fits <= fewer + frontier_fits()


def test_a_slow_learner_does_not_keep_the_quick_ones_from_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(surface_judge(), name="slow", threads=False)
    used: list[int] = []

    def spy(function: Any, items: Any, workers: int) -> list[Any]:
        used.append(workers)
        return in_threads(function, items, workers)

    monkeypatch.setattr(negatives.filtering.frontier, "in_threads", spy)
    _, points, _ = measured("pair", seat([word_judge(1), slow], TEXT_PAIRS, folds=3, workers=2))
    assert {point.learner for point in points} == {"word"}
    assert used == [2]


def test_nothing_of_a_frontier_depends_on_workers() -> None:
    one, three = (
        measured("pair", seat([word_judge(1)], TEXT_PAIRS, folds=3, workers=workers))[1] for workers in (1, 3)
    )
    assert one == three
    assert np.isfinite([point.value for point in one]).all()
