"""Probes from inside: no miss where text says nothing, a miss where it does, also the wrong way round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from negatives.filtering.filter import Filtered
from negatives.filtering.inside import Inside, inside_fits, probe_inside
from negatives.filtering.plan import CertificatePlan
from negatives.judging.bias_metrics import ALL, auc
from negatives.judging.judge import Judge
from negatives.judging.linear import bayes_judge, surface_judge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import TextPairs
from tests.test_negatives_text_pairs import text_pairs_of, with_giveaway

PROBES: list[Judge] = [word_judge(1), surface_judge()]
CHANCE = text_pairs_of(with_giveaway(400, 0.4, 0.4))
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])


def keeping(text_pairs: TextPairs, unit: str = "text", keep: np.ndarray | None = None) -> Filtered:
    """A filter's result that keeps these texts, or these pairs; all where not given."""
    texts, pairs = len(text_pairs.captions), len(text_pairs.pairs)
    if unit == "text":
        own = np.ones(texts, dtype=bool) if keep is None else keep
        both = own[text_pairs.pairs].all(axis=1)
    else:
        both = np.ones(pairs, dtype=bool) if keep is None else keep
        own = np.zeros(texts, dtype=bool)
        own[text_pairs.pairs[both].ravel()] = True
    score, pair_score = np.full(texts, 0.5), np.full(pairs, 0.5)
    return Filtered(
        unit, 1.0, np.zeros(texts), score, own.astype(float), own, np.zeros(pairs), pair_score, both.astype(float), both
    )


def certified(text_pairs: TextPairs, filtered: Filtered, probes: Sequence[Judge] = PROBES, **arguments: Any) -> Inside:
    of_panel = {name: arguments.pop(name) for name in ("workers", "advance") if name in arguments}
    plan = CertificatePlan(**{"folds": 3, "seeds": 1, "bootstrap": 20, "tolerance": 0.03} | arguments)
    return probe_inside(seat(probes, text_pairs, **of_panel), filtered, plan)


def giveaway_of(text_pairs: TextPairs) -> np.ndarray:
    return np.array(["indeed" in caption for caption in text_pairs.captions])


@every_unit
def test_text_of_one_distribution_is_balanced(unit: str) -> None:
    found = certified(CHANCE, keeping(CHANCE, unit), seeds=3, tolerance=0.04)
    assert found.misses == []
    for one in found.estimates:
        assert one.value == pytest.approx(0.5, abs=0.06), one


@every_unit
def test_a_planted_giveaway_is_a_miss_that_names_its_probe(unit: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(150, 0.2, 0.6))
    found = certified(text_pairs, keeping(text_pairs, unit))
    assert found.misses
    named = {(one.metric, one.judge): one.value for one in found.estimates if one.negative_type == ALL}
    wanted = {"text": ["auc"], "pair": ["paired_accuracy"], "both": ["auc", "paired_accuracy"]}[unit]
    assert {miss.split(" is ")[0] for miss in found.misses} >= {f"{name} of the word probe" for name in wanted}
    for miss in found.misses:
        metric, _, _, judge, _, _, value, *_ = miss.split(" ")
        assert metric in wanted
        assert value == f"{named[metric, judge]:.3f},"
        assert miss.endswith("not 0.5 +- 0.03")


def test_a_giveaway_that_one_probe_sees_is_missed_by_the_others() -> None:
    """Word probes do not see final punctuation."""
    text_pairs = text_pairs_of(with_giveaway(300, 0.2, 0.6, giveaway="."))
    probes = {"word": [word_judge(1)], "surface": [surface_judge()]}
    found = {name: certified(text_pairs, keeping(text_pairs), probe) for name, probe in probes.items()}
    assert found["word"].misses == []
    assert [miss.split(" is ")[0] for miss in found["surface"].misses] == ["auc of the surface probe"]


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_fresh_probes_below_one_half_are_a_miss_too(unit: str) -> None:
    """Of three images that share a word, one has it in its positive and two in their negatives.

    What the other two say of it is wrong for the first, and nothing for each of the others.
    """
    rows = []
    for number in range(90):
        word = f"word{number // 3}"
        texts = (f"a dog {word}", "a dog") if number % 3 == 0 else ("a dog", f"a dog {word}")
        rows.append((f"image {number}", *texts, "swap_obj"))
    text_pairs = text_pairs_of(rows)
    found = certified(text_pairs, keeping(text_pairs, unit), [bayes_judge(1)], seeds=3)
    metric = {"text": "auc", "pair": "paired_accuracy"}[unit]
    (whole,) = [one for one in found.estimates if (one.metric, one.negative_type) == (metric, ALL)]
    assert whole.value < 0.47
    assert found.misses == [f"{metric} of the bayes probe is {whole.value:.3f}, not 0.5 +- 0.03"]


def test_an_over_corrected_set_is_a_miss_and_its_own_judge_is_below_one_half() -> None:
    """Positives without the giveaway and negatives with it are dropped: what is left has it the wrong way round."""
    text_pairs = text_pairs_of(with_giveaway(300, 0.4, 0.6))
    giveaway = giveaway_of(text_pairs)
    keep = np.where(text_pairs.labels == 1, giveaway, ~giveaway)
    filtered = replace(keeping(text_pairs, keep=keep), oof_score=np.where(giveaway, 0.4, 0.6))
    found = certified(text_pairs, filtered)
    assert found.known == {"auc": 0.0}
    assert found.misses
    assert "auc of the word probe is 1.000, not 0.5 +- 0.03" in found.misses


def test_the_tolerance_decides_on_either_side() -> None:
    text_pairs = text_pairs_of(with_giveaway(150, 0.3, 0.5))
    filtered = keeping(text_pairs)
    (value,) = [
        one.value
        for one in certified(text_pairs, filtered, PROBES[:1]).estimates
        if (one.metric, one.negative_type) == ("auc", ALL)
    ]
    distance = abs(value - 0.5)
    assert 0.02 < distance < 0.3
    assert certified(text_pairs, filtered, PROBES[:1], tolerance=distance + 1e-6).misses == []
    assert certified(text_pairs, filtered, PROBES[:1], tolerance=distance - 1e-6).misses


@pytest.mark.parametrize("name", ["transformer", "another"])
def test_a_slow_judge_has_a_tolerance_of_its_own_and_is_not_stacked(name: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(100, 0.2, 0.6))
    stand_in = replace(word_judge(1), name=name, threads=False)
    found = certified(
        text_pairs, keeping(text_pairs), [stand_in, surface_judge()], transformer_tolerance=0.5, tolerance=0.5
    )
    assert not found.misses
    assert {one.judge for one in found.estimates} == {name, "surface"}
    found = certified(
        text_pairs, keeping(text_pairs), [stand_in, surface_judge()], transformer_tolerance=0.01, tolerance=0.5
    )
    assert [miss.split(" is ")[0] for miss in found.misses] == [f"auc of the {name} probe"]
    assert found.misses[0].endswith("not 0.5 +- 0.01")


def test_the_stack_says_the_same_with_and_without_a_transformer_beside_it() -> None:
    text_pairs = text_pairs_of(with_giveaway(60, 0.2, 0.6))
    stand_in = replace(word_judge(2), name="transformer", threads=False)
    alone, beside = (
        [one for one in certified(text_pairs, keeping(text_pairs), probes).estimates if one.judge == "stacked"]
        for probes in (PROBES, [stand_in, *PROBES])
    )
    assert alone
    assert alone == beside


def small() -> TextPairs:
    # texts: 1 bus-, 1 cat-, 1 dog+, 2 cup-, 2 kite+, 3 tree-, 3 bed+; pairs: dog-bus, dog-cat, kite-cup, bed-tree
    return text_pairs_of(
        [
            ("1", "a dog", "a cat", "swap_obj"),
            ("1", "a dog", "a bus", "swap_obj"),
            ("2", "a kite", "a cup", "swap_obj"),
            ("3", "a bed", "a tree", "swap_att"),
        ]
    )


@every_unit
def test_the_control_has_as_many_texts_of_each_class_or_pairs_of_each_type(unit: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(100, 0.2, 0.6))
    rng = np.random.default_rng(0)
    if unit == "text":
        filtered = keeping(
            text_pairs, unit, rng.random(len(text_pairs.captions)) < np.where(text_pairs.labels == 1, 0.4, 0.8)
        )
    else:
        filtered = keeping(
            text_pairs,
            unit,
            rng.random(len(text_pairs.pairs)) < np.where(text_pairs.pair_types == "swap_obj", 0.8, 0.4),
        )
    found = certified(text_pairs, filtered, PROBES[:1])
    count = {
        name: {(one.metric, one.negative_type): one.count for one in estimates}
        for name, estimates in (("kept", found.estimates), ("control", found.control))
    }
    if unit == "text":
        assert count["kept"]["auc", ALL] == count["control"]["auc", ALL] == filtered.keep.sum()
        assert count["kept"]["paired_accuracy", ALL] == filtered.pair_keep.sum()
        return
    for kind in (ALL, "swap_obj", "replace_rel"):
        kept = filtered.pair_keep[(text_pairs.pair_types == kind) | (kind == ALL)].sum()
        assert count["kept"]["paired_accuracy", kind] == count["control"]["paired_accuracy", kind] == kept


def test_the_control_is_drawn_and_shows_what_was_there_before() -> None:
    text_pairs = text_pairs_of(with_giveaway(200, 0.2, 0.6))
    giveaway = giveaway_of(text_pairs)
    rng = np.random.default_rng(0)
    odds = np.where(text_pairs.labels == 1, np.where(giveaway, 1, 0.5), np.where(giveaway, 1 / 3, 1))
    found = certified(text_pairs, keeping(text_pairs, keep=rng.random(len(giveaway)) < odds), PROBES[:1])
    values = [
        next(one.value for one in estimates if one.metric == "auc" and one.negative_type == ALL)
        for estimates in (found.estimates, found.control)
    ]
    assert values[0] == pytest.approx(0.5, abs=0.06)
    assert values[1] == pytest.approx(0.7, abs=0.06)  # (1 + 0.6 - 0.2) / 2


def test_known_is_what_the_filters_own_scores_reach_on_what_is_kept() -> None:
    score = np.array([0.1, 0.3, 0.9, 0.6, 0.6, 0.2, 0.4])
    text_pairs = small()
    more = text_pairs_of(with_giveaway(60, 0.3, 0.5))
    rng = np.random.default_rng(0)
    filtered = replace(
        keeping(more, keep=rng.random(len(more.captions)) < 0.8), oof_score=rng.random(len(more.captions))
    )
    found = certified(more, filtered, PROBES[:1])
    assert found.known == {"auc": auc(filtered.oof_score[filtered.keep], more.labels[filtered.keep])}
    pair_score = rng.integers(0, 3, len(more.pairs)) / 2
    filtered = replace(keeping(more, "pair", np.arange(len(more.pairs)) % 4 != 0), pair_score=pair_score)
    assert certified(more, filtered, PROBES[:1]).known == {"paired_accuracy": pair_score[filtered.pair_keep].mean()}
    # by hand: positives 0.9, 0.6, 0.4 against 0.1, 0.3, 0.6, 0.2: 4, 3 + 1/2 and 3 of 4 won
    assert auc(score, text_pairs.labels) == pytest.approx((4 + 3.5 + 3) / 12)


@every_unit
def test_json_has_every_part_and_no_nan(unit: str) -> None:
    text_pairs = text_pairs_of(with_giveaway(60, 0.3, 0.5))
    found = replace(certified(text_pairs, keeping(text_pairs, unit)), known={"auc": float("nan")})
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(content) == {"unit", "misses", "estimates", "control", "known"}
    assert content["known"] == {"auc": None}
    first = content["estimates"][0]
    assert set(first) == {"estimand", "judge", "negative_type", "value", "low", "high", "count"}
    assert {one["judge"] for one in content["estimates"]} == {"word", "surface", "stacked"}


def test_progress_counts_the_fits_that_are_announced() -> None:
    text_pairs = text_pairs_of(with_giveaway(60, 0.4, 0.4))
    calls: list[int] = []
    certified(text_pairs, keeping(text_pairs), seeds=2, advance=lambda: calls.append(1))
    # 2 probes, 2 metrics, 3 folds; 2 seeds and the control
    assert len(calls) == inside_fits(2, CertificatePlan(folds=3, seeds=2)) == 2 * 2 * 3 * 3


def test_a_certificate_does_not_depend_on_workers() -> None:
    text_pairs = text_pairs_of(with_giveaway(60, 0.3, 0.5))
    one, two = (certified(text_pairs, keeping(text_pairs), workers=workers) for workers in (1, 2))
    assert one == two
