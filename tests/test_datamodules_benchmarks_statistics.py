"""Laws of what decides between scorers: intervals, paired differences, Holm's correction, pooled seeds, debiasing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from datamodules.benchmarks import (
    MEAN,
    PROTOCOLS,
    Logits,
    Measured,
    MetricName,
    alpha_debias,
    bootstrap_weights,
    holm,
    intervals,
    paired,
    pooled,
    statistics,
    tied,
)
from datamodules.benchmarks.protocols.pairs import measure
from experiments.bench.coverage import __main__ as bench
from experiments.bench.coverage import simulate
from negatives.tables import InputError
from tests.measured import metric, pair_key, pair_logits, slow_ends

DRAWS = {"resamples": 300, "seed": 3}


def drawn(items: int = 90, seed: int = 0, better: float = 0.5) -> tuple[pa.Table, Logits]:
    """Three items an image, two groups; the same key for every seed."""
    groups = ["a" if i % 5 < 2 else "b" for i in range(items)]
    key = pair_key([1] * items, groups=groups)
    key = key.set_column(1, "image_id", [[f"image{i // 3:02}" for i in range(items)]])
    rng = np.random.default_rng(seed)
    true, false = rng.normal(size=(items, 1)) + better, rng.normal(size=(items, 1))
    return key, pair_logits(key, true.tolist(), false.tolist())


def measured(**settings: float) -> Measured:
    return measure(*drawn(**settings))


def row_of(found: Measured, name: str, group: str = "") -> int:
    return found.rows.index(MetricName(name, group))


def test_intervals_of_accuracy_are_a_slow_loop_over_resampled_images() -> None:
    key, logits = drawn()
    found = measure(key, logits)
    texts = {name: [one[0] for one in key[name].to_pylist()] for name in ("true", "false")}
    right = logits.of(key["image_id"], texts["true"]) > logits.of(key["image_id"], texts["false"])
    images, groups = (np.array(key[name].to_pylist()) for name in ("image_id", "group"))
    names, draws = sorted(set(images)), np.random.default_rng(3)
    slow: dict[str, list[float]] = {"a": [], "b": [], MEAN: []}
    for _ in range(300):
        picked = [names[i] for i in draws.integers(0, len(names), len(names))]
        own = {group: [r for i in picked for r in right[(images == i) & (groups == group)]] for group in ("a", "b")}
        averages = {group: float(np.mean(values)) for group, values in own.items()}
        for group, value in (*averages.items(), (MEAN, sum(averages.values()) / 2)):
            slow[group].append(value)
    columns = np.stack(intervals(found, **DRAWS), axis=1)
    for group, values in slow.items():
        own_images = len(names) if group == MEAN else len({*images[groups == group]})
        expected = slow_ends(values, own_images)
        np.testing.assert_allclose(columns[row_of(found, "accuracy", group)][1:], expected, atol=1e-12)


def test_intervals_do_not_depend_on_the_memory_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = simulate.measure("labels", np.random.default_rng(0), 40)
    whole = intervals(found, **DRAWS)
    monkeypatch.setattr(statistics, "CELLS", 200)
    monkeypatch.setattr("datamodules.benchmarks.protocols.rows.CELLS", 300)
    np.testing.assert_allclose(np.stack(whole), np.stack(intervals(found, **DRAWS)), rtol=1e-12)


def test_each_resample_draws_as_many_clusters_as_there_are() -> None:
    weights = np.concatenate(list(bootstrap_weights(7, 50, 0)))
    assert weights.shape == (50, 7)
    assert (weights.sum(1) == 7).all()
    assert not np.array_equal(weights, np.concatenate(list(bootstrap_weights(7, 50, 1))))


def test_the_order_of_the_key_changes_nothing() -> None:
    key, logits = drawn()
    shuffled = key.take(pa.array(np.random.default_rng(1).permutation(len(key))))
    one, other = (np.stack(intervals(measure(k, logits), **DRAWS)) for k in (key, shuffled))
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_row_that_no_resample_defines_has_no_width() -> None:
    found = measured()

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.where((weights == 1).all(1)[:, None], found.values(weights), np.nan)

    value, low, high = intervals(replace(found, statistic=statistic), **DRAWS)
    np.testing.assert_array_equal([low, high], [value, value])
    assert not np.isnan(value).any()


def test_a_scorer_is_tied_with_itself() -> None:
    found = measured()
    difference = paired(found, found, **DRAWS)
    for ends in (difference.value, difference.low, difference.high):
        assert not ends.any()
    assert (difference.p == 1).all()


def test_paired_p_is_a_slow_loop_and_has_a_sign() -> None:
    a, b = measured(seed=1, better=0.7), measured(seed=2, better=0.5)
    row = row_of(a, "accuracy")
    difference, reversed_difference = paired(a, b, **DRAWS), paired(b, a, **DRAWS)
    generator = np.random.default_rng(3)
    found = []
    for _ in range(300):
        picked = generator.integers(0, len(a.clusters), size=len(a.clusters))
        weights = np.bincount(picked, minlength=len(a.clusters))[None].astype(float)
        found.append((a.values(weights) - b.values(weights))[0, row])
    below, above = sum(x <= 0 for x in found), sum(x >= 0 for x in found)
    assert difference.p[row] == pytest.approx(min(1, 2 * (min(below, above) + 1) / 301))
    assert 2 / 301 < difference.p[row] < 1, "not at an end, where everything agrees"
    np.testing.assert_allclose([difference.low[row], difference.high[row]], slow_ends(found, len(a.clusters)))
    np.testing.assert_allclose(reversed_difference.value, -difference.value)
    np.testing.assert_allclose(reversed_difference.p, difference.p)


def test_p_is_never_zero() -> None:
    good, bad = measured(better=9.0), measured(better=-9.0)
    assert paired(good, bad, **DRAWS).p[row_of(good, "accuracy")] == pytest.approx(2 / 301)


def test_p_values_of_equal_scorers_are_uniform() -> None:
    rng = np.random.default_rng(0)
    ps = np.array([paired(*_means(rng.normal(size=(2, 50))), resamples=200, seed=draw).p[0] for draw in range(400)])
    assert 0.02 <= np.mean(ps <= 0.05) <= 0.09
    assert 0.42 <= np.mean(ps <= 0.5) <= 0.60


def _means(values: np.ndarray) -> list[Measured]:
    """A scorer for each row of values of 50 images, whose metric is their mean."""
    names, ones = tuple(f"image{i:02}" for i in range(50)), csr_array(np.ones((50, 1)))
    rows = (MetricName("mean", ""),)
    return [Measured(rows, names, ones, ones, lambda w, x=row: (w @ x / w.sum(1))[:, None]) for row in values]


def test_holm_by_hand() -> None:
    # Holm (1979): the k-th smallest of m times m - k + 1, never below the ones before it
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        holm([1.2])


def test_tied_is_what_holm_leaves_open() -> None:
    assert tied([0.01, 0.04, 0.03, np.nan]).tolist() == [False, True, True, True]
    assert tied([0.04]).tolist() == [False]


def test_holm_keeps_the_share_of_false_alarms() -> None:
    rng = np.random.default_rng(0)
    alarms = np.mean([not tied(rng.uniform(size=8)).all() for _ in range(2000)])
    assert 0.035 < alarms < 0.065
    assert np.mean([(rng.uniform(size=8) <= 0.05).any() for _ in range(2000)]) > 0.25, "what it corrects"


def test_other_items_are_refused() -> None:
    found = measured()
    with pytest.raises(InputError, match="same items; only one has 'image30'"):
        paired(found, measured(items=93), **DRAWS)
    with pytest.raises(InputError, match="the numbers of items differ"):
        paired(found, measure(drawn()[0].slice(0, 89), drawn()[1]), **DRAWS)
    calibrated = measure(*drawn(), calibrated=True)
    with pytest.raises(InputError, match="same metrics; only one has 'p_"):
        paired(found, calibrated, **DRAWS)
    with pytest.raises(InputError, match="same items"):
        pooled([found, measured(items=93)])
    with pytest.raises(InputError, match="got none"):
        pooled([])


def test_pooled_seeds_are_a_mean_under_every_weight() -> None:
    seeds = [measured(seed=seed) for seed in range(3)]
    together = pooled(seeds)
    weights = next(bootstrap_weights(30, 5, 0))
    np.testing.assert_allclose(together.values(weights), np.mean([seed.values(weights) for seed in seeds], axis=0))
    single, mean = (intervals(found, **DRAWS) for found in (seeds[0], together))
    row = row_of(together, "accuracy")
    assert mean.high[row] - mean.low[row] < single.high[row] - single.low[row]


def biased(items: int = 600, share: float = 1.0, longer: float = 2.0) -> tuple[pa.Table, Logits, Logits]:
    """A scorer that likes long texts, and its blind scores; false texts are longer."""
    key, sees = drawn(items, better=1.5)
    rng = np.random.default_rng(9)
    true, false = rng.normal(size=(items, 1)), rng.normal(size=(items, 1)) + longer
    blind = pair_logits(key, true.tolist(), false.tolist())
    return key, sees.debiased(blind, -share), blind


def test_debiasing_takes_off_what_the_text_gives() -> None:
    key, logits, blind = biased()
    result = alpha_debias(lambda found: measure(key, found), logits, blind, main=MetricName("accuracy", ""))
    assert 0.7 <= result.alpha <= 1
    assert metric(result.after, "accuracy") > metric(result.before, "accuracy") + 0.3


def test_alpha_is_zero_where_blind_scores_do_not_help() -> None:
    key, logits, blind = biased(share=0.0, longer=-2.0)
    result = alpha_debias(lambda found: measure(key, found), logits, blind, main=MetricName("accuracy", ""))
    assert result.alpha == 0
    np.testing.assert_array_equal(result.before.value(), result.after.value())


def test_the_least_of_equal_alphas_is_taken() -> None:
    key, logits = drawn(60, better=9.0)
    constant = pair_logits(key, [[1.0]] * 60, [[1.0]] * 60)
    assert alpha_debias(lambda found: measure(key, found), logits, constant, main=MetricName("accuracy", "")).alpha == 0


def test_what_is_reported_never_chose_alpha() -> None:
    key, logits, blind = biased()

    def debiased(found: Logits) -> float:
        return alpha_debias(lambda one: measure(key, one), found, blind, main=MetricName("accuracy", "")).alpha

    result = alpha_debias(lambda found: measure(key, found), logits, blind, main=MetricName("accuracy", ""))
    reported = set(result.after.clusters)
    assert 60 < len(reported) < 140
    images = key["image_id"].to_pylist()
    # whatever the scorer says of the reported images, alpha stays
    rng = np.random.default_rng(0)
    texts = [
        (image, text)
        for image, pair in zip(images, zip(key["true"].to_pylist(), key["false"].to_pylist(), strict=True), strict=True)
        for part in pair
        for text in part
    ]
    old = logits.of(*zip(*texts, strict=True))
    new = [rng.normal() if image in reported else value for (image, _), value in zip(texts, old, strict=True)]
    changed = Logits.from_table(
        pa.table({"image_id": [i for i, _ in texts], "text_id": [t for _, t in texts], "logit": new})
    )
    assert debiased(changed) == result.alpha
    assert result.before.counts[0] == sum(image in reported for image in images)
    half = measure(key.filter(pa.array([image in reported for image in images])), logits)
    np.testing.assert_allclose(result.before.value(), half.value())
    assert (result.before.images == half.images).all()


def test_debiasing_needs_two_halves_and_a_metric_that_is_there() -> None:
    key, logits, blind = biased(items=3)
    with pytest.raises(InputError, match="1 are too few"):
        alpha_debias(lambda found: measure(key, found), logits, blind, main=MetricName("accuracy", ""))
    with pytest.raises(InputError, match="got 'p_c'"):
        alpha_debias(lambda found: measure(key, found), logits, blind, main=MetricName("p_c", ""))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_intervals_hold_the_truth(protocol: str) -> None:
    """The bench has the numbers of 1,000 draws; here is a short version of it."""
    found = list(bench.coverage(protocol, 60, draws=30, resamples=150, seed=0, population=400))
    main = next(row for row in found if row.metric == PROTOCOLS[protocol].main and not row.group)
    assert main.held >= 25
    for row in found:
        # too wide an interval holds every truth: of 30 draws the spread, its standard error, is known to 13 %
        assert 0.6 < row.width / (3.92 * row.spread) < 1.5, (row.metric, row.group)


def test_the_bench_prints_and_writes_its_numbers(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--protocols", "classes", "--clusters", "20", "--draws", "3", "--resamples", "20"]
    assert bench.main([*arguments, "--json", f"{tmp_path}/coverage.json"]) == 0
    assert "classes      20 clusters  top1" in capsys.readouterr().out
