"""Rules: what they keep, against closed forms and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm

from negatives.filtering.keep_rules import (
    aflite,
    aflite_rounds,
    constants_for_shares,
    draw,
    overlap,
    random_subset,
    top_fraction,
)
from negatives.judging.bias_metrics import auc

SHIFT = 0.5  # positives are N(SHIFT, 1), negatives N(-SHIFT, 1): log odds are 2 * SHIFT * x


def names(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def gaussians(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, labels and exact posteriors of so many positives and as many negatives."""
    labels = np.repeat([1, 0], count)
    values = np.random.default_rng(seed).normal(size=2 * count) + SHIFT * (2 * labels - 1)
    return values, labels, 1 / (1 + np.exp(-2 * SHIFT * values))


def standard_error(positives: int, negatives: int) -> float:
    """Of an AUC of classes that do not differ (Mann-Whitney)."""
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def test_overlap_by_hand() -> None:
    score, labels = np.array([0.8, 0.5, 0.2, 0.8, 0.2, 1.0, 0.0]), np.array([1, 1, 1, 0, 0, 1, 1])
    np.testing.assert_allclose(overlap(score, labels), [0.25, 1, 1, 1, 0.25, 0, 1], atol=1e-300)
    np.testing.assert_allclose(overlap(score, labels, 2.0), [0.5, 1, 1, 1, 0.5, 0, 1], atol=1e-300)
    np.testing.assert_allclose(overlap(score[:2], labels[:2], np.array([3.0, 0.5])), [0.75, 0.5])
    # the odds of the other class are 1/4, to the power of 2 and of 1/2
    np.testing.assert_allclose(overlap(score[:2], labels[:2], 4.0, 2.0), [0.25, 1])
    np.testing.assert_allclose(overlap(score[:2], labels[:2], 1.0, 0.5), [0.5, 1])


def test_the_sharper_the_odds_the_nearer_to_a_cut() -> None:
    """At the same share, chances go to 0 and 1, as of margins; and nothing overflows on the way."""
    score, labels, groups = np.linspace(0.001, 0.999, 200), np.ones(200), ["+"] * 200
    between = []
    for sharpness in (0.5, 1.0, 5.0, 50.0):
        constants = constants_for_shares(score, labels, groups, {"+": 0.3}, sharpness)
        kept = overlap(score, labels, constants, sharpness)
        assert kept.mean() == pytest.approx(0.7, abs=1e-6)
        assert (np.diff(kept) <= 0).all(), "the surer, the less likely"
        between.append(int(((kept > 0.01) & (kept < 0.99)).sum()))
    assert between == sorted(between, reverse=True)
    assert between[0] > 10 * between[-1]


def test_a_share_of_zero_drops_nothing_however_sure_and_sharp() -> None:
    score, labels = np.array([1.0, 1.0, 0.0, 1 - 1e-9]), np.array([1, 1, 0, 1])
    for sharpness in (1.0, 100.0):
        constants = constants_for_shares(score, labels, list("aabb"), {"a": 0.0, "b": 0.0}, sharpness)
        assert overlap(score, labels, constants, sharpness).tolist() == [1.0] * 4


def test_kept_classes_are_equal_where_scores_are_the_posterior() -> None:
    values, labels, posterior = gaussians(100_000)
    keep = draw(overlap(posterior, labels), names(len(labels)), seed=0)
    positive, negative = values[keep & (labels == 1)], values[keep & (labels == 0)]
    assert ks_2samp(positive, negative).pvalue > 0.01
    assert ks_2samp(values[labels == 1], values[labels == 0]).pvalue < 1e-6
    distance = abs(auc(values[keep], labels[keep]) - 0.5)
    assert distance < 3 * standard_error(len(positive), len(negative))


def test_what_is_kept_is_the_overlap_of_the_classes() -> None:
    _, labels, posterior = gaussians(100_000)
    coefficient = 2 * norm.cdf(-SHIFT)  # the area under both densities
    for label in (1, 0):
        kept = overlap(posterior, labels)[labels == label].mean()
        assert kept == pytest.approx(coefficient, abs=0.004)
    drawn = draw(overlap(posterior, labels), names(len(labels)), seed=1).mean()
    assert drawn == pytest.approx(coefficient, abs=0.004)


def test_a_constant_above_one_keeps_more_and_leaves_something_to_tell() -> None:
    values, labels, posterior = gaussians(100_000)
    keep = draw(overlap(posterior, labels, 1.5), names(len(labels)), seed=0)
    counts = [int((keep & (labels == label)).sum()) for label in (1, 0)]
    assert auc(values[keep], labels[keep]) > 0.5 + 10 * standard_error(counts[0], counts[1])
    assert keep.mean() > 2 * norm.cdf(-SHIFT) + 0.05


def test_pairs_are_kept_as_often_one_way_round_as_the_other() -> None:
    """Differences are N(m, 1), log odds 2 m x: kept ones are symmetric about 0."""
    difference = np.random.default_rng(0).normal(size=100_000) + SHIFT
    chance = 1 / (1 + np.exp(-2 * SHIFT * difference))
    keep = draw(overlap(chance, np.ones(len(chance))), names(len(chance), "pair"), seed=0)
    assert abs((difference[keep] > 0).mean() - 0.5) < 3 * 0.5 / math.sqrt(keep.sum())
    assert ks_2samp(difference[keep], -difference[keep]).pvalue > 0.01
    assert keep.mean() == pytest.approx(2 * norm.cdf(-SHIFT), abs=0.005)


def test_constants_give_each_group_its_share() -> None:
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.uniform(0.1, 0.9, 500), rng.uniform(0.6, 0.99, 300), rng.uniform(0.2, 0.4, 200)])
    labels = np.repeat([1, 1, 0], [500, 300, 200])
    groups = np.repeat(["mild", "strong", "negative"], [500, 300, 200])
    for sharpness in (1.0, 2.5):
        shares = {"mild": 0.2, "strong": 0.7, "negative": 0.0}
        constants = constants_for_shares(score, labels, list(groups), shares, sharpness)
        kept = overlap(score, labels, constants, sharpness)
        for name, share in shares.items():
            rows = groups == name
            assert len(set(constants[rows])) == 1
            assert kept[rows].mean() == pytest.approx(1 - share, abs=1e-6)
    constants = constants_for_shares(score, labels, list(groups), dict.fromkeys(shares, 0.5))
    assert constants[600] > constants[900] > constants[0]


def test_constant_of_a_share_by_hand() -> None:
    # odds of the other class 1/4 and 1/9: constant * (1/4 + 1/9) / 2 = 0.13
    found = constants_for_shares(np.array([0.8, 0.9]), np.array([1, 1]), ["a", "a"], {"a": 0.87})
    np.testing.assert_allclose(found, 0.26 / (1 / 4 + 1 / 9), rtol=1e-6)


def test_a_draw_depends_on_key_and_seed_alone() -> None:
    keys, chance = names(1000), np.full(1000, 0.4)
    kept = draw(chance, keys, seed=0)
    order = np.random.default_rng(0).permutation(1000)
    assert (draw(chance, [keys[i] for i in order], seed=0) == kept[order]).all()
    assert (draw(chance[:10], keys[:10], seed=0) == kept[:10]).all()
    assert (draw(chance, keys, seed=1) != kept).any()
    assert (draw(chance, names(1000, "other"), seed=0) != kept).any()


def test_a_draw_keeps_with_its_probability_and_more_where_that_is_higher() -> None:
    keys = names(20_000)
    kept = {share: draw(np.full(20_000, share), keys, seed=0) for share in (0.0, 0.3, 0.8, 1.0)}
    for share, rows in kept.items():
        assert rows.mean() == pytest.approx(share, abs=0.01)
    assert (kept[0.3] <= kept[0.8]).all()
    assert kept[1.0].all()
    assert not kept[0.0].any()


def test_top_fraction_drops_the_most_confidently_correct_of_each_class() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1, 0.95, 0.05, 0.2, 0.99])
    label = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    # 5 positives: floor(0.4 * 5) = 2 go, 0.95 and 0.9; 3 negatives: floor(0.4 * 3) = 1 goes, 0.05
    keep = top_fraction(score, [str(one) for one in label], label, list("abcdefgh"), 0.4)
    assert keep.tolist() == [False, True, True, True, False, False, True, True]


def test_top_fraction_drops_its_part_of_each_group() -> None:
    # negatives of two types: of 4 swaps the two lowest go, of 2 replacements the lowest
    score, groups = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9]), ["swap"] * 4 + ["replace"] * 2
    keep = top_fraction(score, groups, np.zeros(6), list("abcdef"), 0.5)
    assert keep.tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize(("fraction", "dropped"), [(0.0, 0), (0.29, 29), (0.3, 30), (0.999, 99)])
def test_top_fraction_drops_the_number_that_the_fraction_says(fraction: float, dropped: int) -> None:
    keep = top_fraction(np.linspace(0, 1, 100), ["+"] * 100, np.ones(100), names(100), fraction)
    assert keep.tolist() == [True] * (100 - dropped) + [False] * dropped


def test_tiny_chances_of_negatives_are_no_ties() -> None:
    score = np.array([3e-20, 1e-20, 2e-20, 0.5])
    keep = top_fraction(score, ["-"] * 4, np.zeros(4), list("abcd"), 0.5)
    assert keep.tolist() == [True, False, False, True]


def by_top_fraction(keys: list[str]) -> np.ndarray:
    return top_fraction(np.full(len(keys), 0.5), ["+"] * len(keys), np.ones(len(keys)), keys, 0.5)


def by_aflite(keys: list[str]) -> np.ndarray:
    return aflite(lambda keep, _: np.ones(len(keep)), ["+"] * len(keys), keys, fraction=0.5)


@pytest.mark.parametrize("rule", [by_top_fraction, by_aflite])
def test_ties_are_broken_by_the_key_and_not_by_the_row(rule: Callable[[list[str]], np.ndarray]) -> None:
    keys = names(40)
    kept = {keys[i] for i in np.flatnonzero(rule(keys))}
    assert len(kept) == 20
    assert kept == {keys[::-1][i] for i in np.flatnonzero(rule(keys[::-1]))}
    assert kept not in (set(keys[:20]), set(keys[20:]))


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.31, 0.9])
def test_aflite_takes_at_most_the_rounds_that_its_bar_shows(fraction: float) -> None:
    rounds = []

    def predictability(keep: np.ndarray, number: int) -> np.ndarray:
        rounds.append(number)
        return np.ones(len(keep))

    aflite(predictability, ["a"] * 200, names(200), fraction=fraction)
    assert len(rounds) == aflite_rounds(fraction)


def test_aflite_drops_a_slice_of_the_most_predictable_each_round() -> None:
    seen: list[tuple[int, list[bool]]] = []

    def predictability(keep: np.ndarray, number: int) -> np.ndarray:
        seen.append((number, keep.tolist()))
        return np.array([0.9, 1.0, 0.8, 0.74, 0.75, 0.1, 0.95, 0.6])

    keep = aflite(predictability, ["a"] * 6 + ["b"] * 2, names(8), fraction=0.6, slice_fraction=0.2)
    # a: floor(0.2 * 6) = 1 a round, at most floor(0.6 * 6) = 3 of those from 0.75 up: 1.0, 0.9, 0.8
    # b: at least 1 a round, at most floor(0.6 * 2) = 1: 0.95
    assert [number for number, _ in seen] == [0, 1, 2, 3]
    first = [True, False, True, True, True, True, False, True]
    second = [False, False, True, True, True, True, False, True]
    third = [False, False, False, True, True, True, False, True]
    assert [kept for _, kept in seen] == [[True] * 8, first, second, third]
    assert keep.tolist() == third


def test_aflite_stops_when_nothing_reaches_the_threshold() -> None:
    calls: list[int] = []

    def predictability(keep: np.ndarray, number: int) -> np.ndarray:
        calls.append(number)
        return np.where(np.arange(100) < 7, 1.0, 0.749)

    keep = aflite(predictability, ["+"] * 100, names(100), fraction=0.9)
    assert keep.tolist() == [False] * 7 + [True] * 93
    assert calls == [0, 1, 2]  # 5 go, 2 go, none does
    arguments = (lambda keep, _: np.full(100, 0.74), ["+"] * 100, names(100))
    assert aflite(*arguments, fraction=0.9).all()
    assert not aflite(*arguments, fraction=0.9, drop_threshold=0.7).all()


def test_aflite_drops_from_the_threshold_up() -> None:
    scores = np.array([np.nextafter(0.75, 0), 0.75, np.nextafter(0.75, 1), 0.0])
    keep = aflite(lambda keep, _: scores, ["+"] * 4, names(4), fraction=0.9)
    assert keep.tolist() == [True, False, False, True]


@pytest.mark.parametrize("fraction", [0.0, 0.13, 0.5, 0.99])
def test_aflite_never_drops_more_than_the_fraction_of_a_group(fraction: float) -> None:
    groups = ["a"] * 100 + ["b"] * 37 + ["c"] * 3
    keep = aflite(lambda keep, _: np.ones(len(keep)), groups, names(140), fraction=fraction, slice_fraction=0.1)
    for name, size in (("a", 100), ("b", 37), ("c", 3)):
        dropped = int((~keep[np.array(groups) == name]).sum())
        assert dropped <= math.floor(fraction * size + 1e-9)
        # 10 rounds of floor(0.1 * n), at least 1, are room for all of them
        assert dropped == min(math.floor(fraction * size + 1e-9), 10 * max(1, size // 10))


def test_aflite_asks_again_after_each_round() -> None:
    """What was predictable through others is not once these are gone: the even rows, for as long as any odd is kept."""

    def predictability(keep: np.ndarray, number: int) -> np.ndarray:
        odd = np.arange(20) % 2 == 1
        return np.where(odd, 1.0, 0.9 if keep[odd].any() else 0.0)

    keep = aflite(predictability, ["+"] * 20, names(20), fraction=0.9, slice_fraction=0.1)
    assert keep.tolist() == [True, False] * 10


def test_random_subset_keeps_as_many_of_each_class_as_the_filter() -> None:
    labels, keys = np.array([1] * 80 + [0] * 60), names(140)
    keep = np.arange(140) % 3 == 0
    drawn = random_subset(labels, keep, keys, seed=0)
    for label, kept in ((1, 27), (0, 20)):  # multiples of 3 below 80, and from 80 to 139
        assert drawn[labels == label].sum() == keep[labels == label].sum() == kept
    back = random_subset(labels[::-1], keep[::-1], keys[::-1], seed=0)[::-1]
    assert (drawn == back).all()
    assert (drawn != keep).any()
    assert (drawn != random_subset(labels, keep, keys, seed=1)).any()


def test_random_subset_takes_names_of_groups() -> None:
    groups = np.array(["swap_obj", "swap_att", "swap_obj", "swap_obj"])
    drawn = random_subset(groups, np.array([True, False, True, False]), names(4), seed=0)
    assert (drawn[groups == "swap_obj"].sum(), drawn[groups == "swap_att"].sum()) == (2, 0)
