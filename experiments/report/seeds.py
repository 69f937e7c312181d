"""Runs named alike but for a seed, taken together: what a method reaches, and how far its seeds are apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from experiments.report.intervals import type_intervals
from experiments.report.metric_rows import Row, types_in_order
from experiments.report.read_runs import EvaluatedRun, common_sets
from experiments.runs.progress import track

SEED_COLUMNS = (
    *("method", "set", "negative_type", "seeds", "accuracy", "low", "high", "lowest_seed", "highest_seed"),
    *("blind_accuracy", "blind_low", "blind_high"),
)
# seed=1, seed_1 or seed1 as a word of its own; in seed=0.5 there is no whole number
SEED = re.compile(r"(?:^|[-_. ])seed[=_-]?\d+(?![\w.])")


def by_method(runs: Sequence[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    """Method -> its runs, where several runs bear one name but for a seed, as a sweep over `seed` names them."""
    methods: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        if SEED.search(run.name):
            methods.setdefault(method_of(run.name), []).append(run)
    return {name: found for name, found in methods.items() if len(found) > 1}


def method_of(name: str) -> str:
    """A run's name without its seed.

    >>> method_of("ce_clip-seed=2"), method_of("lr=0.1-seed=0-long"), method_of("clip_seed1"), method_of("seed=0")
    ('ce_clip', 'lr=0.1-long', 'clip', 'all')
    """
    return SEED.sub("", name).lstrip("-_. ") or "all"


def seed_rows(runs: Sequence[EvaluatedRun], *, resamples: int, seed: int) -> list[Row]:
    """Mean accuracy and blind accuracy over the seeds of every method, in the columns of `SEED_COLUMNS`.

    Intervals are over images, each with the answers of all seeds to it; what another seed would have given is not in
    them, so the lowest and the highest seed stand beside them.
    """
    methods = by_method(runs)
    every = [(name, method) for method, own in methods.items() for name in common_sets(own)]
    rows: list[Row] = []
    for name, method in track(every, "Seeds"):
        own = [run.sets[name] for run in methods[method]]
        images, types = (own[0].pairs[column].to_pylist() for column in ("image_id", "negative_type"))

        # answers are averaged before images are resampled, so that the images are the same for all seeds
        seen, blind, *alone = (
            type_intervals(values, images, types, resamples=draws, seed=seed)
            for values, draws in (
                (np.mean([scored.right for scored in own], axis=0), resamples),
                (np.mean([scored.blind_right for scored in own], axis=0), resamples),
                *((scored.right, 1) for scored in own),  # of a single seed only the value is shown: one draw will do
            )
        )
        for negative_type in types_in_order(list(seen)):
            values = [intervals[negative_type].value for intervals in alone]
            numbers = (len(own), *seen[negative_type], min(values), max(values), *blind[negative_type])
            rows.append(dict(zip(SEED_COLUMNS, (method, name, negative_type, *numbers), strict=True)))
    return rows
