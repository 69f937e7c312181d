"""The certificate: fresh judges, with folds of their own, measure what is left in what a filter kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from negatives.filtering.filter import UNITS, Filtered, texts_and_pairs
from negatives.filtering.keep_rules import random_subset
from negatives.judging.bias_metrics import ALL, Estimate, Probed, auc, estimates, fits, paired_wins, probe
from negatives.judging.linear import Judge
from negatives.judging.text_pairs import Corpus
from negatives.tables.files import InputError, finite

TRANSFORMER = "transformer"


@dataclass(frozen=True)
class Kept:
    """How many are kept, of how many."""

    kept: int
    of: int

    @property
    def share(self) -> float:
        """In [0, 1]; NaN of nothing."""
        return self.kept / self.of if self.of else math.nan


@dataclass(frozen=True)
class Certificate:
    """What is kept, and what text alone says about it.

    Attributes:
        unit: what was filtered; decides which of the two estimands has to be met.
        balanced: whether no probe missed.
        misses: one line for each probe that did.
        retention: "pairs", "texts", "positives", "negatives" and each negative type's pairs -> kept, of how many.
        estimates: of fresh probes on what was kept.
        control: the same on equally many texts (or pairs) drawn at random.
        known: what the filter's out-of-fold scores, from judges fitted before anything was dropped, reach on what was
            kept ("auc" or "paired_accuracy"): who has learnt the writer's habits elsewhere still knows some of them.
    """

    unit: str
    balanced: bool
    misses: list[str]
    retention: dict[str, Kept]
    estimates: list[Estimate]
    control: list[Estimate]
    known: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain dicts, lists, numbers and strings; what could not be measured is None."""
        content: dict[str, Any] = finite(asdict(self))
        return content


def certificate_fits(probes: int, folds: int, seeds: int) -> int:
    """How many fits `certify` makes at most."""
    return fits(probes, folds) * (seeds + 1)


def certify(
    corpus: Corpus,
    filtered: Filtered,
    probes: Sequence[Judge],
    encoded: Mapping[str, Any],
    *,
    tolerance: float = 0.02,
    transformer_tolerance: float = 0.03,
    folds: int = 5,
    seeds: int = 3,
    bootstrap: int = 200,
    seed: int = 0,
    workers: int = 1,
    advance: Callable[[], None] | None = None,
) -> Certificate:
    """Fits probes on what was kept, and on a random subset of the same size.

    Every probe, and all but the transformer together ("stacked"), must be at 0.5 give or take the tolerance, over all
    negatives, in the estimands that the filter's unit promises (`filter.UNITS`). Below is a miss too.

    Args:
        corpus: what was filtered.
        filtered: what was kept.
        probes: judges; they are fitted anew.
        encoded: probe -> its features of the whole corpus.
        tolerance, transformer_tolerance: distance from 0.5 that is no miss.
        folds: at least 3.
        seeds: fold seeds whose mean is judged; the control has one.
        bootstrap: resamples of images behind each interval.
        seed: of folds, control and bootstrap.
        workers: threads.
        advance: called after each fit.

    Too little to fit probes on is a miss.
    """
    stacked = [judge.name for judge in probes if judge.name != TRANSFORMER]

    def measure(keep: np.ndarray, keep_pairs: np.ndarray, names: Sequence[str]) -> list[Estimate]:
        part, rows = corpus.subset(keep, keep_pairs), np.flatnonzero(keep)
        own = {judge.name: encoded[judge.name][rows] for judge in probes}
        probed: list[Probed] = [
            probe(part, probes, own, folds=folds, seed=name, stacked=stacked, workers=workers, advance=advance)
            for name in names
        ]
        return estimates(part, *probed, bootstrap=bootstrap, seed=f"certificate {seed}")

    misses: list[str] = []
    found: list[Estimate] = []
    control: list[Estimate] = []
    try:
        found = measure(filtered.keep, filtered.pair_keep, [f"certificate {seed} {i}" for i in range(seeds)])
        control = measure(*_control(corpus, filtered, seed), [f"control {seed}"])
    except InputError as error:  # too little is left to measure: a miss, and no reason to lose the verdicts
        misses.append(f"What was kept cannot be probed. {error}")
    misses += [
        f"{estimate.estimand} of the {estimate.judge} probe is {estimate.value:.3f}, not 0.5 +- {allowed:g}"
        for estimate in found
        if estimate.negative_type == ALL and estimate.estimand in UNITS[filtered.unit]
        for allowed in [transformer_tolerance if estimate.judge == TRANSFORMER else tolerance]
        if not abs(estimate.value - 0.5) <= allowed + 1e-12
    ]
    measured = {estimate.estimand for estimate in found}
    misses += [f"{name} could not be measured" for name in UNITS[filtered.unit] if name not in measured]
    return Certificate(
        filtered.unit, not misses, misses, retention(corpus, filtered), found, control, _known(corpus, filtered)
    )


def retention(corpus: Corpus, filtered: Filtered) -> dict[str, Kept]:
    """What is kept of pairs (the headline), texts, each class, and each type's pairs."""
    positive = corpus.labels == 1
    parts = {
        "pairs": filtered.pair_keep,
        "texts": filtered.keep,
        "positives": filtered.keep[positive],
        "negatives": filtered.keep[~positive],
    }
    for name in sorted({str(kind) for kind in corpus.pair_types}):
        parts[name] = filtered.pair_keep[corpus.pair_types == name]
    return {name: Kept(int(kept.sum()), len(kept)) for name, kept in parts.items()}


def _control(corpus: Corpus, filtered: Filtered, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As many texts of each class, or as many pairs of each type, drawn at random."""
    if filtered.unit == "text":
        keys = [corpus.key(text) for text in range(len(corpus.captions))]
        chosen = random_subset(corpus.labels, filtered.keep, keys, seed)
    else:
        keys = [f"{first} {second}" for first, second in corpus.pairs]
        chosen = random_subset(corpus.pair_types.astype(str), filtered.pair_keep, keys, seed)
    return texts_and_pairs(corpus, filtered.unit, chosen)


def _known(corpus: Corpus, filtered: Filtered) -> dict[str, float]:
    if filtered.unit == "text":
        return {"auc": auc(filtered.oof_score[filtered.keep], corpus.labels[filtered.keep])}
    chance = filtered.pair_score[filtered.pair_keep]
    return {"paired_accuracy": float(paired_wins(chance - 0.5).mean())}
