"""Strengths: what the rules that have them drop, and how they are searched on photos set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from negatives.filtering.judged import Judged, judge_texts
from negatives.filtering.plan import FilterPlan
from negatives.filtering.strengths import (
    MOST,
    STEPS,
    apt_learners,
    away_from_coin,
    keep_by_strengths,
    median_strengths,
    quick_judges,
    reached,
    search_strengths,
)
from negatives.filtering.teaching import ROTATIONS, Learner, everything, part_of_texts
from negatives.judging.judge import Judge, Scorer
from negatives.judging.linear import COARSE_STEPS, LinearJudge, bayes_judge, word_judge
from negatives.judging.panel import Panel, seat
from negatives.judging.text_pairs import TextPairs
from tests.test_negatives_teaching import Spy, biased, gives_away
from tests.test_negatives_text_pairs import text_pairs_of

ROTATION = ROTATIONS[0]
JUDGES: list[Judge] = [word_judge(1)]
TEXT_PAIRS = text_pairs_of(biased(240, {"replace_rel": (0.1, 0.7), "swap_obj": (0.3, 0.3)}))
every_unit = pytest.mark.parametrize("unit", ["text", "pair", "both"])


def judged(types: Sequence[str], labels: Sequence[int] | None = None, seed: int = 0) -> Judged:
    """Texts (with labels) or pairs with scores at random."""
    size = len(types)
    groups = [f"{label} {name}" for label, name in zip(labels, types, strict=True)] if labels else list(types)
    ones = np.array(labels) if labels else np.ones(size, dtype=np.int64)
    score = np.random.default_rng(seed).random(size)
    return Judged(np.zeros(size), score, ones, groups, [str(row) for row in range(size)])


PAIRS = judged(["swap_obj"] * 40 + ["replace_rel"] * 60)
TEXTS = judged([""] * 100 + ["swap_obj"] * 50 + ["replace_rel"] * 150, [1] * 100 + [0] * 200)


MARGINS, OVERLAP = FilterPlan(rule="margins"), FilterPlan(rule="overlap")


@pytest.mark.parametrize(
    "plan", [MARGINS, OVERLAP, replace(OVERLAP, sharpness=6.0)], ids=["margins", "overlap", "sharp"]
)
@pytest.mark.parametrize("which", [PAIRS, TEXTS], ids=["pairs", "texts"])
def test_what_a_larger_strength_keeps_a_smaller_one_keeps_too(which: Judged, plan: FilterPlan) -> None:
    """Of overlap, since a row's draw is the same at every strength."""
    kept = [keep_by_strengths(which, {"all": strength}, plan)[0] for strength in (0.0, 0.3, 0.6, MOST)]
    assert kept[0].all()
    for more, less in pairwise(kept):
        assert (less <= more).all()
        assert less.sum() < more.sum()
    assert kept[-1].any()


def test_of_each_type_the_most_confident_go_and_of_no_other() -> None:
    keep, chance = keep_by_strengths(PAIRS, {"swap_obj": 0.25, "replace_rel": 0.0}, MARGINS)
    assert chance.tolist() == keep.astype(float).tolist()
    swap = np.arange(100) < 40
    assert keep[~swap].all()
    assert (~keep[swap]).sum() == 10
    assert PAIRS.oof_score[swap & ~keep].min() > PAIRS.oof_score[swap & keep].max()


def test_of_equally_confident_rows_the_key_decides_and_not_the_order() -> None:
    there = replace(PAIRS, oof_score=np.full(100, 0.7))
    back = replace(there, groups=there.groups[::-1], keys=there.keys[::-1])
    kept, again = (keep_by_strengths(which, {"all": 0.5}, MARGINS)[0] for which in (there, back))
    assert kept.tolist() == again[::-1].tolist()
    assert kept[:40].sum() == 20


def test_a_type_without_a_strength_has_that_of_all_and_else_none() -> None:
    keep, _ = keep_by_strengths(PAIRS, {"swap_obj": 0.25, "all": 0.5}, MARGINS)
    assert [(~keep[:40]).sum(), (~keep[40:]).sum()] == [10, 30]
    assert keep_by_strengths(PAIRS, {"swap_obj": 0.25}, MARGINS)[0][40:].all()


def test_the_classes_shrink_alike_where_texts_are_judged() -> None:
    """60 % of the 150 go and 20 % of the 50: half of all negatives, and half of the 100 positives."""
    keep, _ = keep_by_strengths(TEXTS, {"replace_rel": 0.6, "swap_obj": 0.2}, MARGINS)
    assert [(~keep[:100]).sum(), (~keep[100:150]).sum(), (~keep[150:]).sum()] == [50, 10, 90]
    score = TEXTS.oof_score
    assert score[:100][~keep[:100]].min() > score[:100][keep[:100]].max(), "positives with the highest scores"
    assert score[150:][~keep[150:]].max() < score[150:][keep[150:]].min(), "negatives with the lowest"


def test_overlap_drops_each_share_on_average_and_the_classes_shrink_alike() -> None:
    _, chance = keep_by_strengths(TEXTS, {"replace_rel": 0.6, "swap_obj": 0.2}, OVERLAP)
    groups = (slice(0, 100), slice(100, 150), slice(150, 300))
    assert [chance[group].mean() for group in groups] == pytest.approx([0.5, 0.8, 0.4], abs=1e-6)
    keep = np.array([keep_by_strengths(TEXTS, {"all": 0.5}, replace(OVERLAP, seed=seed))[0] for seed in range(40)])
    assert (keep[0] != keep[1]).any(), "the seed draws"
    _, chance = keep_by_strengths(TEXTS, {"all": 0.5}, OVERLAP)
    assert np.abs(keep.mean(axis=0) - chance).max() < 0.35, "each row with its chance"
    assert keep.mean() == pytest.approx(0.5, abs=0.03)


def test_a_sharper_overlap_comes_nearer_to_margins() -> None:
    cut, _ = keep_by_strengths(PAIRS, {"all": 0.4}, MARGINS)
    differing = [
        np.abs(keep_by_strengths(PAIRS, {"all": 0.4}, replace(OVERLAP, sharpness=own))[1] - cut).sum()
        for own in (0.5, 2.0, 10.0, 100.0)
    ]
    assert differing == sorted(differing, reverse=True)
    assert differing[-1] < 0.1 * differing[0]


def searched(
    text_pairs: TextPairs = TEXT_PAIRS,
    judges: Sequence[Judge] = JUDGES,
    *,
    workers: int = 1,
    **plan: Any,
) -> dict[str, float]:
    plan = {"unit": "pair"} | plan
    part, panel = part_of_texts(text_pairs, 0), seat(judges, text_pairs, folds=3, workers=workers)
    inside = part == ROTATION.fit
    own = panel.subset(inside, inside[text_pairs.pairs[:, 0]])
    said = judge_texts(own, unit=plan["unit"], seed=0)
    return search_strengths(panel, said, part, ROTATION, FilterPlan(**plan))


def test_the_strengths_nearest_to_a_coin_are_taken_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a few words give all away, what is learnt jumps from one side of a coin to the other."""
    # of everything, and then of each step; at the third, the largest of the two types is the smallest of all
    away = iter([(0.1, 0.1), *[(0.2, 0.0), (0.1, -0.1), (0.03, -0.02), (0.01, -0.1), *[(-0.2, 0.2), (0.2, -0.2)] * 3]])
    tried: list[dict[str, float]] = []

    def kept(judged: Judged, strengths: Mapping[str, float], plan: FilterPlan) -> tuple[np.ndarray, np.ndarray]:
        tried.append(dict(strengths))
        return keep_by_strengths(judged, strengths, plan)

    monkeypatch.setattr("negatives.filtering.strengths.keep_by_strengths", kept)
    monkeypatch.setattr(
        "negatives.filtering.strengths.away_from_coin",
        lambda wins, members: dict(zip(members, next(away), strict=True)),
    )
    found = searched()
    assert len(tried) == STEPS
    assert found == tried[2]
    assert found not in tried[3:]


@every_unit
def test_a_type_with_a_giveaway_is_dropped_and_one_without_is_kept(unit: str) -> None:
    """0.7 * 0.9 - 0.1 * 0.3 = 0.6 of the pairs have it on the wrong side alone, or more: about so much has to go."""
    found = searched(unit=unit, rule="margins")
    assert found["replace_rel"] == pytest.approx(0.6, abs=0.15)
    assert found["swap_obj"] < 0.15


def test_the_stronger_a_giveaway_the_more_is_dropped() -> None:
    weak, strong = (
        searched(text_pairs_of(biased(150, {"replace_rel": (0.1, share)})))["replace_rel"] for share in (0.3, 0.8)
    )
    assert weak < strong - 0.2


def test_one_strength_for_all_is_searched_where_types_are_not_kept_apart() -> None:
    assert set(searched(by_type=False)) == {"all"}


@every_unit
def test_overlap_searches_too_and_drops_more_of_what_gives_itself_away_than_of_what_does_not(unit: str) -> None:
    found = searched(unit=unit, rule="overlap", sharpness=2.0)
    assert found["replace_rel"] == pytest.approx(0.6, abs=0.15)
    assert found["swap_obj"] < 0.2


def test_a_search_does_not_depend_on_the_number_of_workers() -> None:
    judges: list[Judge] = [word_judge(1), bayes_judge(1)]
    assert searched(judges=judges, unit="both", workers=3) == searched(judges=judges, unit="both")


def test_a_search_asks_judges_that_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    fitted = LinearJudge.fit_pairs

    def fit_pairs(self: LinearJudge, encoded: Any, pairs: np.ndarray) -> Scorer:
        steps.append(self.steps)
        return fitted(self, encoded, pairs)

    monkeypatch.setattr(LinearJudge, "fit_pairs", fit_pairs)
    part, panel = part_of_texts(TEXT_PAIRS, 0), seat(JUDGES, TEXT_PAIRS, folds=3)
    said = judged(TEXT_PAIRS.pair_types[(part == ROTATION.fit)[TEXT_PAIRS.pairs[:, 0]]].tolist())
    search_strengths(panel, said, part, ROTATION, FilterPlan(unit="pair"))
    assert set(steps) == {COARSE_STEPS}


def test_no_type_is_dropped_whole() -> None:
    """Every negative has the giveaway: as much as may be goes, and something is left."""
    found = searched(text_pairs_of(biased(60, {"replace_rel": (0.0, 1.0)})))
    assert 0.8 < found["replace_rel"] <= MOST < 1


@dataclass(frozen=True)
class Renamed:
    """A judge under another name, with a mark whether it is slow."""

    judge: Judge
    name: str
    threads: bool

    def encode(self, texts: Sequence[str]) -> Any:
        return self.judge.encode(texts)

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        return self.judge.fit(encoded, rows, labels)

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        return self.judge.fit_pairs(encoded, pairs)


@dataclass(frozen=True)
class Graded:
    """Picks the positive of so many pairs in 20, whatever it is trained on. Reads (pair, whether positive)."""

    name: str
    right: int
    threads: bool = True

    def encode(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def fit(self, encoded: Any, rows: np.ndarray, labels: np.ndarray) -> Scorer:
        return lambda rows: np.where(encoded[rows, 0] % 20 < self.right, 1, -1) * encoded[rows, 1]

    def fit_pairs(self, encoded: Any, pairs: np.ndarray) -> Scorer:
        return self.fit(encoded, pairs, pairs)


def graded(right: Mapping[str, int]) -> Panel:
    text_pairs = text_pairs_of([(str(i), f"a {i:03}", f"b {i:03}", "swap_obj") for i in range(60)])
    read = np.stack([text_pairs.images, text_pairs.labels], axis=1)
    judges = [Graded(name, number) for name, number in right.items()]
    return Panel(text_pairs, judges, dict.fromkeys(right, read))


def test_learners_that_learn_less_than_half_of_what_the_best_does_do_not_search() -> None:
    """Of 20 pairs 18, 15, 13, 10 and 3 are right: 8, 5, 3, 0 and 7 away from a coin."""
    panel = graded({"best": 18, "half": 15, "little": 13, "coin": 10, "inverted": 3})
    seen = np.ones(120, dtype=bool)
    apt, wins = apt_learners(panel, "text", seen, np.arange(60))
    assert [learner.judge for learner in apt] == ["best", "half", "inverted"]
    assert wins.mean(axis=1) == pytest.approx([18 / 20, 15 / 20, 3 / 20]), "what the apt ones reach"


def test_a_learner_that_is_turned_round_holds_no_other_back() -> None:
    """Two learners pick 12 of 20 positives, one only 2: the search goes on dropping."""
    wins = np.zeros((3, 20))
    wins[:2, :12] = wins[2, :2] = 1
    assert away_from_coin(wins, {"all": np.ones(20, dtype=bool)}) == pytest.approx({"all": 0.1})


def test_slow_judges_do_not_search_unless_there_are_no_others() -> None:
    fast, slow = (Renamed(word_judge(1), name, name == "fast") for name in ("fast", "slow"))
    assert quick_judges([slow, fast]) == [fast]
    assert quick_judges([slow]) == [slow]
    part, spies = part_of_texts(TEXT_PAIRS, 0), [Spy("quick"), Spy("slow", threads=False)]
    read = np.stack([TEXT_PAIRS.images, TEXT_PAIRS.labels], axis=1)
    said = judged(TEXT_PAIRS.pair_types[(part == ROTATION.fit)[TEXT_PAIRS.pairs[:, 0]]].tolist())
    panel = Panel(TEXT_PAIRS, spies, {"quick": read, "slow": read})
    search_strengths(panel, said, part, ROTATION, FilterPlan(unit="pair"))
    assert [bool(spy.fits) for spy in spies] == [True, False]


def test_too_little_to_learn_from_is_a_coin() -> None:
    nothing = everything(TEXT_PAIRS)
    nothing = nothing._replace(pairs=np.zeros(len(TEXT_PAIRS.pairs), dtype=bool))
    panel, seen = seat(JUDGES, TEXT_PAIRS), part_of_texts(TEXT_PAIRS, 0) == 0
    assert reached(panel, [Learner("word", "pair")], nothing, seen, np.arange(7)).tolist() == [[0.5] * 7]


def test_a_search_is_fitted_on_one_part_alone() -> None:
    part = part_of_texts(TEXT_PAIRS, 0)
    spy = Spy()
    panel = Panel(TEXT_PAIRS, [spy], {"spy": np.stack([TEXT_PAIRS.images, TEXT_PAIRS.labels], axis=1)})
    inside = part == ROTATION.fit
    said = judged(TEXT_PAIRS.pair_types[inside[TEXT_PAIRS.pairs[:, 0]]].tolist())
    search_strengths(panel, said, part, ROTATION, FilterPlan(unit="pair"))
    assert spy.fits
    assert all(parts == {ROTATION.fit} for parts in spy.parts(TEXT_PAIRS, part))


def test_strengths_depend_on_no_text_of_the_photos_that_certify() -> None:
    part = part_of_texts(TEXT_PAIRS, 0)

    def without(number: int) -> TextPairs:
        rest = [text if own != number else "x" for text, own in zip(TEXT_PAIRS.captions, part, strict=True)]
        return replace(TEXT_PAIRS, captions=rest)

    found = searched()
    assert searched(without(ROTATION.certify)) == found
    assert searched(without(ROTATION.search)) != found, "they are searched on these"


def test_medians_are_by_type_over_the_rotations_that_have_it() -> None:
    found = [{"a": 0.1, "b": 0.2}, {"a": 0.5, "b": 0.4}, {"a": 0.3}]
    assert median_strengths(found) == {"a": 0.3, "b": pytest.approx(0.3)}
    assert median_strengths([]) == {}


@pytest.mark.parametrize(("rule", "sharpness"), [("margins", 1.0), ("overlap", 1.0), ("overlap", 3.0)])
def test_what_is_kept_at_the_searched_strengths_has_the_giveaway_alike_on_both_sides(
    rule: str, sharpness: float
) -> None:
    part, panel = part_of_texts(TEXT_PAIRS, 0), seat(JUDGES, TEXT_PAIRS, folds=3)
    inside = part == ROTATION.fit
    own = panel.subset(inside, inside[TEXT_PAIRS.pairs[:, 0]])
    plan = FilterPlan(unit="pair", rule=rule, sharpness=sharpness)
    strengths = searched(rule=rule, sharpness=sharpness)
    keep, _ = keep_by_strengths(judge_texts(own, unit="pair", seed=0), strengths, plan)
    rows = own.text_pairs.pair_types == "replace_rel"
    first, second = gives_away(own.text_pairs)[own.text_pairs.pairs].T
    before, after = (second[which].mean() - first[which].mean() for which in (rows, rows & keep))
    assert before > 0.5
    assert abs(after) < 0.25
