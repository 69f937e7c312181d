"""Intervals over images: against a slow loop, worked by hand, and for what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from experiments.report import intervals
from experiments.report.intervals import Interval, differences, is_right, type_intervals


def interval(values: ArrayLike, images: ArrayLike, *, resamples: int, seed: int) -> Interval:
    """The interval of values that are all of one type."""
    return type_intervals(values, images, np.full(np.shape(values), "x"), resamples=resamples, seed=seed)["mean"]


def test_a_tie_is_wrong_and_so_is_nan():
    right = is_right([3.0, 1.0, 2.0, np.nan], [1.0, 1.0, 3.0, 0.0])
    assert right.tolist() == [True, False, False, False]
    assert interval(right, ["a", "b", "c", "d"], resamples=100, seed=0).value == 0.25


def test_mean_is_the_unweighted_mean_of_the_types():
    found = type_intervals([1, 1, 1, 0], list("aabb"), ["swap", "swap", "swap", "replace"], resamples=100, seed=0)
    assert list(found) == ["replace", "swap", "mean"]
    assert [found[kind].value for kind in found] == [0.0, 1.0, 0.5]


def test_intervals_equal_a_slow_loop_over_resampled_images(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(3)
    images, kinds = generator.integers(0, 12, 60).astype(str), np.array(["x", "y"])[generator.integers(0, 2, 60)]
    right = generator.random(60) < 0.7
    monkeypatch.setattr(intervals, "CELLS", 100)  # several parts
    found = type_intervals(right, images, kinds, resamples=40, seed=9)

    names, draws = sorted(set(images)), np.random.default_rng(9)
    slow: dict[str, list[float]] = {"x": [], "y": [], "mean": []}
    for _ in range(40):
        drawn = [names[i] for i in draws.integers(0, len(names), len(names))]
        own = {k: [r for i in drawn for r in right[(images == i) & (kinds == k)]] for k in ("x", "y")}
        averages = {kind: float(np.mean(values)) for kind, values in own.items()}
        for kind, value in (*averages.items(), ("mean", sum(averages.values()) / 2)):
            slow[kind].append(value)
    for kind, values in slow.items():
        assert [found[kind].low, found[kind].high] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_intervals_do_not_depend_on_the_memory_bound(monkeypatch: pytest.MonkeyPatch):
    right, images = np.arange(90) % 3 == 0, np.arange(90) % 31
    whole = interval(right, images, resamples=100, seed=1)
    for cells in (31, 100, 1000):
        monkeypatch.setattr(intervals, "CELLS", cells)
        assert interval(right, images, resamples=100, seed=1) == whole


def test_intervals_do_not_depend_on_the_order_of_pairs():
    generator = np.random.default_rng(0)
    right, images, order = generator.random(50) < 0.5, generator.integers(0, 20, 50), generator.permutation(50)
    one = interval(right, images, resamples=200, seed=4)
    assert interval(right[order], images[order], resamples=200, seed=4) == pytest.approx(one)


def test_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(5)
    images, covered = np.repeat(np.arange(80), 3), 0
    for seed in range(200):
        chance = np.repeat(generator.beta(4, 2, size=80), 3)  # pairs of an image are alike; 2/3 on average
        found = interval(generator.random(240) < chance, images, resamples=200, seed=seed)
        covered += found.low <= 2 / 3 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_repeating_the_pairs_of_an_image_narrows_nothing():
    right, images = np.arange(40) % 4 > 0, np.arange(40)
    once = interval(right, images, resamples=300, seed=2)
    assert interval(np.repeat(right, 5), np.repeat(images, 5), resamples=300, seed=2) == pytest.approx(once)


def test_paired_difference_is_that_of_the_accuracies_and_zero_for_equal_runs():
    generator = np.random.default_rng(1)
    a, b, images = generator.random(300) < 0.8, generator.random(300) < 0.6, np.arange(300) % 100
    found = interval(differences(a, b), images, resamples=300, seed=0)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert 0 < found.low < found.value < found.high
    assert interval(differences(a, a), images, resamples=100, seed=0) == (0, 0, 0)


def test_a_type_of_a_single_image_has_an_interval():
    found = type_intervals([1, 0, 1], ["a", "b", "c"], ["x", "x", "y"], resamples=100, seed=0)
    assert found["y"] == (1, 1, 1)
    assert 0 <= found["mean"].low <= found["mean"].value == 0.75 <= found["mean"].high == 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="needs pairs, got none"):
        interval([], [], resamples=100, seed=0)
    with pytest.raises(ValueError, match="one value, type and image"):
        interval([1, 0], ["a"], resamples=100, seed=0)
    with pytest.raises(ValueError, match="cannot be called 'mean'"):
        type_intervals([1], ["a"], ["mean"], resamples=100, seed=0)
    with pytest.raises(ValueError, match="same pairs on both sides"):
        differences([1, 0], [1])
