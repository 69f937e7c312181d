"""The strengths of a rule: how much of each negative type is dropped, searched on photos set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from negatives.filtering.judged import Judged
from negatives.filtering.keep_rules import constants_for_shares, draw, drop_shares, overlap
from negatives.filtering.plan import FilterPlan
from negatives.filtering.teaching import (
    Learner,
    Retained,
    Rotation,
    everything,
    kept_of_part,
    learn,
    learners_of,
    logits_of,
)
from negatives.judging.bias_metrics import ALL, paired_wins
from negatives.judging.crossfit import in_threads
from negatives.judging.judge import Judge
from negatives.judging.linear import coarse
from negatives.judging.panel import Panel
from negatives.tables.files import InputError

Strengths = Mapping[str, float]
"""Negative type, or "all" -> share of its pairs, or negatives, that is dropped, in [0, 1)."""
STEPS = 10
FIRST_STEP, SHRINKING = 0.12, 0.85
"""Of a share, in one step; each is smaller than the one before, as in stochastic approximation (Robbins and Monro,
Annals of Mathematical Statistics 22, 1951): what a learner reaches is noisy."""
# a learner this far from a coin moves a share by a whole step: its accuracy falls by a third of what more is dropped
FULL_STEP_AT = 0.04
MOST = 0.95
"""Of a type that a search drops: some of it has to be left."""
APT = 0.5
"""Of what the best learner learns from everything: those that learn less take no part in a search."""
POSITIVES = "1 "
"""The positives among `Judged.groups` of texts."""


def keep_by_strengths(judged: Judged, strengths: Strengths, plan: FilterPlan) -> tuple[np.ndarray, np.ndarray]:
    """What a rule keeps when it drops a share of each negative type, and of the positives the mean of these shares.

    Args:
        judged: what the judges said, with its groups.
        strengths: a type that they lack has that of "all".
        plan: its rule, margins or overlap; and the latter's sharpness and seed.

    Returns:
        [N] bool, and the chance of each to be kept.
    """
    groups = np.asarray(judged.groups, dtype=object)
    types = {name: name.removeprefix("0 ") for name in set(groups)}
    shares = {name: strengths.get(own, strengths.get(ALL, 0.0)) for name, own in types.items()}
    negatives = [name for name in groups if name != POSITIVES]
    if POSITIVES in shares:
        # the classes shrink alike
        shares[POSITIVES] = float(np.mean([shares[name] for name in negatives])) if negatives else 0.0
    if plan.rule == "margins":
        keep = drop_shares(judged.oof_score, judged.groups, judged.labels, judged.ties, shares)
        return keep, keep.astype(np.float64)
    constants = constants_for_shares(judged.oof_score, judged.labels, judged.groups, shares, plan.sharpness)
    probability = overlap(judged.oof_score, judged.labels, constants, plan.sharpness)
    return draw(probability, judged.keys, plan.seed), probability


def search_strengths(
    panel: Panel, judged: Judged, part: np.ndarray, rotation: Rotation, plan: FilterPlan
) -> dict[str, float]:
    """The strengths with which what is kept of the part `fit` teaches nothing about the part `search`.

    Args:
        panel: judges, all texts.
        judged: what the judges said of the part `fit`, out of fold.
        part: [U] see `teaching.part_of_texts`.
        rotation: which part does what.
        plan: rule, unit, and whether each negative type has a strength of its own.
    """
    text_pairs = panel.text_pairs
    asked = np.flatnonzero(part[text_pairs.pairs[:, 0]] == rotation.search)
    types = text_pairs.pair_types[asked].astype(str)
    names = sorted(set(types.tolist())) if plan.by_type else [ALL]
    seen = part == rotation.fit
    # a step is noisier than a fit that stops early is wrong
    searching = panel.with_judges([coarse(judge) for judge in quick_judges(panel.judges)])
    learners, wins = apt_learners(searching, plan.unit, seen, asked)
    members = {name: (types == name) | (name == ALL) for name in names}
    # a balanced subset for a judge of accuracy a keeps at most 2 (1 - a) of the pairs: all of a type without a bias
    strengths = {name: float(np.clip(2 * away, 0.0, MOST)) for name, away in away_from_coin(wins, members).items()}
    nearest, best = np.inf, strengths
    for number in range(STEPS):
        kept = kept_of_part(text_pairs, keep_by_strengths(judged, strengths, plan)[0], seen, plan.unit)
        wins = reached(searching, learners, kept, seen, asked)
        away = away_from_coin(wins, members)
        # the last ones need not be: where a few words give all away, what is learnt jumps at one strength
        if (distance := max(map(abs, away.values()))) < nearest:
            nearest, best = distance, strengths
        step = FIRST_STEP * SHRINKING**number
        strengths = {
            name: float(np.clip(strengths[name] + step * np.clip(own / FULL_STEP_AT, -1, 1), 0.0, MOST))
            for name, own in away.items()
        }
    return best


def quick_judges(judges: Sequence[Judge]) -> list[Judge]:
    """The judges that search: those that fit in threads, or all where none does.

    A fit of the others takes a hundred times as long, and what they add to the search is little.
    """
    return [judge for judge in judges if judge.threads] or list(judges)


def apt_learners(panel: Panel, unit: str, seen: np.ndarray, asked: np.ndarray) -> tuple[list[Learner], np.ndarray]:
    """The learners that learn from everything at least `APT` of what the best one does, and what they do.

    A learner that learns little from everything is nearly a coin however much is dropped. It would stop a search early.

    Returns:
        The learners; and, trained on everything, what `reached` says of them.
    """
    learners = learners_of(panel, unit)
    wins = reached(panel, learners, everything(panel.text_pairs), seen, asked)
    learnt = np.abs(wins.mean(axis=1) - 0.5)
    apt = np.flatnonzero(learnt >= APT * learnt.max())
    return [learners[number] for number in apt], wins[apt]


def away_from_coin(wins: np.ndarray, members: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far the learners are from a coin on each group of pairs, drawn towards all pairs by what is noise.

    A type has some hundred pairs, and an accuracy on them a standard error of some hundredths. Strengths that followed
    it would differ by chance, and drop more for it. So the differences between types are shrunk: by their variance
    beyond that of the noise, over the two together (Efron and Morris, Journal of the American Statistical Association
    68, 1973).

    Args:
        wins: [L, n] see `reached`.
        members: group -> [n] bool.
    """
    whole = _middle(wins) - 0.5
    differences = np.array([_middle(wins[:, own]) - 0.5 - whole for own in members.values()])
    noise = np.array([0.25 / own.sum() for own in members.values()])
    spread = max(0.0, float((differences**2 - noise).mean()))
    shrunk = whole + differences * spread / (spread + noise)
    return dict(zip(members, shrunk.tolist(), strict=True))


def _middle(wins: np.ndarray) -> float:
    """The median learner's accuracy: one that is turned round, as few features soon are, holds no other back."""
    return float(np.median(wins.mean(axis=1)))


def reached(
    panel: Panel, learners: Sequence[Learner], kept: Retained, seen: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """[L, n] whether each learner picks the positive of each pair asked about; a coin's 0.5 where none could learn."""
    texts = np.zeros(len(seen), dtype=bool)
    texts[panel.text_pairs.pairs[asked].ravel()] = True

    def wins_of(learner: Learner) -> np.ndarray:
        try:
            logits = logits_of(learn(panel, learner, kept, seen, texts), panel.text_pairs)[asked]
        except InputError:  # too little is kept to learn from, which teaches nothing
            logits = np.zeros(len(asked))
        return paired_wins(logits)

    return np.array(in_threads(wins_of, learners, panel.threads))


def median_strengths(found: Sequence[Strengths]) -> dict[str, float]:
    """The median of each type's strengths over the rotations."""
    names = sorted({name for one in found for name in one})
    return {name: float(np.median([one[name] for one in found if name in one])) for name in names}
