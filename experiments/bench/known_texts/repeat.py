"""One repetition: texts are drawn, some are kept, two certificates are written, and fresh texts tell the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from experiments.bench.known_texts.texts import TYPES, Sample, World, draw_sample, make_world, thinned
from experiments.bench.known_texts.truth import Asked, Fresh, draw_fresh, furthest
from negatives.filtering import (
    THIRDS,
    CertificatePlan,
    Filtered,
    FilterPlan,
    Learner,
    Lesson,
    Retained,
    Rotated,
    certify,
    filter_and_rotate,
    misses,
    part_of_texts,
    probe_inside,
)
from negatives.judging import JudgeSettings, Panel, build_judges, seat

UNIT = "pair"
KINDS = ("all", "type", "third")
JUDGE = "word"
"""Of the cross-fitted filter."""


@dataclass(frozen=True)
class Setting:
    """A bias of the negatives, alike for all types, and what is kept of them.

    Attributes:
        bias: see `texts.make_world`.
        strength: type -> strength of `texts.thinned`; empty keeps all. None: a filter keeps.
    """

    bias: float
    strength: Mapping[str, float] | None


STRONG = 1.5
SETTINGS = {
    "silent": Setting(0.0, {}),
    "faint": Setting(0.3, {}),
    "just outside": Setting(0.6, {}),
    "far outside": Setting(STRONG, {}),
    "thinned": Setting(STRONG, dict.fromkeys(TYPES, 1.0)),
    "cancelling": Setting(STRONG, dict(zip(TYPES, (2.0, 1.0, 0.0), strict=True))),
    "cross-fitted": Setting(STRONG, None),
}


@dataclass(frozen=True)
class Job:
    """One repetition to do.

    Attributes:
        setting: one of `SETTINGS`.
        seed: of its texts.
        photos, fresh: how many are certified on, and how many tell the truth.
        plan: of both certificates; its probes are the learners.
    """

    setting: str
    seed: int
    photos: int
    fresh: int
    plan: CertificatePlan


@dataclass(frozen=True)
class Said:
    """What was said of one promise, and what is true.

    Attributes:
        balanced: the certificate's word.
        truth: what fresh texts say, where it is furthest from 0.5 in units of the tolerance.
        distance: how far that is, in these units; above 1 it lies outside.
    """

    balanced: bool
    truth: float
    distance: float

    @property
    def outside(self) -> bool:
        """Whether the truth is further from 0.5 than the tolerance."""
        return self.distance > 1.0


@dataclass(frozen=True)
class Outcome:
    """What one repetition gave.

    Attributes:
        setting, seed: which.
        kept: share of the pairs.
        whole: the certificate.
        kinds: each of `KINDS` alone, as if the certificate promised nothing else.
        covered, intervals: of each kind, intervals that hold the truth, and how many there are.
        inside: probes from inside; their truth is what all that was kept teaches judges of pairs, over all types.
    """

    setting: str
    seed: int
    kept: float
    whole: Said
    kinds: dict[str, Said]
    covered: dict[str, int]
    intervals: dict[str, int]
    inside: Said


def repeat(job: Job) -> Outcome:
    """Does one repetition."""
    setting, plan = SETTINGS[job.setting], job.plan
    world, fresh = _world(setting.bias, job.fresh, tuple(plan.probes))
    sample = draw_sample(world, job.photos, job.seed)
    panel = seat(build_judges(plan.probes, JudgeSettings()), sample.text_pairs)
    filtered, rotated = kept_of(panel, sample, setting, job.seed)
    asked = Asked(panel, fresh)
    certificate = certify(panel, filtered, rotated, plan, seed=job.seed)
    truths = asked.truths(rotated, UNIT)
    kinds = {kind: _said(certificate.lessons, truths, plan, kind) for kind in KINDS}
    inside = probe_inside(panel, filtered, plan, seed=job.seed)
    taught = furthest(list(asked.taught_by_all(Retained(filtered.keep, filtered.pair_keep)).values()))
    own = {kind: [one for one in certificate.lessons if kind_of(one.group) == kind] for kind in KINDS}
    return Outcome(
        job.setting,
        job.seed,
        float(filtered.pair_keep.mean()),
        replace(max(kinds.values(), key=lambda one: one.distance), balanced=certificate.balanced),
        kinds,
        {kind: sum(one.low <= truths[one.learner, one.group] <= one.high for one in own[kind]) for kind in KINDS},
        {kind: len(own[kind]) for kind in KINDS},
        Said(not inside.misses, taught, abs(taught - 0.5) / plan.tolerance),
    )


@lru_cache(maxsize=len(SETTINGS))
def _world(bias: float, photos: int, probes: tuple[str, ...]) -> tuple[World, Fresh]:
    """Fresh texts are drawn once for all repetitions of a bias."""
    world = make_world(dict.fromkeys(TYPES, bias), 0)
    judges = build_judges(list(probes), JudgeSettings())
    return world, draw_fresh(world, photos, judges, str(bias))


def kept_of(panel: Panel, sample: Sample, setting: Setting, seed: int) -> tuple[Filtered, Rotated]:
    """What is kept of all photos, and of each part of them."""
    if setting.strength is None:
        judging = panel.with_judges(build_judges([JUDGE], JudgeSettings()))
        filtered, rotated = filter_and_rotate(judging, FilterPlan(unit=UNIT, rule="overlap", seed=seed))
        assert isinstance(rotated, Rotated), rotated
        return filtered, rotated
    pairs = thinned(sample, setting.strength, seed)
    texts = np.zeros(len(sample.text_pairs.captions), dtype=bool)
    texts[sample.text_pairs.pairs[pairs].ravel()] = True
    # what is kept of a photo does not depend on the others, so that each part keeps what all of them keep
    rotated = Rotated(part_of_texts(sample.text_pairs, seed), [Retained(texts, pairs)] * 3)
    nothing, no_pair = np.full(len(texts), 0.5), np.full(len(pairs), 0.5)
    return (
        Filtered(
            UNIT, None, nothing, nothing, texts.astype(float), texts, no_pair, no_pair, pairs.astype(float), pairs
        ),
        rotated,
    )


def _said(lessons: list[Lesson], truths: Mapping[tuple[Learner, str], float], plan: CertificatePlan, kind: str) -> Said:
    own = [one for one in lessons if kind_of(one.group) == kind]
    truth = furthest([truths[one.learner, one.group] for one in own])
    return Said(not list(misses(own, plan.tolerances)), truth, abs(truth - 0.5) / plan.tolerances[kind])


def kind_of(group: str) -> str:
    """Which of `KINDS` a group of pairs is."""
    return group if group == "all" else "third" if group in THIRDS else "type"
