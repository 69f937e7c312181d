"""What training on kept texts teaches: blind learners, trained on what was kept, asked about untouched pairs of other
photos.

Probes inside a kept set cannot tell. A filter that drops by cross-fitted scores makes the folds of what it keeps
anti-correlated: probes fall to 0.5, and below, while what carries over to other photos stays. So the photos are dealt
into three parts before anything is judged. Scores and rule are fitted on one, the strengths of the rule are searched on
the second, and the third certifies. Every part takes each role in turn, so that each pair is asked about once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from negatives.filtering.judged import texts_and_pairs
from negatives.filtering.keep_rules import random_subset
from negatives.judging.crossfit import fit_judge
from negatives.judging.panel import Panel
from negatives.judging.text_pairs import TextPairs, fold_of
from negatives.tables.files import InputError

PARTS = 3
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


def learn(
    panel: Panel, learner: Learner, kept: Retained, seen: np.ndarray, asked: np.ndarray | None = None
) -> np.ndarray:
    """[U] scores by a learner that was trained on what is kept of the seen texts; the difference of two is a logit.

    Args:
        panel: holds the learner's judge, and its features of all texts.
        learner: which.
        kept: of all texts.
        seen: [U] bool, whole photos.
        asked: [U] bool, the texts to score; the others have 0. All where not given.

    Raises:
        InputError: if too little of them is kept to learn from.
    """
    judge = next(judge for judge in panel.judges if judge.name == learner.judge)
    text_pairs = panel.text_pairs
    # -1 takes a text out of the fit, and leaves it among those that are asked about
    part = replace(text_pairs, labels=np.where(kept.texts, text_pairs.labels, -1), pairs=text_pairs.pairs[kept.pairs])
    rows = np.arange(len(seen)) if asked is None else np.flatnonzero(asked)
    scores = np.zeros(len(seen))
    scores[rows] = fit_judge(judge, panel.encoded[judge.name], part, learner.reads, seen)(rows)
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
    # of each class, or type, as many: a control differs from what was kept in nothing but the choice
    if unit == "text":
        groups, keep, rows = text_pairs.labels, kept.texts, np.flatnonzero(inside)
        keys = [text_pairs.key(text) for text in rows.tolist()]
    else:
        groups, keep = text_pairs.pair_types.astype(str), kept.pairs
        rows = np.flatnonzero(inside[text_pairs.pairs[:, 0]])
        keys = [f"{text_pairs.key(first)}\n{text_pairs.key(second)}" for first, second in text_pairs.pairs[rows]]
    drawn = np.zeros(len(keep), dtype=bool)
    drawn[rows] = random_subset(groups[rows], keep[rows], keys, seed)
    return Retained(*texts_and_pairs(text_pairs, unit, drawn))


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


def learners_of(panel: Panel, unit: str) -> list[Learner]:
    """Each judge of a panel, trained in each way that a unit asks for."""
    return [Learner(judge.name, reads) for judge in panel.judges for reads in READS[unit]]


def asked_logits(panel: Panel, learner: Learner, kept: Sequence[Retained], part: np.ndarray) -> np.ndarray:
    """[P] what a learner says of each pair that has never been part of its training: one rotation asks about each.

    Args:
        panel, learner, part: see `learn` and `part_of_texts`.
        kept: for each of `ROTATIONS` what the learner may be trained on.
    """
    text_pairs = panel.text_pairs
    logits, pair_part = np.zeros(len(text_pairs.pairs)), part[text_pairs.pairs[:, 0]]
    for rotation, own in zip(ROTATIONS, kept, strict=True):
        scores = learn(panel, learner, own, part == rotation.fit, part == rotation.certify)
        rows = pair_part == rotation.certify
        logits[rows] = logits_of(scores, text_pairs)[rows]
    return logits
