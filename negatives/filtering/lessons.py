"""Lessons, what learners of kept texts get on untouched pairs of other photos; and leaks, the other way round."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from negatives.filtering.teaching import (
    PARTS,
    ROTATIONS,
    Learner,
    Retained,
    asked_logits,
    at_random,
    everything,
    learn,
    learners_of,
    logits_of,
)
from negatives.judging.bias_metrics import ALL, image_weights, paired_wins
from negatives.judging.crossfit import in_threads
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs

THIRDS = ("weak third", "middle third", "strong third")
"""Groups of pairs by the margin of a judge from other photos: a net 0.5 must not be opposite biases."""
Untouched = Mapping[Learner, np.ndarray]
"""Learner -> [PARTS, U]: by learners of everything on each part of the photos, the scores of the texts elsewhere."""


@dataclass(frozen=True)
class Lesson:
    """What one learner has learnt, on one group of untouched pairs.

    Attributes:
        learner: who.
        group: "all", a negative type, or one of `THIRDS`.
        value, low, high: share of pairs whose positive it picks, in [0, 1], with its 95 % interval over photos; 0.5 is
            a coin.
        control: the same learner's, trained on as many texts, or pairs of each type, drawn at random.
        everything: trained on all.
        count: pairs.
    """

    learner: Learner
    group: str
    value: float
    low: float
    high: float
    control: float
    everything: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """As `certificate.json` holds it."""
        own = {name: value for name, value in vars(self).items() if name != "learner"}
        return {"judge": self.learner.judge, "reads": self.learner.reads, **own}


def untouched_scores(panel: Panel, part: np.ndarray, unit: str) -> dict[Learner, np.ndarray]:
    """What learners of everything on one part say of the texts elsewhere; see `Untouched`.

    Args:
        panel, part, unit: see `lessons`.
    """
    whole = everything(panel.text_pairs)
    learners = list(dict.fromkeys([*learners_of(panel, unit), _foreigner(panel)]))
    fits = [(learner, number) for learner in learners for number in range(PARTS)]

    def scores_of(fit: tuple[Learner, int]) -> np.ndarray:
        learner, number = fit
        return learn(panel, learner, whole, part == number, part != number)

    scores = in_threads(scores_of, fits, panel.threads)
    return {learner: np.stack(scores[i * PARTS : (i + 1) * PARTS]) for i, learner in enumerate(learners)}


def lessons(
    panel: Panel,
    kept: Sequence[Retained],
    part: np.ndarray,
    untouched: Untouched,
    *,
    unit: str,
    seed: int | str,
    bootstrap: int = 1000,
) -> list[Lesson]:
    """What every learner of a panel has learnt, on each group of pairs, pooled over the rotations.

    Args:
        panel: judges that are the learners, and all texts.
        kept: for each of `ROTATIONS` what the rule kept; only its photos of the part `fit` are trained on.
        part: [U] see `part_of_texts`.
        untouched: see `untouched_scores`.
        unit: of the filter, one of `READS`.
        seed: of control and bootstrap.
        bootstrap: resamples of photos behind each interval.

    Raises:
        InputError: if too little is kept to learn from.
    """
    text_pairs = panel.text_pairs
    controls = [
        at_random(text_pairs, one, part == rotation.fit, unit, f"teaching {seed}")
        for rotation, one in zip(ROTATIONS, kept, strict=True)
    ]
    learners = learners_of(panel, unit)
    fits = [(learner, arm) for learner in learners for arm in (kept, controls)]
    taught = in_threads(lambda fit: paired_wins(asked_logits(panel, *fit, part)), fits, panel.threads)
    whole = [paired_wins(_asked(untouched[learner], part, text_pairs, "fit", "certify")) for learner in learners]
    groups = groups_of(text_pairs, foreign_logits(panel, part, untouched))
    cells = [(wins, rows) for wins in taught[::2] for rows in groups.values()]
    weights = image_weights(len(text_pairs.image_ids), bootstrap, f"teaching {seed}")
    ends = iter(intervals(text_pairs.pair_images, cells, weights))
    return [
        Lesson(learner, name, _mean(wins[rows]), *next(ends), _mean(control[rows]), _mean(full[rows]), len(rows))
        for learner, wins, control, full in zip(learners, taught[::2], taught[1::2], whole, strict=True)
        for name, rows in groups.items()
    ]


def leaks(
    panel: Panel,
    kept: Sequence[Retained],
    part: np.ndarray,
    untouched: Untouched,
    *,
    unit: str,
    seed: int | str,
    bootstrap: int = 1000,
) -> list[Lesson]:
    """What judges of everything on one part of the photos get on what is kept of another, over all and for each type.

    Args:
        panel, kept, part, untouched, unit, seed, bootstrap: see `lessons`. `control` is on as much drawn at random,
            `everything` on all pairs.
    """
    text_pairs = panel.text_pairs
    asked, own, drawn = part[text_pairs.pairs[:, 0]], *(np.zeros(len(text_pairs.pairs), dtype=bool) for _ in range(2))
    for rotation, one in zip(ROTATIONS, kept, strict=True):
        rows = asked == rotation.fit
        own[rows] = one.pairs[rows]
        drawn[rows] = at_random(text_pairs, one, part == rotation.fit, unit, f"leaking {seed}").pairs[rows]
    learners, groups = learners_of(panel, unit), type_groups(text_pairs)
    wins = [paired_wins(_asked(untouched[learner], part, text_pairs, "certify", "fit")) for learner in learners]
    kept_rows = {name: rows[own[rows]] for name, rows in groups.items()}
    cells = [(one, rows) for one in wins for rows in kept_rows.values()]
    weights = image_weights(len(text_pairs.image_ids), bootstrap, f"leaking {seed}")
    ends = iter(intervals(text_pairs.pair_images, cells, weights))
    return [
        Lesson(
            learner,
            name,
            _mean(one[kept_rows[name]]),
            *next(ends),
            _mean(one[rows[drawn[rows]]]),
            _mean(one[rows]),
            len(kept_rows[name]),
        )
        for learner, one in zip(learners, wins, strict=True)
        for name, rows in groups.items()
    ]


def lesson_fits(panel: Panel, unit: str) -> int:
    """How many fits `untouched_scores` and `lessons` make."""
    learners = learners_of(panel, unit)
    # of each learner on everything, on what was kept and on a random subset, and the thirds' judge
    return len(ROTATIONS) * (3 * len(learners) + (_foreigner(panel) not in learners))


def foreign_logits(panel: Panel, part: np.ndarray, untouched: Untouched) -> np.ndarray:
    """[P] the margin of each pair, positive minus negative, by the panel's first judge, fitted on all of other photos.

    It has seen no photo that the learners saw. From the same texts, it would have learnt the same chance habits as they
    did: the learners would seem to know its strong third, even where the texts give nothing away.
    """
    return _asked(untouched[_foreigner(panel)], part, panel.text_pairs, "search", "certify")


def _foreigner(panel: Panel) -> Learner:
    return Learner(panel.judges[0].name, "pair")


def _asked(scores: np.ndarray, part: np.ndarray, text_pairs: TextPairs, trained: str, asked: str) -> np.ndarray:
    """[P] logits of the pairs of the part with role `asked`, by the scores of the part with role `trained`."""
    logits, pair_part = np.zeros(len(text_pairs.pairs)), part[text_pairs.pairs[:, 0]]
    for rotation in ROTATIONS:
        rows = pair_part == getattr(rotation, asked)
        logits[rows] = logits_of(scores[getattr(rotation, trained)], text_pairs)[rows]
    return logits


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def groups_of(text_pairs: TextPairs, foreign: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> its rows among the pairs: all, each negative type, and thirds by a foreign judge's margin."""
    edges = np.quantile(foreign, [1 / 3, 2 / 3])
    third = np.digitize(foreign, edges)
    thirds = {name: np.flatnonzero(third == number) for number, name in enumerate(THIRDS)}
    # where all logits are equal, two thirds are empty
    return type_groups(text_pairs) | {name: rows for name, rows in thirds.items() if len(rows)}


def type_groups(text_pairs: TextPairs) -> dict[str, np.ndarray]:
    """Group -> its rows among the pairs: all, and each negative type."""
    types = sorted({str(name) for name in text_pairs.pair_types})
    groups = {name: np.flatnonzero(text_pairs.pair_types == name) for name in types}
    return {ALL: np.arange(len(text_pairs.pairs))} | groups


def intervals(
    images: np.ndarray, cells: Sequence[tuple[np.ndarray, np.ndarray]], weights: Iterable[np.ndarray]
) -> list[tuple[float, float]]:
    """For each cell the ends of the 95 % percentile interval of its mean, photos drawn with replacement.

    Args:
        images: [P] photo of each pair.
        cells: [P] values in [0, 1], and the rows of the pairs that count.
        weights: for each resample [photos] how often each photo is drawn; see `bias_metrics.image_weights`.

    Returns:
        (0, 1) of nothing: nothing is known of it.
    """
    if not cells:
        return []
    photos = int(images.max()) + 1
    total = np.stack([np.bincount(images[rows], values[rows], minlength=photos) for values, rows in cells])
    count = np.stack([np.bincount(images[rows], minlength=photos) for _, rows in cells]).astype(np.float64)
    # one resample after the other: all of them at once would be a row of a matrix for each photo
    drawn = np.array([(total @ weight[:photos], count @ weight[:photos]) for weight in weights])
    ends = []
    for sums, counts in zip(drawn[:, 0].T, drawn[:, 1].T, strict=True):
        # a resample may draw no photo of a cell
        means = sums[counts > 0] / counts[counts > 0]
        low, high = np.percentile(means, (2.5, 97.5)) if len(means) else (0.0, 1.0)
        ends.append((float(low), float(high)))
    return ends


def kind_of_group(group: str) -> str:
    """ "all", "type" or "third": each has a tolerance of its own."""
    return ALL if group == ALL else "third" if group in THIRDS else "type"


def misses(
    found: Sequence[Lesson], tolerances: Mapping[str, float], slow: Collection[str] = (), slow_tolerance: float = 0.5
) -> Iterator[str]:
    """One line for each interval that does not lie within 0.5, give or take the tolerance of its group.

    Args:
        found: see `lessons`.
        tolerances: "all", "type" and "third" -> in (0, 0.5].
        slow: judges with a tolerance of their own over all pairs, such as a fine-tuned transformer.
        slow_tolerance: that one.
    """
    for one in found:
        kind = kind_of_group(one.group)
        allowed = slow_tolerance if kind == ALL and one.learner.judge in slow else tolerances[kind]
        if not (0.5 - allowed <= one.low and one.high <= 0.5 + allowed):
            said = "teaches" if abs(one.value - 0.5) > allowed else "may teach"
            yield (
                f"{one.group}: what is kept {said} the {one.learner.judge} learner of {one.learner.reads}s "
                f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}], not 0.5 +- {allowed:g}"
            )
