"""The bench of offsets: without one its learner is scikit-learn's, and with one it does not learn what that says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from experiments.bench.offsets import __main__ as offsets
from experiments.bench.offsets.learner import fit_pairs, fit_texts
from tests.test_experiments_bench_filters import pairs

__all__ = ["pairs"]

RNG = np.random.default_rng(0)
FEATURES = csr_matrix(RNG.normal(size=(300, 4)) * (RNG.random((300, 4)) < 0.6))
LABELS = (FEATURES @ [1.0, -1.0, 0.5, 0.0] + RNG.logistic(size=300) > 0.4).astype(int)


def test_without_an_offset_pairs_are_fitted_as_scikit_learn_does() -> None:
    found = fit_pairs(FEATURES, np.zeros(300), 0.7)
    both = np.concatenate([FEATURES.toarray(), -FEATURES.toarray()])
    # each pair there and back: twice the loss, so half the C
    model = LogisticRegression(C=0.35, fit_intercept=False, tol=1e-9).fit(both, [1] * 300 + [0] * 300)
    np.testing.assert_allclose(found, model.coef_[0], atol=1e-3)


def test_without_an_offset_texts_are_fitted_as_scikit_learn_does() -> None:
    found = fit_texts(FEATURES, LABELS, np.zeros(300), 0.7)
    model = LogisticRegression(C=0.7, class_weight="balanced", fit_intercept=False, tol=1e-9).fit(FEATURES, LABELS)
    np.testing.assert_allclose(found, model.coef_[0], atol=1e-3)


@pytest.mark.parametrize("unit", ["text", "pair"])
def test_what_the_offset_says_is_not_learnt(unit: str) -> None:
    truth = FEATURES @ np.array([2.0, -2.0, 1.0, 0.0])
    if unit == "text":
        plain, with_offset = (fit_texts(FEATURES, LABELS, strength * truth, 10.0) for strength in (0.0, 0.5))
    else:
        signs = np.where(RNG.random(300) < 1 / (1 + np.exp(-truth)), 1.0, -1.0)
        # a pair whose first text is the positive
        turned = FEATURES.multiply(signs[:, None]).tocsr()
        plain, with_offset = (fit_pairs(turned, strength * signs * truth, 10.0) for strength in (0.0, 1.0))
    assert np.abs(with_offset[:3]).max() < 0.5 * np.abs(plain[:3]).max()


def test_every_strength_has_a_line_and_the_searched_one_lies_among_them(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.with_name("offsets.json")
    assert offsets.main([str(pairs), "--seeds", "0", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 2 * (len(offsets.STRENGTHS) + 1) * len(offsets.LEARNERS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * (len(offsets.STRENGTHS) + 1)
    for unit in ("text", "pair"):
        first = [row for row in rows if (row["unit"], row["learner"]) == (unit, str(offsets.LEARNERS[0]))]
        values = [row["value"] for row in first if row["strength"] != "searched"]
        assert min(values) <= next(row["value"] for row in first if row["strength"] == "searched") <= max(values)
