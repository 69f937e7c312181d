"""What training on kept texts teaches: blind learners, trained on what was kept, asked about untouched pairs of other
photos.

Probes inside a kept set cannot tell. A filter that drops by cross-fitted scores makes the folds of what it keeps
anti-correlated: probes fall to 0.5, and below, while what carries over to other photos stays. So the photos are dealt
into three parts before anything is judged. Scores and rule are fitted on one, the strengths of the rule are searched on
the second, and the third certifies. Every part takes each role in turn, so that each pair is asked about once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from negatives.filtering.keep_rules import random_subset
from negatives.filtering.search import texts_and_pairs
from negatives.judging.bias_metrics import ALL, image_weights, paired_wins
from negatives.judging.crossfit import fit_judge
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs, fold_of
from negatives.tables.files import InputError

PARTS = 3
THIRDS = ("weak third", "middle third", "strong third")
"""Groups of pairs by how sure a judge from other photos is of them: a net 0.5 must not be opposite biases."""
READS = {"text": ("text",), "pair": ("pair", "text"), "both": ("pair", "text")}
"""Unit of a filter -> what learners are trained on: single texts, or pairs. All are asked about pairs."""


class Rotation(NamedTuple):
    """Which of the three parts of the photos does what."""

    fit: int
    search: int
    certify: int


ROTATIONS = tuple(Rotation(part, (part + 1) % PARTS, (part + 2) % PARTS) for part in range(PARTS))


class Learner(NamedTuple):
    """A blind learner: a judge by name, trained on single texts ("text") or on pairs ("pair")."""

    judge: str
    reads: str


class Retained(NamedTuple):
    """What is kept of a panel's texts: [U] and [P] bool."""

    texts: np.ndarray
    pairs: np.ndarray


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


def part_of_texts(text_pairs: TextPairs, seed: int | str, *, least: int = 10) -> np.ndarray:
    """[U] the part of each text, that of its photo: 0, 1 or 2, dealt out by a hash of seed and image id.

    Args:
        least: photos with pairs that each part needs.

    Raises:
        InputError: if there are fewer.
    """
    images = np.unique(text_pairs.pair_images)
    if len(images) < PARTS * least:
        raise InputError(
            f"Photos are split three ways before anything is judged, which takes {PARTS * least} photos with pairs or "
            f"more, got {len(images)}. Give more; fewer can be filtered by a given `strength`, and are not certified."
        )
    # photos with pairs apart from the others: a part without pairs could not be asked
    part = np.zeros(len(text_pairs.image_ids), dtype=np.int64)
    others = np.setdiff1d(np.arange(len(part)), images)
    for rows in (images, others):
        names = [text_pairs.image_ids[row] for row in rows]
        if len(names) >= PARTS:
            part[rows] = fold_of(names, PARTS, f"teaching {seed}")
    return part[text_pairs.images]


def learn(panel: Panel, learner: Learner, kept: Retained, seen: np.ndarray) -> np.ndarray:
    """[U] scores by a learner that was trained on what is kept of the seen texts; the difference of two is a logit.

    Args:
        panel: holds the learner's judge, and its features of all texts.
        learner: which.
        kept: of all texts.
        seen: [U] bool, whole photos.

    Raises:
        InputError: if too little of them is kept to learn from.
    """
    judge = next(judge for judge in panel.judges if judge.name == learner.judge)
    text_pairs = panel.text_pairs
    # -1 takes a text out of the fit, and leaves it among those that are asked about
    part = replace(text_pairs, labels=np.where(kept.texts, text_pairs.labels, -1), pairs=text_pairs.pairs[kept.pairs])
    scores = fit_judge(judge, panel.encoded[judge.name], part, learner.reads, seen)(np.arange(len(seen)))
    panel.advance()
    return scores


def logits_of(scores: np.ndarray, text_pairs: TextPairs) -> np.ndarray:
    """[P] logits that the first text of each pair is the positive."""
    first, second = text_pairs.pairs.T
    logits: np.ndarray = scores[first] - scores[second]
    return logits


def everything(text_pairs: TextPairs) -> Retained:
    """All texts and pairs."""
    return Retained(np.ones(len(text_pairs.captions), dtype=bool), np.ones(len(text_pairs.pairs), dtype=bool))


def at_random(text_pairs: TextPairs, kept: Retained, inside: np.ndarray, unit: str, seed: int | str) -> Retained:
    """As many texts of each class, or as many pairs of each type, drawn at random from the same photos.

    Args:
        inside: [U] bool, the texts of the photos that the rule chose from; see `kept_of_part`.
    """
    if unit == "text":
        keys = [text_pairs.key(text) for text in range(len(text_pairs.captions))]
        labels = np.where(inside, text_pairs.labels, -1)
        return Retained(*texts_and_pairs(text_pairs, unit, random_subset(labels, kept.texts, keys, seed)))
    keys = [f"{text_pairs.key(first)}\n{text_pairs.key(second)}" for first, second in text_pairs.pairs]
    types = np.where(inside[text_pairs.pairs[:, 0]], text_pairs.pair_types.astype(str), "")
    return Retained(*texts_and_pairs(text_pairs, unit, random_subset(types, kept.pairs, keys, seed)))


def kept_of_part(text_pairs: TextPairs, keep: np.ndarray, inside: np.ndarray, unit: str) -> Retained:
    """What is kept of all texts, where a rule has chosen among those of one part.

    Args:
        keep: [n] bool: the part's texts (unit text), or its pairs.
        inside: [U] bool, the texts of the part.
    """
    rows = inside if unit == "text" else inside[text_pairs.pairs[:, 0]]
    whole = np.zeros(len(rows), dtype=bool)
    whole[rows] = keep
    return Retained(*texts_and_pairs(text_pairs, unit, whole))


def lessons(
    panel: Panel, kept: Sequence[Retained], part: np.ndarray, *, unit: str, seed: int | str, bootstrap: int = 1000
) -> list[Lesson]:
    """What every learner of a panel has learnt, on each group of pairs, pooled over the rotations.

    Args:
        panel: judges that are the learners, and all texts.
        kept: for each of `ROTATIONS` what the rule kept; only its photos of the part `fit` are trained on.
        part: [U] see `part_of_texts`.
        unit: of the filter, one of `READS`.
        seed: of control and bootstrap.
        bootstrap: resamples of photos behind each interval.

    Raises:
        InputError: if too little is kept to learn from.
    """
    text_pairs = panel.text_pairs
    groups = groups_of(text_pairs, foreign_logits(panel, part))
    weights = list(image_weights(len(text_pairs.image_ids), bootstrap, f"teaching {seed}"))
    controls = [
        at_random(text_pairs, one, part == rotation.fit, unit, f"teaching {seed}")
        for rotation, one in zip(ROTATIONS, kept, strict=True)
    ]
    found = []
    for learner in learners_of(panel, unit):
        wins, control, untouched = (
            paired_wins(asked_logits(panel, learner, one, part)) for one in (kept, controls, None)
        )
        found += [
            Lesson(
                learner,
                name,
                float(wins[rows].mean()),
                *interval(wins[rows], text_pairs.pair_images[rows], weights),
                float(control[rows].mean()),
                float(untouched[rows].mean()),
                len(rows),
            )
            for name, rows in groups.items()
        ]
    return found


def leaks(
    panel: Panel, kept: Sequence[Retained], part: np.ndarray, *, unit: str, seed: int | str, bootstrap: int = 1000
) -> list[Lesson]:
    """What judges of everything on one part of the photos get on what is kept of another, over all and for each type.

    Args:
        panel, kept, part, unit, seed, bootstrap: see `lessons`. `control` is on as much drawn at random, `everything`
            on all pairs.
    """
    text_pairs = panel.text_pairs
    weights = list(image_weights(len(text_pairs.image_ids), bootstrap, f"leaking {seed}"))
    asked, own, drawn = part[text_pairs.pairs[:, 0]], *(np.zeros(len(text_pairs.pairs), dtype=bool) for _ in range(2))
    for rotation, one in zip(ROTATIONS, kept, strict=True):
        rows = asked == rotation.fit
        own[rows] = one.pairs[rows]
        drawn[rows] = at_random(text_pairs, one, part == rotation.fit, unit, f"leaking {seed}").pairs[rows]
    found = []
    for learner in learners_of(panel, unit):
        wins = paired_wins(asked_logits(panel, learner, None, part, trained="certify", asked="fit"))
        for name, rows in type_groups(text_pairs).items():
            kept_rows = rows[own[rows]]
            found.append(
                Lesson(
                    learner,
                    name,
                    _mean(wins[kept_rows]),
                    *interval(wins[kept_rows], text_pairs.pair_images[kept_rows], weights),
                    _mean(wins[rows[drawn[rows]]]),
                    _mean(wins[rows]),
                    len(kept_rows),
                )
            )
    return found


def lesson_fits(panel: Panel, unit: str) -> int:
    """How many fits `lessons` and `leaks` make."""
    # of each learner on what was kept, on a random subset and on everything; then on everything of another part
    return len(ROTATIONS) * (4 * len(learners_of(panel, unit)) + 1)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def learners_of(panel: Panel, unit: str) -> list[Learner]:
    """Each judge of a panel, trained in each way that a unit asks for."""
    return [Learner(judge.name, reads) for judge in panel.judges for reads in READS[unit]]


def asked_logits(
    panel: Panel,
    learner: Learner,
    kept: Sequence[Retained] | None,
    part: np.ndarray,
    *,
    trained: str = "fit",
    asked: str = "certify",
) -> np.ndarray:
    """[P] what a learner says of each pair that has never been part of its training: one rotation asks about each.

    Args:
        panel, learner, part: see `learn` and `part_of_texts`.
        kept: for each of `ROTATIONS` what the learner may be trained on; everything where not given.
        trained, asked: roles of `Rotation`: on which part it is trained, and about which it is asked.
    """
    text_pairs = panel.text_pairs
    logits, pair_part = np.zeros(len(text_pairs.pairs)), part[text_pairs.pairs[:, 0]]
    for rotation, own in zip(ROTATIONS, kept or [everything(text_pairs)] * len(ROTATIONS), strict=True):
        rows = pair_part == getattr(rotation, asked)
        logits[rows] = logits_of(learn(panel, learner, own, part == getattr(rotation, trained)), text_pairs)[rows]
    return logits


def foreign_logits(panel: Panel, part: np.ndarray) -> np.ndarray:
    """[P] how sure a judge of everything on other photos is of each pair, by the first judge of the panel.

    It has seen no photo of the learners': what they learn by chance from the same texts, they would agree on, and be
    right about the strong third of texts that give nothing away.
    """
    return asked_logits(panel, Learner(panel.judges[0].name, "pair"), None, part, trained="search")


def groups_of(text_pairs: TextPairs, foreign: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> its rows among the pairs: all, each negative type, and thirds by a foreign judge's logit."""
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


def interval(wins: np.ndarray, images: np.ndarray, weights: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of a mean, photos drawn with replacement.

    Args:
        wins: [N] in [0, 1].
        images: [N] photo of each.
        weights: resamples, how often each photo is drawn.
    """
    size = len(weights[0]) if weights else 0
    total, count = np.bincount(images, wins, minlength=size), np.bincount(images, minlength=size)
    values = [float(weight @ total / drawn) for weight in weights if (drawn := weight @ count)]
    low, high = np.percentile(values, (2.5, 97.5)) if values else (0.0, 1.0)
    return float(low), float(high)


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
        kind = ALL if one.group == ALL else "third" if one.group in THIRDS else "type"
        allowed = slow_tolerance if kind == ALL and one.learner.judge in slow else tolerances[kind]
        if not (0.5 - allowed <= one.low and one.high <= 0.5 + allowed):
            said = "teaches" if abs(one.value - 0.5) > allowed else "may teach"
            yield (
                f"{one.group}: what is kept {said} the {one.learner.judge} learner of {one.learner.reads}s "
                f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}], not 0.5 +- {allowed:g}"
            )
