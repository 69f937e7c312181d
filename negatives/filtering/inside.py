"""A diagnostic: fresh judges, with folds of their own, probe what a filter kept from inside.

It is no certificate. A filter that drops by cross-fitted scores makes the folds of what it keeps anti-correlated: these
probes fall to 0.5 and below it, while what training on it teaches stays (see `negatives.filtering.teaching`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from negatives.filtering.filter import Filtered
from negatives.filtering.plan import UNITS, CertificatePlan
from negatives.filtering.teaching import Retained, at_random
from negatives.judging.bias_metrics import ALL, Estimate, auc, estimates, fits, paired_wins, probe
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs
from negatives.tables.files import InputError, finite


@dataclass(frozen=True)
class Inside:
    """What text alone says about what is kept, to probes that were fitted on other folds of it.

    Attributes:
        unit: what was filtered; decides which bias metrics are compared with a coin.
        misses: one line for each probe that is not at a coin's level.
        estimates: of fresh probes on what was kept.
        control: the same on equally many texts (or pairs) drawn at random.
        known: what the filter's out-of-fold scores, from judges fitted before anything was dropped, reach on what was
            kept ("auc" or "paired_accuracy"). A judge that learnt the writer's habits elsewhere can still use some.
    """

    unit: str
    misses: list[str]
    estimates: list[Estimate]
    control: list[Estimate]
    known: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists, numbers and strings; what could not be measured is None."""
        written = {name: [one.to_json() for one in getattr(self, name)] for name in ("estimates", "control")}
        content: dict[str, Any] = finite(asdict(self) | written)
        return content


def inside_fits(probes: int, plan: CertificatePlan) -> int:
    """How many fits `probe_inside` makes at most."""
    return fits(probes, plan.folds) * (plan.seeds + 1)


def probe_inside(panel: Panel, filtered: Filtered, plan: CertificatePlan, *, seed: int = 0) -> Inside:
    """Fits probes on what was kept, and on a random subset of the same size.

    Every probe, and all that fit in threads together ("stacked"), must be at 0.5 give or take the tolerance, over all
    negatives, in the bias metrics that the filter's unit promises (`plan.UNITS`). Below is a miss too, and so is too
    little to fit probes on.

    Args:
        panel: the probes, which are fitted anew, and all texts that were filtered.
        filtered: what was kept.
        plan: folds, seeds and tolerances.
        seed: of folds, control and bootstrap.
    """
    probes = replace(panel, folds=plan.folds)
    bootstrap_seed = f"certificate {seed}"
    misses: list[str] = []
    found: list[Estimate] = []
    control: list[Estimate] = []
    try:
        kept = probes.subset(filtered.keep, filtered.pair_keep)
        # other folds than the filter's: what it kept, it kept by what the judges of its own folds said
        found = _measure(kept, [f"certificate {seed} {i}" for i in range(plan.seeds)], plan.bootstrap, bootstrap_seed)
        everywhere = np.ones(len(filtered.keep), dtype=bool)
        retained = Retained(filtered.keep, filtered.pair_keep)
        drawn = probes.subset(*at_random(panel.text_pairs, retained, everywhere, filtered.unit, seed))
        control = _measure(drawn, [f"control {seed}"], plan.bootstrap, bootstrap_seed)
    except InputError as error:  # too little is left to measure: a miss, and no reason to lose the verdicts
        misses.append(f"What was kept cannot be probed. {error}")
    slow = {judge.name for judge in panel.judges if not judge.threads}
    misses += _misses(found, filtered.unit, plan, slow)
    return Inside(
        unit=filtered.unit,
        misses=misses,
        estimates=found,
        control=control,
        known=_known(panel.text_pairs, filtered),
    )


def _measure(panel: Panel, fold_seeds: Sequence[str], bootstrap: int, seed: str) -> list[Estimate]:
    """What the probes reach on a panel's texts, as means over fold seeds."""
    # a judge that is combined takes K (K - 1) / 2 fits instead of K, and each of a slow judge's is a training run
    stacked = [judge.name for judge in panel.judges if judge.threads]
    probed = [probe(panel, seed=name, stacked=stacked) for name in fold_seeds]
    return estimates(panel.text_pairs, *probed, bootstrap=bootstrap, seed=seed)


def _misses(found: Sequence[Estimate], unit: str, plan: CertificatePlan, slow: Collection[str]) -> list[str]:
    """One line for each probe that is not at 0.5 over all negatives, and for each bias metric without a value."""
    misses = []
    for one in found:
        allowed = plan.transformer_tolerance if one.judge in slow else plan.tolerance
        # `not ... <=`: NaN is a miss. 1e-12: 0.52 - 0.5 is 0.020000000000000018
        if one.negative_type == ALL and one.metric in UNITS[unit] and not abs(one.value - 0.5) <= allowed + 1e-12:
            misses.append(f"{one.metric} of the {one.judge} probe is {one.value:.3f}, not 0.5 +- {allowed:g}")
    measured = {one.metric for one in found}
    return misses + [f"{name} could not be measured" for name in UNITS[unit] if name not in measured]


def _known(text_pairs: TextPairs, filtered: Filtered) -> dict[str, float]:
    # scores from before anything was dropped, where the estimates come from judges that saw only what was kept
    if filtered.unit == "text":
        return {"auc": auc(filtered.oof_score[filtered.keep], text_pairs.labels[filtered.keep])}
    chance = filtered.pair_score[filtered.pair_keep]
    return {"paired_accuracy": float(paired_wins(chance - 0.5).mean())}
