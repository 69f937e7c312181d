"""Laws of agreement with people: scipy's numbers, and the official ones of tie calibration."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from datamodules.benchmarks import MetricName
from datamodules.benchmarks.protocols.agreement import correlations
from datamodules.benchmarks.protocols.ratings import measure
from datamodules.benchmarks.protocols.tie_calibration import calibrated_epsilon, pairwise_accuracy
from negatives.tables import InputError
from tests.measured import metrics, rating_key, row_logits, vectors


def test_tie_calibration_is_the_official_one(shared: Path) -> None:
    block = vectors(shared, "pairwise_accuracy_tie_calibrated")
    human, scored = (np.array(block["inputs"][name], dtype=float) for name in ("human", "metric"))
    key = rating_key(human)
    found = metrics(measure(key, row_logits(key, scored)))
    assert calibrated_epsilon(scored, human) == pytest.approx(block["outputs"]["epsilon"], abs=1e-15)
    for name, official in {"pairwise_accuracy": "pairwise_acc", "tau_b": "tau_b", "tau_c": "tau_c"}.items():
        assert found[name] == pytest.approx(block["outputs"][official], abs=1e-9)


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and ratings that go along with them."""
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, size=rows).astype(float)
    return np.round(ratings / 2 + rng.normal(size=rows), 1), ratings


@pytest.mark.parametrize("levels", [2, 5, 50])
def test_correlations_are_those_of_scipy_on_repeated_rows(levels: int) -> None:
    rng = np.random.default_rng(levels)
    ratings = rng.integers(0, levels, size=50) / 3
    scored = np.round(ratings + rng.normal(size=50), 1)
    weights = rng.integers(0, 4, size=(50, 3)).astype(float)
    found = correlations(scored, ratings)(weights)
    for column, row in zip(weights.T.astype(int), found, strict=True):
        x, y = np.repeat(scored, column), np.repeat(ratings, column)
        # tau-c has the levels of the whole set
        m, n = min(len(set(scored)), len(set(ratings))), len(x)
        signs = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in itertools.combinations(range(n), 2))
        expected = [
            stats.pearsonr(x, y)[0],
            stats.spearmanr(x, y)[0],
            stats.kendalltau(x, y)[0],
            2 * signs / (n**2 * (m - 1) / m),
        ]
        np.testing.assert_allclose(row, expected, atol=1e-12)
    whole = correlations(scored, ratings)(np.ones((50, 1)))[0, 3]
    assert whole == pytest.approx(stats.kendalltau(scored, ratings, variant="c")[0], abs=1e-12)


def test_numbers_far_from_zero_keep_their_digits() -> None:
    scored, ratings = drawn(40, 1)
    near, far = (correlations(scored + shift, ratings)(np.ones((40, 1))) for shift in (0.0, 1e6))
    np.testing.assert_allclose(near, far, atol=1e-8)


def slow_pairwise(scored: np.ndarray, ratings: np.ndarray, epsilon: float) -> float:
    right = 0
    every = list(itertools.combinations(range(len(scored)), 2))
    for i, j in every:
        sign = 0 if abs(scored[i] - scored[j]) <= epsilon else np.sign(scored[i] - scored[j])
        right += int(sign == np.sign(ratings[i] - ratings[j]))
    return right / len(every)


def test_pairwise_accuracy_is_a_slow_loop_over_repeated_rows() -> None:
    scored, ratings = drawn(40, 2)
    weights = np.random.default_rng(0).integers(0, 3, size=(40, 2)).astype(float)
    for epsilon in (0.0, scored[3] - scored[4], 0.35, 10.0):
        found = pairwise_accuracy(scored, ratings, abs(epsilon))(weights)[:, 0]
        for column, value in zip(weights.T.astype(int), found, strict=True):
            expected = slow_pairwise(np.repeat(scored, column), np.repeat(ratings, column), abs(epsilon))
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_epsilon_is_the_first_of_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 3, size=30).astype(float)
    scored = ratings * (seed > 1) + np.round(rng.normal(size=30), seed % 2 + 1)
    tried = sorted({0.0, *(abs(a - b) for a, b in itertools.combinations(scored, 2))})
    values = [slow_pairwise(scored, ratings, epsilon) for epsilon in tried]
    best = tried[int(np.argmax(values))]
    found = calibrated_epsilon(scored, ratings)
    assert slow_pairwise(scored, ratings, found) == max(values)
    assert found == best


def test_epsilon_of_many_rows_is_searched_on_some_of_them() -> None:
    scored, ratings = drawn(400, 5)
    whole, part = calibrated_epsilon(scored, ratings), calibrated_epsilon(scored, ratings, most_rows=60)
    best, found = (slow_pairwise(scored, ratings, epsilon) for epsilon in (whole, part))
    assert best - 0.02 < found <= best


def test_metrics_of_a_constant_scorer_are_not_defined() -> None:
    key = rating_key([1, 2, 3, 3])
    found = metrics(measure(key, row_logits(key, [1, 1, 1, 1])))
    assert all(np.isnan(found[name]) for name in ("pearson", "spearman", "tau_b", "tau_c"))
    assert found["pairwise_accuracy"] == pytest.approx(1 / 6), "ties are right where people say so"


def ranked_key() -> tuple[pa.Table, list[float]]:
    """Two prompts of three images with two raters each, and a third prompt of one image."""
    images = [f"{prompt}{k}" for prompt in "ab" for k in range(3)] + ["c0"]
    means = {"a0": 3, "a1": 5, "a2": 1, "b0": 2, "b1": 4, "b2": 4, "c0": 1}
    logits = {"a0": 0.5, "a1": 0.9, "a2": 0.1, "b0": 0.7, "b1": 0.7, "b2": 0.2, "c0": 0.0}
    rows = [(image, means[image] + change) for image in images for change in (-1, 1)]
    names = [image for image, _ in rows]
    prompts = [image[0] for image in names]
    key = rating_key([x for _, x in rows], item_id=names, image_id=names, text_id=prompts, prompt_id=prompts)
    return key, [logits[image] for image in names]


def test_ranking_metrics_are_over_prompts_by_hand() -> None:
    key, logits = ranked_key()
    measured = measure(key, row_logits(key, logits))
    found = metrics(measured)
    # prompt b: people like b1 best (it comes first), b0 least, and both score 0.7: not higher
    assert found["ranking_accuracy"] == 0.5
    assert found["best_of_n"] == (5 + (2 + 4) / 2) / 2, "of equal logits the mean"
    assert found["best_of_n_random"] == pytest.approx((3 + 10 / 3) / 2)
    assert found["best_of_n_oracle"] == (5 + 4) / 2
    row = measured.rows.index(MetricName("ranking_accuracy", ""))
    assert measured.clusters == ("a0", "b0", "c0")
    assert (measured.counts[row], measured.counts[0]) == (2, 14)
    assert measured.values(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 1.0]]))[:, row].tolist() == pytest.approx(
        [0.25, np.nan], nan_ok=True
    )


def test_nothing_is_ranked_where_each_item_has_a_prompt_of_its_own() -> None:
    key = rating_key([1, 2, 3])
    measured = measure(key, row_logits(key, [1, 2, 3]))
    assert "ranking_accuracy" not in metrics(measured)
    assert measured.clusters == ("image0", "image1", "image2")


@pytest.mark.parametrize(
    ("ratings", "message"),
    [([1, float("nan"), 2], "a rating must be a number, got nan for '1'"), ([3, 3, 3], "all 3 ratings are 3")],
)
def test_ratings_that_say_nothing_are_refused(ratings: list[float], message: str) -> None:
    key = rating_key(ratings)
    with pytest.raises(InputError, match=message):
        measure(key, row_logits(key, [1, 2, 3]))
