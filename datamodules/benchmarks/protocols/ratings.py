"""Ratings: do logits agree with people? Flickr8k-Expert and -CF, TIFA160, GenAI-Bench."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.benchmarks.logits import Logits, coded
from datamodules.benchmarks.protocols.agreement import METRICS, correlations
from datamodules.benchmarks.protocols.measured import Measured
from datamodules.benchmarks.protocols.rows import Groups, Rows, joined
from datamodules.benchmarks.protocols.tie_calibration import calibrated_epsilon, pairwise_accuracy
from negatives.tables import InputError, quoted

Array = NDArray[np.float64]
NINE = 9
"""Images of a prompt and model in GenAI-Bench's ranking set, in three threes."""


def measure(
    key: pa.Table,
    logits: Logits,
    *,
    calibrated: bool = False,
    aggregates: Mapping[str, tuple[str, ...]] | None = None,
) -> Measured:
    """Metrics of logits against ratings.

    `pearson`, `spearman`, `tau_b`, `tau_c` and `pairwise_accuracy` (with tie calibration: one epsilon, fitted on all
    rows, or on 10,000 of them where there are more, for every group and resample) are over rows: several raters of an
    item are several rows, and a mean of them is the reader's to take.

    Where several items share a prompt, GenAI-Bench's ranking metrics (Li et al., 2024) are over prompts and the mean
    ratings of items. `ranking_accuracy`: the item that people like best scores above the one that they like least, the
    first item where they like several alike. `best_of_n`: rating of the item with the highest logit, the mean of equal
    ones; `best_of_n_random` and `best_of_n_oracle`: of any item, and of the best. Of prompts with nine items,
    `best_of_3` and `best_of_3_oracle` are the same for the three items that follow each other in the key, the mean over
    the three threes of a prompt; that of any item is the same as of nine.

    Images are what is resampled, together with all that is ranked against them.

    Args:
        key: columns `item_id`, `image_id`, `text_id`, `group`, `rating` and `prompt_id`, optional `tags`.
        logits: of all these pairs.
        calibrated: no metric here depends on it.
        aggregates: name -> groups whose unweighted mean is a row, too.

    Raises:
        InputError: a rating that is no number, ratings that are all equal, or a missing logit.
    """
    images = key["image_id"].combine_chunks()
    found, ratings = logits.of(images, key["text_id"]), _ratings(key)
    prompts = _Prompts(key, found, ratings)
    clusters = joined(prompts.shared, images, prompts.shared.max() + 1)[prompts.shared]
    rows = Rows(Groups.of_key(key, aggregates or {}), clusters, images)
    rows.weighted(METRICS, lambda items: correlations(found[items], ratings[items]))
    epsilon = calibrated_epsilon(found, ratings)
    rows.weighted(["pairwise_accuracy"], lambda items: pairwise_accuracy(found[items], ratings[items], epsilon))
    if prompts.ranked.any():
        for metric, values in prompts.metrics().items():
            rows.share(metric, values, prompts.ranked)
    if prompts.of_nine.any():
        for metric, values in prompts.metrics_of_threes().items():
            rows.share(metric, values, prompts.of_nine)
    return rows.measured()


def chance(key: pa.Table, metric: str) -> float | None:
    """What random logits reach: no correlation, and half of the rankings; None of the others."""
    return {**dict.fromkeys(METRICS, 0.0), "ranking_accuracy": 0.5}.get(metric)


def _ratings(key: pa.Table) -> Array:
    ratings = key["rating"].cast(pa.float64()).to_numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(ratings))):
        item = quoted(key["item_id"][wrong[0]].as_py())
        raise InputError(f"ratings: a rating must be a number, got {ratings[wrong[0]]} for {item}; leave the row out.")
    if len(ratings) and ratings.min() == ratings.max():
        raise InputError(f"ratings: all {len(ratings)} ratings are {ratings[0]:g}; nothing can agree with them.")
    return ratings


class _Prompts:
    """Items that are ranked among themselves, at the first row of their prompt.

    Attributes:
        shared: rows of a prompt of several items have one number, all others their own, (rows,).
        ranked: whether a row is the first of such a prompt, (rows,).
        of_nine: whether a row is the first of a prompt of nine items, (rows,).
    """

    def __init__(self, key: pa.Table, logits: Array, ratings: Array):
        items, prompts = coded(key["item_id"])[1], coded(key["prompt_id"])[1]
        first_rows = np.unique(items, return_index=True)[1]
        self._logits = logits[first_rows]
        self._ratings = np.bincount(items, ratings) / np.bincount(items)
        prompt_rows = np.unique(prompts, return_index=True)[1]
        self._prompts = prompts[first_rows]  # of items
        self._counts = np.bincount(self._prompts, minlength=len(prompt_rows))
        several = self._counts > 1
        self.shared = np.where(several[prompts], prompts, len(prompt_rows) + items)
        self.shared = np.unique(self.shared, return_inverse=True)[1]
        self.ranked, self.of_nine = np.zeros((2, len(key)), dtype=bool)
        self.ranked[prompt_rows[several]] = True
        self.of_nine[prompt_rows[self._counts == NINE]] = True
        self._rows = prompt_rows

    def metrics(self) -> dict[str, Array]:
        """Metric -> values at the rows that `ranked` marks."""
        of_prompts = {
            "ranking_accuracy": self._ranking_accuracy(),
            "best_of_n": _mean_of_best(self._ratings, self._logits, self._prompts),
            "best_of_n_random": np.bincount(self._prompts, self._ratings) / self._counts,
            "best_of_n_oracle": _mean_of_best(self._ratings, self._ratings, self._prompts),
        }
        return {metric: self._at_rows(values, self.ranked) for metric, values in of_prompts.items()}

    def metrics_of_threes(self) -> dict[str, Array]:
        """Metric -> values at the rows that `of_nine` marks."""
        # the items of a prompt side by side, each prompt's in the order of the key
        order = np.argsort(self._prompts, kind="stable")
        order = order[self._counts[self._prompts[order]] == NINE]
        threes = np.arange(len(order)) // 3
        logits, ratings = self._logits[order], self._ratings[order]
        found = {}
        for metric, by in (("best_of_3", logits), ("best_of_3_oracle", ratings)):
            of_prompts = np.zeros(len(self._rows))
            of_prompts[self._counts == NINE] = _mean_of_best(ratings, by, threes).reshape(-1, 3).mean(1)
            found[metric] = self._at_rows(of_prompts, self.of_nine)
        return found

    def _at_rows(self, of_prompts: Array, marked: NDArray[np.bool_]) -> Array:
        """Values of prompts, (prompts,), at the rows that are marked, (rows,); 0 elsewhere."""
        found = np.zeros(len(marked))
        found[self._rows] = np.where(marked[self._rows], of_prompts, 0)
        return found

    def _ranking_accuracy(self) -> Array:
        """1 where the item that people like best scores above the one that they like least, else 0; (prompts,)."""
        liked = self._first_at(self._ratings == _best(self._ratings, self._prompts))
        disliked = self._first_at(self._ratings == -_best(-self._ratings, self._prompts))
        return (self._logits[liked] > self._logits[disliked]).astype(np.float64)

    def _first_at(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The first chosen item, of (items,), of each prompt, (prompts,)."""
        items = np.flatnonzero(chosen)
        return items[np.unique(self._prompts[items], return_index=True)[1]]


def _best(values: Array, owners: NDArray[np.intp]) -> Array:
    """The highest value of each item's owner, (items,)."""
    best = np.full(owners.max() + 1, -np.inf)
    np.maximum.at(best, owners, values)
    return best[owners]


def _mean_of_best(ratings: Array, by: Array, owners: NDArray[np.intp]) -> Array:
    """For each owner the mean rating of its items that are highest by another number, (owners,)."""
    chosen = by == _best(by, owners)
    return np.bincount(owners[chosen], ratings[chosen]) / np.bincount(owners[chosen])
